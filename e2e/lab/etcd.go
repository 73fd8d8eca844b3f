package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Etcd is the lab's etcd: a server on a host of its own, or the one inside the
// agent of the first node.
type Etcd struct {
	URL string // as agents are told

	host   *Host // where it runs
	log    *os.File
	server *Process // nil while stopped, and where an agent runs it
	client *clientv3.Client
}

// Start starts the server, on the data that it had, and waits until it serves.
func (e *Etcd) Start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, filepath.Join(e.host.Dir, "data"), e.URL)
	cmd.Env = append(os.Environ(), roleVar+"="+roleEtcd)
	cmd.Stderr = e.log
	if e.server, err = spawnReady(ctx, cmd, e.host.enter); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	return nil
}

// Stop ends the server and keeps its data.
func (e *Etcd) Stop(ctx context.Context) error { return e.end(ctx, syscall.SIGTERM) }

// Kill ends the server with no time for anything.
func (e *Etcd) Kill(ctx context.Context) error { return e.end(ctx, syscall.SIGKILL) }

func (e *Etcd) end(ctx context.Context, sig os.Signal) error {
	if e.server == nil {
		return nil
	}
	err := e.server.Stop(ctx, sig)
	e.server = nil
	return err
}

// Pause stops the server in its tracks: connections stay, nothing is answered.
func (e *Etcd) Pause() error { return e.server.Pause() }

// Resume lets a paused server go on.
func (e *Etcd) Resume() error { return e.server.Resume() }

// Client returns a client whose connections start on the server's host.
func (e *Etcd) Client() (*clientv3.Client, error) {
	if e.client != nil {
		return e.client, nil
	}
	dial := func(ctx context.Context, addr string) (conn net.Conn, err error) {
		// Everything of the call happens on this thread, as addr is no name.
		inside := e.host.Do(func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, "tcp", addr)
			return err
		})
		return conn, inside
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{e.URL},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
		Logger:      zap.NewNop(), // a server that is away is what labs are for
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd client: %w", err)
	}
	e.client = client
	return client, nil
}

// Dump returns all keys below a prefix and their values.
func (e *Etcd) Dump(ctx context.Context, prefix string) (map[string]string, error) {
	client, err := e.Client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
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

// close ends client and server.
func (e *Etcd) close(ctx context.Context) error {
	if e.client != nil {
		e.client.Close()
		e.client = nil
	}
	err := e.end(ctx, syscall.SIGTERM)
	if e.log != nil {
		e.log.Close()
	}
	return err
}

// etcdURL returns the client URL of an etcd server on a host.
func etcdURL(addr netip.Addr) string {
	return "http://" + netip.AddrPortFrom(addr, 2379).String()
}
