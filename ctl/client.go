package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// tlsFiles are PEM files for an agent that is reached by TCP.
type tlsFiles struct {
	ca, cert, key string
}

// A client is the connection to the agent. It is made by the first call.
type client struct {
	host    string
	tls     tlsFiles
	timeout time.Duration
	stderr  io.Writer

	conn *grpc.ClientConn

	mu      sync.Mutex // guards dialErr
	dialErr error      // of the last attempt; nil if it went well
}

func (a *app) networks() (overspanv1.NetworkServiceClient, error) {
	return service(&a.client, overspanv1.NewNetworkServiceClient)
}

func (a *app) endpoints() (overspanv1.EndpointServiceClient, error) {
	return service(&a.client, overspanv1.NewEndpointServiceClient)
}

func (a *app) nodes() (overspanv1.NodeServiceClient, error) {
	return service(&a.client, overspanv1.NewNodeServiceClient)
}

func (a *app) sandboxes() (overspanv1.SandboxServiceClient, error) {
	return service(&a.client, overspanv1.NewSandboxServiceClient)
}

func (a *app) system() (overspanv1.SystemServiceClient, error) {
	return service(&a.client, overspanv1.NewSystemServiceClient)
}

func service[T any](c *client, of func(grpc.ClientConnInterface) T) (T, error) {
	if err := c.connect(); err != nil {
		var none T
		return none, err
	}
	return of(c.conn), nil
}

// answerMost is the largest answer that is taken, in bytes: a list of some hundred
// thousand endpoints. gRPC's own bound is 4 MiB, some thousands of them.
const answerMost = 256 << 20

// connect prepares the connection; nothing is sent before the first call.
func (c *client) connect() error {
	if c.conn != nil {
		return nil
	}
	network, address, err := parseHost(c.host)
	if err != nil {
		return err
	}
	creds := insecure.NewCredentials()
	if network == "tcp" && c.tls != (tlsFiles{}) {
		config, err := c.tls.config()
		if err != nil {
			return err
		}
		creds = credentials.NewTLS(config)
	}
	c.conn, err = grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			c.mu.Lock()
			c.dialErr = err
			c.mu.Unlock()
			return conn, err
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerMost)),
		grpc.WithUnaryInterceptor(c.unary),
		grpc.WithStreamInterceptor(c.stream),
	)
	return err
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}

// parseHost takes unix:///path or tcp://host:port apart.
func parseHost(host string) (network, address string, err error) {
	network, address, _ = strings.Cut(host, "://")
	switch {
	case network == "unix" && strings.HasPrefix(address, "/"):
		return network, address, nil
	case network == "tcp" && strings.Contains(address, ":"):
		return network, address, nil
	}
	return "", "", usagef("invalid agent address %q: want unix:///path or tcp://host:port", host)
}

func (f tlsFiles) config() (*tls.Config, error) {
	if f.ca == "" || f.cert == "" || f.key == "" {
		return nil, usagef("tcp:// with TLS needs all of --tls-ca, --tls-cert and --tls-key")
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s and key %s: %w", f.cert, f.key, err)
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load CA %s: no PEM certificate in it", f.ca)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool}, nil
}

// unary bounds a call, gives its error a class, and says on stderr if the
// answer may be out of date.
func (c *client) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var from peer.Peer
	var trailer metadata.MD
	if err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Peer(&from), grpc.Trailer(&trailer))...); err != nil {
		if status.Code(err) == codes.Unavailable && from.Addr != nil && len(trailer) == 0 {
			return c.broken(err)
		}
		return c.explain(err, from.Addr != nil)
	}
	if _, status := reply.(*overspanv1.StatusResponse); status {
		return nil // tells by itself
	}
	if answer, ok := reply.(interface {
		GetStale() *overspanv1.Staleness
	}); ok && answer.GetStale() != nil {
		s := answer.GetStale()
		fmt.Fprintf(c.stderr, "warning: what is shown is stale since %s: %s\n",
			s.GetSince().AsTime().Local().Format(time.RFC3339), s.GetReason())
	}
	return nil
}

// stream gives the error of opening a stream a class. What comes later out of
// it is left to explain.
func (c *client) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, c.explain(err, false)
	}
	return s, nil
}

// broken tells of a call to which the agent gave no answer, not even an error:
// an answer has a trailer.
func (c *client) broken(err error) error {
	return overspan.Errorf(overspan.ErrUnavailable,
		"the agent at %s ended during the call (%w); what was asked for may be done or not: look before you try again", c.host, overspanv1.FromStatus(err))
}

// explain turns the error of a call into one for the user. Reached says that
// the call got through to the agent, so that the error is what the agent says.
func (c *client) explain(err error, reached bool) error {
	translated := overspanv1.FromStatus(err)
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded:
		return overspan.Errorf(overspan.ErrUnavailable, "the agent at %s did not answer within %s; try again, or give it longer with --timeout", c.host, c.timeout)
	case code != codes.Unavailable || reached:
		return translated
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cause, hint := c.dialErr, "is it running? Name another with --host or OVERSPAN_HOST"
	switch {
	case cause == nil && strings.HasPrefix(c.host, "unix://"):
		cause = translated // such as that it ended between accepting the connection and the call
	case cause == nil:
		cause = translated
		hint = "the agent's TCP socket takes only clients with a certificate of its CA: see --tls-ca, --tls-cert and --tls-key"
	case errors.Is(cause, os.ErrPermission):
		hint = "be root, or a member of the socket's group"
	}
	return overspan.Errorf(overspan.ErrUnavailable, "cannot reach the agent at %s: %w; %s", c.host, cause, hint)
}
