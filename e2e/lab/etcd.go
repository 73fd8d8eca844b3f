package lab

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Etcd is the lab's etcd: a cluster of servers, each on a host of its own, or
// the one inside the agent of the first node. What is asked of it happens to
// all of its members; they can be had one by one as well.
type Etcd struct {
	URL     string // as agents are told: of all members, separated by commas
	Members []*Member

	quota   int64  // of the database in bytes; 0: etcd's default
	part    string // program that plays the servers; empty: this one
	lives   int    // how often Replace was called
	ballast int    // values that Fill has written
	client  *clientv3.Client
}

// Start starts the members that do not run, each on the data that it had, and
// waits until they serve.
func (e *Etcd) Start(ctx context.Context) error {
	return e.each(func(m *Member) error { return m.Start(ctx) })
}

// Stop ends the servers and keeps their data.
func (e *Etcd) Stop(ctx context.Context) error {
	return e.each(func(m *Member) error { return m.Stop(ctx) })
}

// Kill ends the servers with no time for anything.
func (e *Etcd) Kill(ctx context.Context) error {
	return e.each(func(m *Member) error { return m.Kill(ctx) })
}

// Pause stops the servers in their tracks: connections stay, nothing is answered.
func (e *Etcd) Pause() error { return e.each((*Member).Pause) }

// Resume lets paused servers go on.
func (e *Etcd) Resume() error { return e.each((*Member).Resume) }

// Cut drops all packets to and from the servers, without a word to anybody.
func (e *Etcd) Cut(ctx context.Context) error {
	return e.each(func(m *Member) error { return m.Cut(ctx) })
}

// Heal lets packets pass again.
func (e *Etcd) Heal(ctx context.Context) error {
	return e.each(func(m *Member) error { return m.Heal(ctx) })
}

// each does something to all members at once: they wait for one another.
func (e *Etcd) each(do func(*Member) error) error {
	var all errgroup.Group
	for _, m := range e.Members {
		all.Go(func() error { return do(m) })
	}
	return all.Wait()
}

// Client returns a client of all members, whose connections start on the
// members' own hosts.
func (e *Etcd) Client() (*clientv3.Client, error) {
	if e.client != nil {
		return e.client, nil
	}
	client, err := e.open(strings.Split(e.URL, ",")...)
	if err == nil {
		e.client = client
	}
	return client, err
}

// open opens a client of some members.
func (e *Etcd) open(urls ...string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: urls,
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(e.dial),
			// A lab looks at once at a server that is back.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
				MinConnectTimeout: time.Second,
			}),
		},
		Logger: zap.NewNop(), // a server that is away is what labs are for
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd client: %w", err)
	}
	return client, nil
}

// dial connects to a member on that member's host, so that a lab can ask even
// those that nobody else reaches.
func (e *Etcd) dial(ctx context.Context, addr string) (conn net.Conn, err error) {
	at := slices.IndexFunc(e.Members, func(m *Member) bool { return strings.HasSuffix(m.URL, "//"+addr) })
	if at < 0 {
		return nil, fmt.Errorf("no member of etcd listens at %s", addr)
	}
	// Everything of the call happens on this thread, as addr is no name.
	inside := e.Members[at].Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", addr)
		return err
	})
	return conn, inside
}

// able returns the members that can answer.
func (e *Etcd) able() []*Member {
	var out []*Member
	for _, m := range e.Members {
		if m.able() {
			out = append(out, m)
		}
	}
	return out
}

// askWithin bounds a question to etcd.
const askWithin = 5 * time.Second

// Dump returns all keys below a prefix and their values.
func (e *Etcd) Dump(ctx context.Context, prefix string) (map[string]string, error) {
	ctx, cancel := WithTimeout(ctx, askWithin)
	defer cancel()
	client, err := e.ableClient()
	if err != nil {
		return nil, err
	}
	res, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read etcd keys below %s: %w", prefix, err)
	}
	out := map[string]string{}
	for _, kv := range res.Kvs {
		out[string(kv.Key)] = string(kv.Value)
	}
	return out, nil
}

// ableClient returns a client of one member that can answer. Where none can,
// it is a client of all, and the caller's question says what is wrong.
func (e *Etcd) ableClient() (*clientv3.Client, error) {
	if able := e.able(); len(able) > 0 {
		return able[0].Client()
	}
	return e.Client()
}

// close ends clients and servers.
func (e *Etcd) close(ctx context.Context) error {
	if e.client != nil {
		e.client.Close()
		e.client = nil
	}
	return e.each(func(m *Member) error { return m.close(ctx) })
}
