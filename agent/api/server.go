package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// stopBound is how long calls under way may take to end after the server was
// told to stop.
const stopBound = 3 * time.Second

// Config says where the API listens and who may use it.
type Config struct {
	Listen []string // unix:///path, tcp://host:port
	Group  string   // may use the unix sockets besides root; "" for nobody
	TLS    TLSFiles // of the TCP listeners, and for asking other agents

	// Dial connects to another node's agent. Nil dials its underlay address
	// at the port of the first TCP listener, with the files of TLS.
	Dial DialFunc
}

// Server serves the API of one daemon.
type Server struct {
	grpc *grpc.Server

	// stopping closes when the server is told to stop: streams end then.
	stopping chan struct{}
}

// New makes a server of every service. It serves nothing yet.
func New(d Daemon, cfg Config, log *slog.Logger) *Server {
	s := &Server{
		grpc: grpc.NewServer(
			grpc.ChainUnaryInterceptor(logUnary(log), translateUnary, recoverUnary(log)),
			grpc.ChainStreamInterceptor(logStream(log), translateStream, recoverStream(log)),
		),
		stopping: make(chan struct{}),
	}
	if cfg.Dial == nil {
		cfg.Dial = dialPeers(cfg.Listen, cfg.TLS)
	}
	reads := &reader{cluster: d, attachments: d.Attachments}
	overspanv1.RegisterNetworkServiceServer(s.grpc, &networkService{reader: reads, networks: d})
	overspanv1.RegisterEndpointServiceServer(s.grpc, &endpointService{reader: reads})
	overspanv1.RegisterNodeServiceServer(s.grpc, &nodeService{reader: reads, nodes: d})
	overspanv1.RegisterSandboxServiceServer(s.grpc, &sandboxService{reader: reads, sandboxes: d})
	overspanv1.RegisterSystemServiceServer(s.grpc, &systemService{
		reader:   reads,
		system:   d,
		dial:     cfg.Dial,
		stopping: s.stopping,
	})
	return s
}

// Serve answers on all listeners until ctx ends, then lets the calls under way
// finish, bounded. It closes the listeners.
func (s *Server) Serve(ctx context.Context, listeners []net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
				return err
			}
			return nil // ctx ended before it began
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		close(s.stopping)
		timer := time.AfterFunc(stopBound, s.grpc.Stop)
		defer timer.Stop()
		s.grpc.GracefulStop()
		return nil
	})
	return g.Wait()
}
