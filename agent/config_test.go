package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

func TestCleanupNeedsNoCluster(t *testing.T) {
	c, err := parse([]string{"--cleanup"}, nil, io.Discard)
	if err != nil || !c.Cleanup || c.StateDir == "" {
		t.Fatalf("parse: %+v, %v", c, err)
	}
	// It asks there whether an agent runs.
	if want := "unix://" + c.RunDir + "/agent.sock"; len(c.Listen) != 1 || c.Listen[0] != want {
		t.Errorf("listen %v, want %s", c.Listen, want)
	}
}

func TestFlagOutweighsEnvironmentOutweighsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	text := `
node-name: from-file
cluster: from-file
presence-ttl: 20s
etcd-endpoints: [http://10.0.0.1:2379, http://10.0.0.2:2379]
advertise-address: 10.0.0.9
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"OVERSPAN_CLUSTER=from-env", "OVERSPAN_NODE_NAME=from-env", "OVERSPAN_HOST=unix:///not/ours", "PATH=/bin"}
	c, err := parse([]string{"--config", file, "--node-name", "from-flag"}, env, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeName != "from-flag" || c.Cluster != "from-env" || c.PresenceTTL != 20*time.Second {
		t.Errorf("node %q, cluster %q, ttl %s", c.NodeName, c.Cluster, c.PresenceTTL)
	}
	if got := strings.Join(c.EtcdEndpoints, " "); got != "http://10.0.0.1:2379 http://10.0.0.2:2379" {
		t.Errorf("etcd endpoints %q", got)
	}
	if want := "unix://" + c.RunDir + "/agent.sock"; len(c.Listen) != 1 || c.Listen[0] != want {
		t.Errorf("listen %v, want %s", c.Listen, want)
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ok := []string{"--advertise-address", "10.0.0.1", "--etcd-endpoints", "http://10.0.0.1:2379"}
	for _, test := range []struct {
		name string
		args []string
		env  string
		want string
	}{
		{name: "no underlay", args: ok[2:], want: "--advertise-address"},
		{name: "negative time to removal", args: append([]string{"--reap-after", "-1s"}, ok...), want: "--reap-after"},
		{name: "no etcd", args: ok[:2], want: "--etcd-endpoints"},
		{name: "two underlays", args: append([]string{"--interface", "eth0"}, ok...), want: "exclude each other"},
		{name: "two etcds", args: append([]string{"--embedded-etcd"}, ok...), want: "exclude each other"},
		{name: "underlay device as an address", args: append([]string{"--advertise-address", "eth0"}, ok[2:]...), want: "there is --interface"},
		{name: "loopback underlay", args: append([]string{"--advertise-address", "127.0.0.1"}, ok[2:]...), want: "other nodes cannot reach"},
		{name: "two addresses of a family", args: append([]string{"--advertise-address", "10.0.0.2"}, ok...), want: "at most one address of each family"},
		{name: "etcd without a port", args: append([]string{"--etcd-endpoints", "http://10.0.0.1"}, ok[:2]...), want: "want URLs such as"},
		{name: "etcd without a scheme", args: append([]string{"--etcd-endpoints", "10.0.0.1:2379"}, ok[:2]...), want: "want URLs such as"},
		{name: "etcd of another scheme", args: append([]string{"--etcd-endpoints", "ftp://10.0.0.1:2379"}, ok[:2]...), want: "want URLs such as"},
		{name: "node name", args: append([]string{"--node-name", "a b"}, ok...), want: `invalid node name "a b"`},
		{name: "short ttl", args: append([]string{"--presence-ttl", "1s"}, ok...), want: "too short"},
		{name: "stray argument", args: append([]string{"start"}, ok...), want: `unexpected argument "start"`},
		{name: "bad variable", args: ok, env: "OVERSPAN_VXLAN_PORT=many", want: "vxlan-port"},
		{name: "missing file", args: append([]string{"--config", filepath.Join(dir, "none")}, ok...), want: "no such file"},
		{name: "unknown setting", args: append([]string{"--config", write("unknown.yaml", "colour: red")}, ok...), want: `unknown setting "colour"`},
		{name: "nested setting", args: append([]string{"--config", write("nested.yaml", "cluster: {a: b}")}, ok...), want: "cluster: want a value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.args, []string{test.env}, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// What takes an agent off a host says what is wrong in its settings, and goes by
// all that can be read.
func TestCleanupPassesOverWrongSettings(t *testing.T) {
	for _, test := range []struct {
		name, text, env string
		want            string // what is said
		lost            bool   // nothing of the file can be read
	}{
		{name: "unknown", text: "colour: red\nstate-dir: /srv/overspan\n", want: `unknown setting "colour"`},
		{name: "no number", text: "vxlan-port: many\nstate-dir: /srv/overspan\n", want: "vxlan-port"},
		{name: "nested", text: "cluster: {a: b}\nstate-dir: /srv/overspan\n", want: "cluster: want a value"},
		{name: "twice", text: "state-dir: /var/lib/former\nstate-dir: /srv/overspan\n", want: "state-dir is given twice, in lines 1 and 2"},
		{name: "variable", text: "state-dir: /srv/overspan\n", env: "OVERSPAN_RESYNC=often", want: "resync"},
		{name: "no YAML", text: "state-dir: [\n", want: "yaml", lost: true},
		{name: "no settings", text: "state-dir\n", want: "want lines such as", lost: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			want := "/srv/overspan"
			if test.lost {
				want = "/var/lib/overspan"
			}
			var told bytes.Buffer
			c, err := parse([]string{"--cleanup", "--config", file}, []string{test.env}, &told)
			if err != nil || c.StateDir != want {
				t.Fatalf("settings %+v, %v; want the state directory %s", c, err, want)
			}
			if !strings.Contains(told.String(), "passed over") || !strings.Contains(told.String(), test.want) {
				t.Errorf("told %q, want %q", told.String(), test.want)
			}
			if _, err := parse([]string{"--config", file}, []string{test.env}, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("without --cleanup: %v, want %q", err, test.want)
			}
		})
	}
	if _, err := parse([]string{"--cleanup", "--config", filepath.Join(t.TempDir(), "none")}, nil, io.Discard); err == nil {
		t.Error("a file that was named and is not there is passed over")
	}
}

// Files without any setting are as good as none.
func TestFileWithoutSettings(t *testing.T) {
	for _, text := range []string{"", "# all is commented out\n", "---\n"} {
		file := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(file); err != nil || len(got) > 0 {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// A log is written even if it cannot be the one that was asked for.
func TestWrongLogSettings(t *testing.T) {
	for _, c := range []*config{{LogLevel: "loud", LogFormat: "text"}, {LogLevel: "info", LogFormat: "verse"}} {
		var out bytes.Buffer
		log, err := newLogger(c, &out)
		if err == nil {
			t.Errorf("%s, %s: taken", c.LogLevel, c.LogFormat)
		}
		if log.Info("said"); !strings.Contains(out.String(), "said") {
			t.Errorf("%s, %s: nothing is logged", c.LogLevel, c.LogFormat)
		}
	}
}

func TestExitStatus(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"--version"}, nil, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "overspan agent ") || !strings.Contains(out.String(), ", with etcd 3.") {
		t.Errorf("--version: exit %d, %q", code, out.String())
	}
	if code := run([]string{"--help"}, nil, &out, &errs); code != 0 || !strings.Contains(errs.String(), "--embedded-etcd") {
		t.Errorf("--help: exit %d, %q", code, errs.String())
	}
	errs.Reset()
	if code := run([]string{"--no-such-flag"}, nil, &out, &errs); code != 2 || !strings.Contains(errs.String(), "no-such-flag") {
		t.Errorf("unknown flag: exit %d, %q", code, errs.String())
	}
}

// TestSetupOfACluster reads where subnets and VNIs come from, in Docker's words.
func TestSetupOfACluster(t *testing.T) {
	must := []string{"--etcd-endpoints", "http://10.0.0.1:2379", "--interface", "eth0", "--node-name", "h1", "--config", os.DevNull}
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("overlay-pool: base=10.128.0.0/9,size=22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parse(append(must[:6:6], "--config", file, "--ipv6-pool", "size=64,base=fd12:3456:789a::/48", "--vni-range", "4096-8191"), nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := overspan.Meta{
		Pools: overspan.Pools{
			Overlay: overspan.Pool{Prefix: netip.MustParsePrefix("10.128.0.0/9"), Bits: 22},
			IPv6:    overspan.Pool{Prefix: netip.MustParsePrefix("fd12:3456:789a::/48"), Bits: 64},
		},
		VNIs: overspan.VNIRange{First: 4096, Last: 8191},
	}
	if c.Setup != want {
		t.Errorf("got %+v, want %+v", c.Setup, want)
	}
	for _, tt := range []struct{ flag, value, why string }{
		{"--overlay-pool", "10.0.0.0/8", "want base=PREFIX,size=BITS"},
		{"--overlay-pool", "base=10.0.0.0/8", "want base=PREFIX,size=BITS"},
		{"--overlay-pool", "base=10.0.0.0/8,base=10.0.0.0/9,size=24", "want base=PREFIX,size=BITS"},
		{"--overlay-pool", "base=10.0.0.1/8,size=24", "host bits"},
		{"--overlay-pool", "base=10.0.0.0/8,size=7", "no subnet of /7 fits"},
		{"--overlay-pool", "base=10.0.0.0/8,size=31", "/31"},
		{"--bridge-pool", "base=fd00::/48,size=64", "ipv4"},
		{"--ipv6-pool", "base=10.0.0.0/8,size=24", "ipv6"},
		{"--bridge-pool", "base=127.0.0.0/8,size=24", "127.0.0.0/8"},
		{"--vni-range", "0-5", "1-16777215"},
		{"--vni-range", "9-5", "1-16777215"},
		{"--vni-range", "5", "1-16777215"},
		{"--vni-range", "5-16777216", "1-16777215"},
	} {
		_, err := parse(append(must, tt.flag, tt.value), nil, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.why) || !strings.Contains(err.Error(), tt.flag) {
			t.Errorf("%s %s: %v, want %s", tt.flag, tt.value, err, tt.why)
		}
	}
}
