package api_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// callBound is how long any call of a test may take.
const callBound = 20 * time.Second

// serve runs a server on the configuration's listeners until the test ends,
// and returns their addresses.
func serve(t *testing.T, d api.Daemon, cfg api.Config) []net.Addr {
	t.Helper()
	listeners, err := api.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(d, cfg, slog.New(slog.DiscardHandler)).Serve(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	var out []net.Addr
	for _, l := range listeners {
		out = append(out, l.Addr())
	}
	return out
}

// dial connects to an address, without TLS if creds is nil.
func dial(t *testing.T, addr net.Addr, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	target := "passthrough:///" + addr.String()
	if addr.Network() == "unix" {
		target = "unix://" + addr.String()
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(ctx, callBound)
			defer cancel()
			return overspanv1.FromStatus(invoke(ctx, method, req, reply, cc, opts...))
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// clients are the services of one agent. Their errors have a class.
type clients struct {
	conn      *grpc.ClientConn
	networks  overspanv1.NetworkServiceClient
	endpoints overspanv1.EndpointServiceClient
	nodes     overspanv1.NodeServiceClient
	sandboxes overspanv1.SandboxServiceClient
	system    overspanv1.SystemServiceClient
}

// start serves a fresh daemon on a unix socket.
func start(t *testing.T) (*apitest.Daemon, clients) {
	t.Helper()
	d := apitest.New()
	addrs := serve(t, d, api.Config{Listen: []string{"unix://" + filepath.Join(t.TempDir(), "agent.sock")}})
	conn := dial(t, addrs[0], nil)
	return d, clients{
		conn:      conn,
		networks:  overspanv1.NewNetworkServiceClient(conn),
		endpoints: overspanv1.NewEndpointServiceClient(conn),
		nodes:     overspanv1.NewNodeServiceClient(conn),
		sandboxes: overspanv1.NewSandboxServiceClient(conn),
		system:    overspanv1.NewSystemServiceClient(conn),
	}
}

// must returns the value of a call that must succeed.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// plug makes a network and a sandbox connected to it.
func (c clients) plug(t *testing.T, network, sandbox string) (*overspanv1.Network, *overspanv1.EndpointView) {
	t.Helper()
	created, err := c.networks.CreateNetwork(t.Context(), &overspanv1.CreateNetworkRequest{Name: network, Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.sandboxes.CreateSandbox(t.Context(), &overspanv1.CreateSandboxRequest{Name: sandbox}); err != nil {
		t.Fatal(err)
	}
	connected, err := c.networks.Connect(t.Context(), &overspanv1.ConnectRequest{Network: network, Target: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	return created.GetNetwork(), connected.GetEndpoint()
}
