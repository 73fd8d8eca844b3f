package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Ports of every member.
const (
	etcdClientPort = 2379
	etcdPeerPort   = 2380
)

// A Member is one server of the lab's etcd.
type Member struct {
	*Host
	URL string // for clients

	etcd   *Etcd
	log    *os.File // nil where an agent runs the server
	server *Process // nil while stopped, and where an agent runs it
	paused bool
	cut    bool
	client *clientv3.Client
}

// openMember prepares what a server needs on its host.
func (e *Etcd) openMember(h *Host) (*Member, error) {
	m := &Member{Host: h, URL: etcdURL(h.Addrs[0], etcdClientPort), etcd: e}
	var err error
	m.log, err = os.Create(m.LogPath())
	return m, err
}

// etcdURL returns the URL of an etcd server on a host.
func etcdURL(addr netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(addr, port).String()
}

// LogPath names the file that the member's servers write to.
func (m *Member) LogPath() string { return filepath.Join(m.Dir, "etcd.log") }

// dataDir is where the server keeps its data.
func (m *Member) dataDir() string { return filepath.Join(m.Dir, "data") }

// Start starts the server, on the data that it had, and waits until it serves:
// for as long as ctx allows where too few of the members run. One that runs
// already is left alone.
func (m *Member) Start(ctx context.Context) error {
	if m.server != nil {
		return nil
	}
	cmd, err := m.etcd.command(m)
	if err != nil {
		return err
	}
	cmd.Stderr = m.log
	if m.server, err = spawnReady(ctx, cmd, m.enter); err != nil {
		m.server = nil
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	return nil
}

// Stop ends the server and keeps its data.
func (m *Member) Stop(ctx context.Context) error { return m.end(ctx, syscall.SIGTERM) }

// Kill ends the server with no time for anything.
func (m *Member) Kill(ctx context.Context) error { return m.end(ctx, syscall.SIGKILL) }

func (m *Member) end(ctx context.Context, sig os.Signal) error {
	server := m.server
	if server == nil {
		return nil
	}
	if err := m.Resume(); err != nil {
		return err
	}
	m.server = nil
	return server.Stop(ctx, sig)
}

// Pause stops the server in its tracks: connections stay, nothing is answered.
func (m *Member) Pause() error {
	if m.server == nil {
		return fmt.Errorf("pause %s: it does not run", m.Name)
	}
	m.paused = true
	return m.server.Pause()
}

// Resume lets a paused server go on.
func (m *Member) Resume() error {
	if m.server == nil {
		return fmt.Errorf("resume %s: it does not run", m.Name)
	}
	m.paused = false
	return m.server.Resume()
}

// Cut drops all packets to and from the server's host. Nobody is told: unlike
// behind a pulled cable, its address still resolves.
func (m *Member) Cut(ctx context.Context) error {
	return m.firewall(ctx, true)
}

// Heal lets packets pass again.
func (m *Member) Heal(ctx context.Context) error {
	return m.firewall(ctx, false)
}

// firewall puts or takes away the rules that drop all packets of the underlay.
func (m *Member) firewall(ctx context.Context, closed bool) error {
	if m.cut == closed {
		return nil
	}
	m.cut = closed
	tool, change := "iptables", "-D"
	if closed {
		change = "-I"
	}
	if m.Addrs[0].Is6() {
		tool = "ip6tables"
	}
	for _, rule := range [][]string{{"INPUT", "-i"}, {"OUTPUT", "-o"}} {
		if _, err := m.Exec(ctx, tool, "-w", change, rule[0], rule[1], underlayDev, "-j", "DROP"); err != nil {
			return err
		}
	}
	return nil
}

// able reports whether the server can answer.
func (m *Member) able() bool {
	return (m.server != nil || m.log == nil) && !m.paused && !m.cut
}

// Client returns a client of this member alone, whose connections start on its
// own host.
func (m *Member) Client() (*clientv3.Client, error) {
	if m.client != nil {
		return m.client, nil
	}
	client, err := m.etcd.open(m.URL)
	if err == nil {
		m.client = client
	}
	return client, err
}

// Status returns what the server says of itself.
func (m *Member) Status(ctx context.Context) (*clientv3.StatusResponse, error) {
	client, err := m.Client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := WithTimeout(ctx, askWithin)
	defer cancel()
	status, err := client.Status(ctx, m.URL)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", m.Name, err)
	}
	return status, nil
}

// close ends client and server, whose data nobody wants any more.
func (m *Member) close(ctx context.Context) error {
	if m.client != nil {
		m.client.Close()
	}
	err := m.Kill(ctx)
	if m.log != nil {
		m.log.Close()
	}
	return err
}
