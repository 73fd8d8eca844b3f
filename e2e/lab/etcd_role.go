package lab

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// An etcdPart is all that a server must know to play its part.
type etcdPart struct {
	Name    string
	Dir     string // of its data
	Client  string // URL for clients
	Peer    string // URL for the other members
	Cluster string // all members and their peer URLs, as etcd writes them
	Token   string // of the cluster: members and cluster get their ids of it
	Quota   int64  // of the database in bytes; 0: etcd's default
}

// command returns the command that runs a member's server.
func (e *Etcd) command(m *Member) (*exec.Cmd, error) {
	var members []string
	for _, other := range e.Members {
		members = append(members, other.Name+"="+etcdURL(other.Addrs[0], etcdPeerPort))
	}
	part, err := json.Marshal(etcdPart{
		Name:    m.Name,
		Dir:     m.dataDir(),
		Client:  m.URL,
		Peer:    etcdURL(m.Addrs[0], etcdPeerPort),
		Cluster: strings.Join(members, ","),
		Token:   fmt.Sprintf("lab-%d", e.lives),
		Quota:   e.quota,
	})
	if err != nil {
		return nil, err
	}
	return roleCommand(e.part, roleEtcd, string(part))
}

// config translates the part for the server.
func (p etcdPart) config() (*embed.Config, error) {
	client, err := url.Parse(p.Client)
	if err != nil {
		return nil, fmt.Errorf("client URL: %w", err)
	}
	peer, err := url.Parse(p.Peer)
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = p.Name, p.Dir
	cfg.LogLevel = "warn"
	cfg.LogOutputs = []string{"stderr"}
	cfg.ListenClientUrls = []url.URL{*client}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{*peer}
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	cfg.InitialCluster, cfg.InitialClusterToken = p.Cluster, p.Token
	cfg.QuotaBackendBytes = p.Quota
	return cfg, nil
}

// playEtcd runs an etcd server until SIGTERM.
func playEtcd(arg string) error {
	var part etcdPart
	if err := json.Unmarshal([]byte(arg), &part); err != nil {
		return fmt.Errorf("read the part: %w", err)
	}
	cfg, err := part.config()
	if err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer server.Close()
	isReady := server.Server.ReadyNotify()
	for {
		select {
		case <-isReady:
			isReady = nil
			if _, err := os.Stdout.WriteString(ready); err != nil {
				return err
			}
		case <-term:
			return nil
		case err := <-server.Err():
			return fmt.Errorf("serve etcd: %w", err)
		}
	}
}
