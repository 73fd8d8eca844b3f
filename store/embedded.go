package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/overspan/overspan"
)

const (
	// readyTimeout bounds the start of the embedded server: an election among
	// one, after the replay of what is on disk.
	readyTimeout = time.Minute

	// keptHistory is how long old revisions are kept. Watches that were cut
	// off for longer list anew.
	keptHistory = "1h"

	// quota is the size of the database at which etcd stops taking writes.
	// 100,000 endpoints and an hour of their history need about a tenth.
	quota = 4 << 30

	// noPeer is the peer address of a server that has no peers and listens
	// for none; etcd wants one in its member list.
	noPeer = "http://localhost:2380"
)

// EmbeddedVersion returns the embedded server's version.
func EmbeddedVersion() string { return version.Version }

// EmbeddedConfig describes the etcd server inside an agent.
type EmbeddedConfig struct {
	Dir  string // for its data; made if need be
	Name string // of the member

	ClientURLs          []string // it listens there: http://…, https://…, unix://…
	AdvertiseClientURLs []string // what it tells clients of itself; empty: ClientURLs
	PeerURL             string   // empty: it has no peers and listens for none

	// Files in PEM, for https:// client URLs. With CA every client must show a
	// certificate of that authority.
	CA, Cert, Key string

	Log *slog.Logger // nil: silent
}

// Embedded is an etcd server inside this process, the only member of its cluster.
type Embedded struct {
	etcd      *embed.Etcd
	endpoints []string
}

// StartEmbedded starts the server and waits until it serves. Each fresh data
// directory makes a cluster with an id of its own.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Embedded, error) {
	conf, err := cfg.embed()
	if err != nil {
		return nil, err
	}
	return cfg.start(ctx, conf)
}

func (cfg EmbeddedConfig) start(ctx context.Context, conf *embed.Config) (*Embedded, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd data directory: %w", err)
	}
	if err := checkUnlocked(cfg.Dir); err != nil {
		return nil, err
	}
	etcd, err := embed.StartEtcd(conf)
	if err != nil {
		return nil, cfg.startFault(err)
	}
	s := &Embedded{etcd: etcd, endpoints: cfg.advertised()}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case <-etcd.Server.ReadyNotify():
		return s, nil
	case err = <-etcd.Err():
	case <-etcd.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	return nil, fmt.Errorf("start embedded etcd: wait until it serves: %w", err)
}

// KV returns a store on this server that needs no connection.
func (s *Embedded) KV() *Etcd { return NewEtcd(v3client.New(s.etcd.Server), s.endpoints) }

// Endpoints returns the URLs under which other nodes reach the server.
func (s *Embedded) Endpoints() []string { return slices.Clone(s.endpoints) }

// Close stops the server and waits until it has stopped. Stores on it must be
// closed before.
func (s *Embedded) Close() {
	s.etcd.Close()
	<-s.etcd.Server.StopNotify()
}

func (cfg EmbeddedConfig) advertised() []string {
	if len(cfg.AdvertiseClientURLs) > 0 {
		return slices.Clone(cfg.AdvertiseClientURLs)
	}
	return slices.Clone(cfg.ClientURLs)
}

// embed puts the configuration into etcd's form.
func (cfg EmbeddedConfig) embed() (*embed.Config, error) {
	if cfg.Dir == "" || cfg.Name == "" || len(cfg.ClientURLs) == 0 {
		return nil, overspan.Errorf(overspan.ErrInvalid, "embedded etcd: a data directory, a name and a client URL are needed")
	}
	conf := embed.NewConfig()
	conf.Dir, conf.Name = cfg.Dir, cfg.Name
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(cfg.Log, slog.LevelError))
	conf.AutoCompactionMode, conf.AutoCompactionRetention = embed.CompactorModePeriodic, keptHistory
	conf.QuotaBackendBytes = quota
	conf.EnableGRPCGateway = false
	conf.InitialClusterToken = overspan.NewID() // only a fresh directory takes it
	if cfg.Cert != "" || cfg.Key != "" {
		conf.ClientTLSInfo = transport.TLSInfo{
			CertFile: cfg.Cert, KeyFile: cfg.Key, TrustedCAFile: cfg.CA, ClientCertAuth: cfg.CA != "",
		}
	}
	var err error
	if conf.ListenClientUrls, err = parseURLs(cfg.ClientURLs); err != nil {
		return nil, err
	}
	if conf.AdvertiseClientUrls, err = parseURLs(cfg.advertised()); err != nil {
		return nil, err
	}
	conf.ListenPeerUrls = nil
	peer := noPeer
	if cfg.PeerURL != "" {
		peer = cfg.PeerURL
	}
	if conf.AdvertisePeerUrls, err = parseURLs([]string{peer}); err != nil {
		return nil, err
	}
	if cfg.PeerURL != "" {
		conf.ListenPeerUrls = conf.AdvertisePeerUrls
	}
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	return conf, nil
}

func parseURLs(in []string) ([]url.URL, error) {
	out := make([]url.URL, 0, len(in))
	for _, s := range in {
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" {
			return nil, overspan.Errorf(overspan.ErrInvalid, "embedded etcd: invalid URL %q: want one such as http://10.0.0.1:2379", s)
		}
		out = append(out, *u)
	}
	return out, nil
}

// checkUnlocked finds out whether another etcd uses the directory, which etcd
// itself would wait for without an end. Its database is locked by flock(2).
func checkUnlocked(dir string) error {
	db, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open etcd data: %w", err)
	}
	defer db.Close() // gives the lock back
	if err := unix.Flock(int(db.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return overspan.Errorf(overspan.ErrInUse, "etcd data directory %s is in use by another etcd or agent: %w", dir, err)
	}
	return nil
}

func (cfg EmbeddedConfig) startFault(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		urls := cfg.ClientURLs
		if cfg.PeerURL != "" {
			urls = append(slices.Clone(urls), cfg.PeerURL)
		}
		return overspan.Errorf(overspan.ErrInUse, "embedded etcd cannot listen on %s: another process has the port: %w", strings.Join(urls, ","), err)
	}
	return fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
}
