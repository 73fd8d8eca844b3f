package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/agent/dns"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// serve builds the parts of the agent, lets them run until ctx ends, and takes
// them down in the opposite order.
func serve(ctx context.Context, c *config, log *slog.Logger) (err error) {
	if err := checkPrivilege(); err != nil {
		return err
	}
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	host, err := kernel.NewHost(kernel.HostConfig{
		NetnsDir:   filepath.Join(c.RunDir, "netns"),
		NoPrograms: c.PortPrograms == programsOff,
		Logger:     log.With("part", "kernel"),
	})
	if err != nil {
		return err
	}
	defer host.Close()
	cfg := daemon.Config{
		NodeName:     c.NodeName,
		Underlay:     c.underlay(),
		Cluster:      c.Cluster,
		Setup:        c.Setup,
		StateDir:     c.StateDir,
		RunDir:       c.RunDir,
		VXLANPort:    c.VXLANPort,
		TTL:          c.PresenceTTL,
		Resync:       c.Resync,
		BlockIdle:    c.BlockIdle,
		ReapAfter:    c.ReapAfter,
		DockerSocket: c.DockerSocket,
	}
	journal, err := store.OpenJournal(cfg.JournalPath())
	if err != nil {
		return err
	}
	defer closing(&err, journal.Close)
	if err := noteFound(ctx, host, journal); err != nil {
		// It is only for the day on which all of this is taken off again.
		log.Warn("cannot note what packet filter tables there are; agent --cleanup would leave all that are empty then", "error", err)
	}
	kv, closeKV, err := openEtcd(ctx, c, host, log)
	if err != nil {
		return err
	}
	defer closing(&err, closeKV)
	d, err := daemon.New(cfg, daemon.Parts{KV: kv, Journal: journal, Kernel: host, Host: host, Log: log})
	if err != nil {
		return err
	}
	listeners, err := api.Listen(apiConfig(c))
	if err != nil {
		return err
	}
	return runAll(ctx, c, d, listeners, log)
}

// runAll runs the daemon and what serves it, until ctx ends or one fails.
func runAll(ctx context.Context, c *config, d *daemon.Daemon, listeners []net.Listener, log *slog.Logger) error {
	server := api.New(d, apiConfig(c), log.With("part", "api"))
	names := dns.New(d, dns.Config{Port: 53, ResolvConf: "/etc/resolv.conf", NetnsDir: netnsConfigDir}, log.With("part", "dns"))
	d.ServeNames(names)
	g, ctx := errgroup.WithContext(ctx)
	// Names are answered until the daemon has ended, which may take it a second
	// where etcd does not answer.
	daemonRuns, ended := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer ended()
		return d.Run(ctx)
	})
	g.Go(func() error { return names.Run(daemonRuns) })
	g.Go(func() error { return spareMemory(ctx, lookEvery) })
	g.Go(func() error { return server.Serve(ctx, listeners) })
	if c.MetricsListen != "" {
		g.Go(func() error { return serveMetrics(ctx, c.MetricsListen, log, d, names) })
	}
	g.Go(func() error {
		if d.Ready(ctx) {
			log.Info("ready", "listen", c.Listen)
			notify(log, systemd.SdNotifyReady)
		}
		<-ctx.Done()
		notify(log, systemd.SdNotifyStopping)
		return nil
	})
	return g.Wait()
}

// closing runs a close function at the end and keeps its error if it is the first.
func closing(err *error, f func() error) {
	if closeErr := f(); closeErr != nil && *err == nil {
		*err = closeErr
	}
}

// openEtcd connects to etcd, or runs one within.
func openEtcd(ctx context.Context, c *config, host *kernel.Host, log *slog.Logger) (store.KV, func() error, error) {
	etcdLog := log.With("part", "etcd")
	if !c.EmbeddedEtcd {
		kv, err := store.Dial(store.DialConfig{
			Endpoints: c.EtcdEndpoints,
			CA:        c.EtcdCA,
			Cert:      c.EtcdCert,
			Key:       c.EtcdKey,
			User:      c.EtcdUser,
			Password:  c.EtcdPassword,
			Log:       etcdLog,
		})
		if err != nil {
			return nil, nil, err
		}
		return kv, kv.Close, nil
	}
	listen, err := embeddedURLs(c, host)
	if err != nil {
		return nil, nil, err
	}
	embedded, err := store.StartEmbedded(ctx, store.EmbeddedConfig{
		Dir:        filepath.Join(c.StateDir, "etcd"),
		Name:       c.NodeName,
		ClientURLs: listen,
		CA:         c.EtcdCA,
		Cert:       c.EtcdCert,
		Key:        c.EtcdKey,
		Log:        etcdLog,
	})
	if err != nil {
		return nil, nil, err
	}
	kv := embedded.KV()
	return kv, func() error {
		err := kv.Close()
		embedded.Close()
		return err
	}, nil
}

// embeddedURLs returns where the embedded etcd listens: for this host's own
// tools on loopback, and for the other nodes on the underlay.
func embeddedURLs(c *config, host *kernel.Host) ([]string, error) {
	if len(c.EtcdListen) > 0 {
		return c.EtcdListen, nil
	}
	scheme := "http"
	if c.EtcdCert != "" {
		scheme = "https"
	}
	urls := []string{scheme + "://127.0.0.1:2379"}
	for _, spec := range c.underlay() {
		addrs, err := host.Underlay(spec)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs.Addrs {
			if given, err := netip.ParseAddr(spec); err == nil && given != a {
				continue
			}
			urls = append(urls, fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(a.String(), "2379")))
		}
	}
	return urls, nil
}

func apiConfig(c *config) api.Config {
	return api.Config{
		Listen: c.Listen,
		Group:  c.SocketGroup,
		TLS:    api.TLSFiles{CA: c.TLSCA, Cert: c.TLSCert, Key: c.TLSKey},
	}
}
