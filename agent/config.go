package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/overspan/overspan"
)

// defaultConfigFile is read if it is there; one named by --config must be.
const defaultConfigFile = "/etc/overspan/agent.yaml"

// The values of --port-programs.
const (
	programsAuto = "auto"
	programsOff  = "off"
)

// A config is everything that the agent is told. Each flag is also a variable
// OVERSPAN_… in the environment and a key in the file; a flag outweighs the
// environment, which outweighs the file.
type config struct {
	ConfigFile       string
	NodeName         string
	AdvertiseAddress []string
	Interface        string
	EtcdEndpoints    []string
	EmbeddedEtcd     bool
	EtcdListen       []string
	EtcdCA           string
	EtcdCert         string
	EtcdKey          string
	EtcdUser         string
	EtcdPassword     string
	Cluster          string
	StateDir         string
	RunDir           string
	Listen           []string
	SocketGroup      string
	TLSCA            string
	TLSCert          string
	TLSKey           string
	VXLANPort        uint16
	Setup            overspan.Meta // what is not given is zero
	PortPrograms     string
	PresenceTTL      time.Duration
	Resync           time.Duration
	BlockIdle        time.Duration
	ReapAfter        time.Duration
	DockerSocket     string
	MetricsListen    string
	LogLevel         string
	LogFormat        string
	Cleanup          bool
	Version          bool
}

// flags declares the flags, with their defaults, into c.
func (c *config) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	f.SortFlags = false
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	f.StringVar(&c.ConfigFile, "config", defaultConfigFile, "file with any of these settings")
	f.StringVar(&c.NodeName, "node-name", host, "name of this node; need not be unique")
	f.StringSliceVar(&c.AdvertiseAddress, "advertise-address", nil, "this node's underlay address, at most one of each family")
	f.StringVar(&c.Interface, "interface", "", "underlay device, instead of --advertise-address")
	f.StringSliceVar(&c.EtcdEndpoints, "etcd-endpoints", nil, "URLs of etcd, version 3.5.13 or newer")
	f.BoolVar(&c.EmbeddedEtcd, "embedded-etcd", false, "run a one-member etcd inside this agent, data under the state directory")
	f.StringSliceVar(&c.EtcdListen, "embedded-etcd-listen", nil, "client URLs of the embedded etcd (default: port 2379 of loopback and of the underlay address)")
	f.StringVar(&c.EtcdCA, "etcd-ca", "", "CA certificate of etcd, PEM file")
	f.StringVar(&c.EtcdCert, "etcd-cert", "", "certificate shown to etcd, PEM file")
	f.StringVar(&c.EtcdKey, "etcd-key", "", "key of --etcd-cert, PEM file")
	f.StringVar(&c.EtcdUser, "etcd-user", "", "etcd user")
	f.StringVar(&c.EtcdPassword, "etcd-password", "", "etcd password; better given as OVERSPAN_ETCD_PASSWORD")
	f.StringVar(&c.Cluster, "cluster", "default", "name of the cluster: several can share one etcd")
	f.StringVar(&c.StateDir, "state-dir", "/var/lib/overspan", "directory that survives a reboot")
	f.StringVar(&c.RunDir, "run-dir", "/run/overspan", "directory that does not")
	f.StringSliceVar(&c.Listen, "listen", nil, "sockets of the API: unix:///path, tcp://host:port with mutual TLS (default unix://<run-dir>/agent.sock)")
	f.StringVar(&c.SocketGroup, "socket-group", "", "group that may use the unix socket besides root")
	f.StringVar(&c.TLSCA, "tls-ca", "", "CA that signs the clients and agents of the API, PEM file")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate of this agent's API, PEM file")
	f.StringVar(&c.TLSKey, "tls-key", "", "key of --tls-cert, PEM file")
	f.Uint16Var(&c.VXLANPort, "vxlan-port", 4789, "UDP port of VXLAN, the same on all nodes")
	f.Var(poolFlag{overspan.IPv4, &c.Setup.Pools.Overlay}, "overlay-pool", "where automatic subnets of overlay networks come from; this and the next three are of the agent that sets up a cluster, its first (default base=10.0.0.0/8,size=24)")
	f.Var(poolFlag{overspan.IPv4, &c.Setup.Pools.Bridge}, "bridge-pool", "where those of bridges come from (default base=172.16.0.0/12,size=24)")
	f.Var(poolFlag{overspan.IPv6, &c.Setup.Pools.IPv6}, "ipv6-pool", "where IPv6 subnets come from (default: /64s of a /48 drawn at random from fd00::/8)")
	f.Var(vniFlag{&c.Setup.VNIs}, "vni-range", "VXLAN network identifiers that are the cluster's (default 65536-131071)")
	f.StringVar(&c.PortPrograms, "port-programs", programsAuto, "auto: eBPF programs check what containers send, and pass it on within a network past the packet filter, where the kernel can; off: locked bridge ports, and rules for all")
	f.DurationVar(&c.PresenceTTL, "presence-ttl", 15*time.Second, "how long after its end a node counts as up")
	f.DurationVar(&c.ReapAfter, "reap-after", 24*time.Hour, "how long a node may be down before this agent removes it from the cluster; 0 for ever")
	f.DurationVar(&c.Resync, "resync", 30*time.Second, "time between two full comparisons of kernel and plan")
	f.DurationVar(&c.BlockIdle, "block-idle", 5*time.Minute, "how long a block of addresses stays unused before it is given back")
	f.StringVar(&c.DockerSocket, "docker-socket", "/var/run/docker.sock", "socket of the Docker engine, for targets docker:NAME")
	f.StringVar(&c.MetricsListen, "metrics-listen", "127.0.0.1:9469", "address of the metrics; empty for none")
	f.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
	f.BoolVar(&c.Cleanup, "cleanup", false, "take everything of Overspan off this host, while no agent runs on it, and exit")
	f.BoolVar(&c.Version, "version", false, "print the version and exit")
	return f
}

// parse reads the settings from arguments, environment and file. With --cleanup it
// goes without settings of the last two that are wrong, and says so: nobody is to
// mend a setting in order to take an agent off a host.
func parse(args []string, env []string, usage io.Writer) (*config, error) {
	c := &config{}
	f := c.flags()
	f.SetOutput(usage)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	wrong := setUnset(f, fromEnv(env), "environment variable for")
	file, err := readFile(c.ConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		if f.Changed("config") {
			return nil, err
		}
		err = nil
	}
	wrong = errors.Join(wrong, err, unknown(f, file, c.ConfigFile), setUnset(f, file, c.ConfigFile+":"))
	if wrong != nil && !c.Cleanup {
		return nil, wrong
	}
	if wrong != nil {
		fmt.Fprintf(usage, "agent: what is wrong in the settings is passed over:\n%v\n", wrong)
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{"unix://" + c.RunDir + "/agent.sock"}
	}
	if c.Version || c.Cleanup {
		return c, nil
	}
	return c, c.check()
}

// fromEnv returns the variables that are flags, by the flags' names.
func fromEnv(env []string) map[string]string {
	given := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if flag, ours := strings.CutPrefix(name, "OVERSPAN_"); ours {
			given[strings.ToLower(strings.ReplaceAll(flag, "_", "-"))] = value
		}
	}
	return given
}

// unknown names the settings of the file that are no flags.
func unknown(f *pflag.FlagSet, file map[string]string, path string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(file)) {
		if f.Lookup(name) == nil {
			errs = append(errs, fmt.Errorf("%s: unknown setting %q", path, name))
		}
	}
	return errors.Join(errs...)
}

// setUnset sets the flags that nothing has set so far, and goes on after one that
// cannot be set. Names of no flag are passed over: OVERSPAN_HOST, for one, is ctl's.
func setUnset(f *pflag.FlagSet, values map[string]string, where string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if f.Lookup(name) == nil || f.Changed(name) {
			continue
		}
		if err := f.Set(name, values[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", where, name, err))
		}
	}
	return errors.Join(errs...)
}

// readFile reads a YAML file of flag names and scalar or list values. With an
// error it returns the settings that it could read; of one that is given twice, the
// last.
func readFile(path string) (map[string]string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("read %s: want lines such as \"interface: eth0\"", path)
	}
	var errs []error
	out, lines := map[string]string{}, map[string]int{}
	for i := 0; i < len(top.Content); i += 2 {
		name := top.Content[i].Value
		value, err := settingOf(top.Content[i+1])
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %s: %w", path, name, err))
			continue
		}
		line := top.Content[i].Line
		if before, twice := lines[name]; twice {
			errs = append(errs, fmt.Errorf("read %s: %s is given twice, in lines %d and %d", path, name, before, line))
		}
		out[name], lines[name] = value, line
	}
	return out, errors.Join(errs...)
}

// settingOf returns a value of the file as a flag takes it.
func settingOf(node *yaml.Node) (string, error) {
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value, nil
	case yaml.SequenceNode:
		var list []string
		err := node.Decode(&list)
		return strings.Join(list, ","), err
	}
	return "", errors.New("want a value or a list")
}

// check refuses what cannot work, before anything is touched.
func (c *config) check() error {
	switch {
	case c.NodeName == "":
		return errors.New("--node-name is empty")
	case len(c.AdvertiseAddress) == 0 && c.Interface == "":
		return errors.New("say where the other nodes reach this one: --advertise-address ADDR or --interface DEV")
	case len(c.AdvertiseAddress) > 0 && c.Interface != "":
		return errors.New("--advertise-address and --interface exclude each other")
	case len(c.EtcdEndpoints) == 0 && !c.EmbeddedEtcd:
		return errors.New("say where etcd is: --etcd-endpoints URL,… or --embedded-etcd")
	case len(c.EtcdEndpoints) > 0 && c.EmbeddedEtcd:
		return errors.New("--etcd-endpoints and --embedded-etcd exclude each other")
	case c.PresenceTTL < 2*time.Second:
		return fmt.Errorf("--presence-ttl %s is too short: at least 2s", c.PresenceTTL)
	case c.Resync < time.Second:
		return fmt.Errorf("--resync %s is too short: at least 1s", c.Resync)
	case c.ReapAfter != 0 && c.ReapAfter < time.Second:
		return fmt.Errorf("--reap-after %s is too short: at least 1s, or 0 for ever", c.ReapAfter)
	case c.VXLANPort == 0:
		return errors.New("--vxlan-port 0 is not a port")
	case c.PortPrograms != programsAuto && c.PortPrograms != programsOff:
		return fmt.Errorf("--port-programs %q: want auto or off", c.PortPrograms)
	case strings.Contains(c.Cluster, "/"):
		return fmt.Errorf("--cluster %q: a name without '/' is wanted", c.Cluster)
	}
	if err := checkAdvertised(c.AdvertiseAddress); err != nil {
		return err
	}
	if err := checkEndpoints(c.EtcdEndpoints); err != nil {
		return err
	}
	return overspan.CheckName("node", c.NodeName)
}

// checkAdvertised refuses what no other node could reach. Whether the addresses
// are this host's is seen later, for they may come by DHCP.
func checkAdvertised(addresses []string) error {
	var families []overspan.Family
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return fmt.Errorf("--advertise-address %q: want an address of this host, such as 192.0.2.1; for a device there is --interface", s)
		case !a.IsGlobalUnicast():
			return fmt.Errorf("--advertise-address %s: other nodes cannot reach this one there", a)
		case slices.Contains(families, overspan.FamilyOf(a)):
			return fmt.Errorf("--advertise-address %s: at most one address of each family", a)
		}
		families = append(families, overspan.FamilyOf(a))
	}
	return nil
}

// checkEndpoints refuses what the etcd client would try to reach for ever.
func checkEndpoints(endpoints []string) error {
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" {
			return fmt.Errorf("--etcd-endpoints %q: want URLs such as http://192.0.2.1:2379", e)
		}
	}
	return nil
}

// underlay returns what names the node's place in the underlay.
func (c *config) underlay() []string {
	if c.Interface != "" {
		return []string{c.Interface}
	}
	return c.AdvertiseAddress
}
