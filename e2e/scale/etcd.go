package scale

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/overspan/overspan/store"
)

// What tells a copy of this program that it is the etcd server: its data
// directory and its URL.
const (
	dirVar = "OVERSPAN_SCALE_ETCD_DIR"
	urlVar = "OVERSPAN_SCALE_ETCD_URL"
)

// ready is what the server prints once it serves.
const ready = "ready\n"

// RunServer must be the first thing that a program does that calls StartServer,
// in main or TestMain: in the copy that StartServer has started it serves etcd,
// until its input ends, and ends the process.
func RunServer() {
	dir, url := os.Getenv(dirVar), os.Getenv(urlVar)
	if dir == "" {
		return
	}
	if err := serve(dir, url); err != nil {
		fmt.Fprintln(os.Stderr, "scale: etcd:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(dir, url string) error {
	s, err := store.StartEmbedded(context.Background(), store.EmbeddedConfig{Dir: dir, Name: "scale", ClientURLs: []string{url}})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := os.Stdout.WriteString(ready); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A Server is etcd, as agents embed it, in a process of its own. It ends with
// this one at the latest.
type Server struct {
	URL string

	cmd   *exec.Cmd
	stdin io.Closer
}

// StartServer starts etcd on a data directory and waits until it serves.
func StartServer(dir string) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	url, err := freeURL()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), dirVar+"="+dir, urlVar+"="+url)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	s := &Server{URL: url, cmd: cmd, stdin: stdin}
	if _, err := io.ReadFull(stdout, make([]byte, len(ready))); err != nil {
		return nil, fmt.Errorf("start etcd: it ended: %w, %w", err, s.Close())
	}
	return s, nil
}

// freeURL returns a URL at a port that nobody used a moment ago.
func freeURL() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return "http://" + l.Addr().String(), nil
}

// Dial returns a client of the server. It is patient: that an answer waits for
// one of the few processors that all agents of this process share does not mean
// that etcd is away.
func (s *Server) Dial() (*store.Etcd, error) {
	return store.Dial(store.DialConfig{Endpoints: []string{s.URL}, CallTimeout: time.Minute})
}

// Close ends the server and waits for that.
func (s *Server) Close() error {
	s.stdin.Close()
	return s.cmd.Wait()
}

// Counters are etcd's own, by the text of the series: name{label="value",…}.
type Counters map[string]float64

// Counters reads the server's metrics.
func (s *Server) Counters(ctx context.Context) (Counters, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read etcd's counters: %w", err)
	}
	defer resp.Body.Close()
	out := Counters{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text())
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = n
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read etcd's counters: %w", err)
	}
	return out, nil
}

func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// Since returns by how much the counters have grown.
func (c Counters) Since(before Counters) Counters {
	out := make(Counters, len(c))
	for name, n := range c {
		out[name] = n - before[name]
	}
	return out
}

// sum adds up all series of a name, or those of one gRPC method.
func (c Counters) sum(name, method string) (n float64) {
	for series, v := range c {
		base, labels, _ := strings.Cut(series, "{")
		if base == name && (method == "" || strings.Contains(labels, `grpc_method="`+method+`"`)) {
			n += v
		}
	}
	return n
}

// Requests returns how many calls of a gRPC method were answered; of all
// methods if it is "".
func (c Counters) Requests(method string) float64 { return c.sum("grpc_server_handled_total", method) }

// Writes returns how many keys were put or deleted.
func (c Counters) Writes() float64 {
	return c.sum("etcd_mvcc_put_total", "") + c.sum("etcd_mvcc_delete_total", "")
}

// Events returns how many changes of keys were sent to watches.
func (c Counters) Events() float64 { return c.sum("etcd_debugging_mvcc_events_total", "") }

// Responses returns how many messages watches were sent.
func (c Counters) Responses() float64 { return c.sum("grpc_server_msg_sent_total", "Watch") }

// CPU returns the processor time that the server used, in seconds.
func (c Counters) CPU() float64 { return c.sum("process_cpu_seconds_total", "") }
