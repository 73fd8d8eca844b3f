package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan"
)

// How the client behaves, see the measurements in the design.
const (
	// callTimeout bounds each call, unless DialConfig says more: a user hears
	// within 5 s that etcd is away.
	callTimeout = 4 * time.Second
	// patience is how long one member is waited for by what only reads, where
	// there are others to ask.
	patience = time.Second
	// dialTimeout bounds what clientv3 does on its own: authenticate.
	dialTimeout = 3 * time.Second

	// A hung server is found out after 13 s. etcd refuses pings more often
	// than every 5 s.
	pingTime    = 10 * time.Second
	pingTimeout = 3 * time.Second

	// maxSend is above etcd's own limit of 1.5 MiB, so that it is the server
	// who refuses a request and names its limit.
	maxSend = 4 << 20
)

// DialConfig says how to reach an etcd cluster.
type DialConfig struct {
	Endpoints []string // URLs: http://…, https://…, unix://…

	// Files in PEM. CA verifies the servers (the system's roots do if it is
	// empty); Cert and Key are shown to them and read anew for each connection.
	CA, Cert, Key string

	User, Password string

	CallTimeout time.Duration // bounds each call; 0: 4 seconds

	Log *slog.Logger // nil: silent
}

// Dial returns a client. It does not connect: it refuses only what can never
// work, so that an agent can start while etcd is away.
func Dial(cfg DialConfig) (*Etcd, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, overspan.Errorf(overspan.ErrInvalid, "no etcd endpoint given")
	}
	conf, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	e := newEtcd(cfg.Endpoints, func(ctx context.Context) (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{
			Endpoints:            slices.Clone(cfg.Endpoints),
			TLS:                  conf,
			Username:             cfg.User,
			Password:             cfg.Password,
			DialTimeout:          dialTimeout,
			DialKeepAliveTime:    pingTime,
			DialKeepAliveTimeout: pingTimeout,
			MaxCallSendMsgSize:   maxSend,
			Logger:               zapTo(cfg.Log, slog.LevelDebug), // its errors are told to whoever asked
			Context:              ctx,
			DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay:  100 * time.Millisecond,
					Multiplier: 1.6,
					Jitter:     0.2,
					MaxDelay:   2 * time.Second,
				},
				MinConnectTimeout: dialTimeout,
			})},
		})
	})
	e.timeout = cmp.Or(cfg.CallTimeout, callTimeout)
	return e, nil
}

// tls returns nil if the configuration has nothing of TLS in it.
func (c DialConfig) tls() (*tls.Config, error) {
	https := func(url string) bool { return strings.HasPrefix(url, "https://") || strings.HasPrefix(url, "unixs://") }
	if c.CA == "" && c.Cert == "" && c.Key == "" && !slices.ContainsFunc(c.Endpoints, https) {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, overspan.Errorf(overspan.ErrInvalid, "read etcd CA: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, overspan.Errorf(overspan.ErrInvalid, "etcd CA %s holds no certificate in PEM", c.CA)
		}
	}
	if c.Cert == "" && c.Key == "" {
		return conf, nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		return &cert, err
	}
	if _, err := load(); err != nil {
		return nil, overspan.Errorf(overspan.ErrInvalid, "read etcd client certificate: %w", err)
	}
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return conf, nil
}

// connect returns the client, and makes it at the first call. With a user and a
// password that takes a server that answers within dialTimeout. It checks ctx
// itself, since a client in process does not.
func (e *Etcd) connect(ctx context.Context) (*clientv3.Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	if e.ctx.Err() != nil {
		return nil, errClosed
	}
	if time.Now().Before(e.redialAt) {
		return nil, e.dialErr
	}
	client, err := e.dial(e.ctx)
	if err != nil {
		e.dialErr, e.redialAt = err, time.Now().Add(redialPause)
		return nil, err
	}
	e.client = client
	return client, nil
}

var errClosed = errors.New("client is closed")
