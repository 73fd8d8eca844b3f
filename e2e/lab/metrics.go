package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// metricsAddr is where the lab's agents serve their metrics, each on its host.
const metricsAddr = "127.0.0.1:9469"

// Metrics reads the agent's metrics: values by name with labels, as they are
// served.
func (n *Node) Metrics(ctx context.Context) (map[string]float64, error) {
	out, err := n.metrics(ctx, "http://"+metricsAddr)
	if err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", n.Name, err)
	}
	return out, nil
}

// Requests returns how many calls each member that can answer has had since it
// started, by the member's name.
func (e *Etcd) Requests(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	for _, m := range e.able() {
		n, err := m.requests(ctx)
		if err != nil {
			return nil, err
		}
		out[m.Name] = n
	}
	return out, nil
}

// soonEnough bounds a question to a member that may not be able to answer.
const soonEnough = 500 * time.Millisecond

// Answered returns the same of the members that do answer soon, whatever is being
// done to the others meanwhile: it may be called while members start and end.
func (e *Etcd) Answered(ctx context.Context) map[string]int {
	ctx, cancel := WithTimeout(ctx, soonEnough)
	defer cancel()
	counts := make([]int, len(e.Members))
	errs := make([]error, len(e.Members))
	var all sync.WaitGroup
	for i, m := range e.Members {
		all.Go(func() { counts[i], errs[i] = m.requests(ctx) })
	}
	all.Wait()
	out := map[string]int{}
	for i, m := range e.Members {
		if errs[i] == nil {
			out[m.Name] = counts[i]
		}
	}
	return out
}

// requests returns how many calls the member has had since it started.
func (m *Member) requests(ctx context.Context) (int, error) {
	metrics, err := m.metrics(ctx, m.URL)
	if err != nil {
		return 0, fmt.Errorf("read the metrics of %s: %w", m.Name, err)
	}
	sum := 0
	for name, value := range metrics {
		if strings.HasPrefix(name, "grpc_server_started_total{") {
			sum += int(value)
		}
	}
	return sum, nil
}

// metrics reads what a program on the host serves.
func (h *Host) metrics(ctx context.Context, url string) (map[string]float64, error) {
	ctx, cancel := WithTimeout(ctx, askWithin)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = h.Do(func() error {
				var d net.Dialer
				conn, err = d.DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(raw)) {
		name, text, found := cutLast(strings.TrimSpace(line), " ")
		if !found || strings.HasPrefix(line, "#") {
			continue
		}
		if out[name], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("%w in %q", err, line)
		}
	}
	return out, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
