package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan/e2e/lab"
)

// A badInput is a command that must fail on h1, and what it must say: the
// object and the cause. Code 0 stands for 1.
type badInput struct {
	name string
	args string // split at spaces
	say  string // words separated by " … "
	code int
}

// badInputs assume the lab of TestBadInput: networks demo (10.70.0.0/24, where
// web1 on h1 has .2 and web2 on h2 has .200) and full (10.71.0.0/29, all lent).
var badInputs = []badInput{
	{name: "subnet overlaps", args: "network create -d overlay --subnet 10.70.0.128/25 new", say: "10.70.0.128/25 … overlaps … demo"},
	{name: "subnet contains another", args: "network create -d overlay --subnet 10.64.0.0/10 new", say: "10.64.0.0/10 … overlaps"},
	{name: "subnet is the underlay", args: "network create -d overlay --subnet 10.99.0.0/24 new", say: "10.99.0.0/24 … overlaps … route of node"},
	{name: "subnet without length", args: "network create -d overlay --subnet 10.72.0.0 new", say: "subnet … 10.72.0.0"},
	{name: "subnet is no address", args: "network create -d overlay --subnet ten/24 new", say: "subnet … ten/24"},
	{name: "subnet with host bits", args: "network create -d overlay --subnet 10.72.0.1/24 new", say: "10.72.0.1/24 … host bits … 10.72.0.0/24"},
	{name: "subnet too small", args: "network create -d overlay --subnet 10.72.0.0/31 new", say: "10.72.0.0/31 … too small"},
	{name: "IPv6 subnet too small", args: "network create -d overlay --subnet fd72::/127 new", say: "fd72::/127 … too small"},
	{name: "subnet is multicast", args: "network create -d overlay --subnet 224.0.0.0/24 new", say: "224.0.0.0/24"},
	{name: "subnet is loopback", args: "network create -d overlay --subnet 127.1.0.0/24 new", say: "127.1.0.0/24"},
	{name: "subnet is link-local", args: "network create -d overlay --subnet 169.254.0.0/24 new", say: "169.254.0.0/24"},
	{name: "two subnets of a family", args: "network create -d overlay --subnet 10.72.0.0/24 --subnet 10.73.0.0/24 new", say: "10.72.0.0/24 … 10.73.0.0/24"},
	{name: "gateway outside", args: "network create -d overlay --subnet 10.72.0.0/24 --gateway 10.73.0.1 new", say: "gateway … 10.73.0.1 … 10.72.0.0/24"},
	{name: "gateway is the network address", args: "network create -d overlay --subnet 10.72.0.0/24 --gateway 10.72.0.0 new", say: "gateway … 10.72.0.0"},
	{name: "range outside", args: "network create -d overlay --subnet 10.72.0.0/24 --ip-range 10.73.0.0/25 new", say: "range … 10.73.0.0"},
	{name: "range larger than the subnet", args: "network create -d overlay --subnet 10.72.0.0/24 --ip-range 10.72.0.0/16 new", say: "range … 10.72.0.0/16"},
	{name: "auxiliary address outside", args: "network create -d overlay --subnet 10.72.0.0/24 --aux-address rtr=10.73.0.9 new", say: "10.73.0.9 … 10.72.0.0/24"},
	{name: "auxiliary address without a name", args: "network create -d overlay --subnet 10.72.0.0/24 --aux-address 10.72.0.9 new", say: "10.72.0.9", code: either},
	{name: "unknown driver", args: "network create -d macvlan new", say: "macvlan … overlay"},
	{name: "unknown option", args: "network create -d overlay -o color=red new", say: "color"},
	{name: "unknown option of a bridge", args: "network create -o color=red new", say: "color … bridge … icc"},
	{name: "option of the other driver", args: "network create -o vni=5000 new", say: "vni … bridge"},
	{name: "option is no truth", args: "network create -o icc=maybe new", say: "icc=maybe … true or false"},
	{name: "option given twice", args: "network create -o mtu=1400 -o com.docker.network.driver.mtu=1400 new", say: "com.docker.network.driver.mtu and mtu"},
	{name: "address is none of a host", args: "network create -o com.docker.network.host_ipv4=127.0.0.1 new", say: "com.docker.network.host_ipv4=127.0.0.1 … IPv4"},
	{name: "made from no configuration", args: "network create --config-from demo new", say: "demo is not a configuration network"},
	{name: "made from nothing", args: "network create --config-from nowhere new", say: "network nowhere not found"},
	{name: "configuration from another", args: "network create --config-only --config-from plain new", say: "cannot depend on another configuration network"},
	{name: "configuration and subnet", args: "network create --config-from plain --subnet 10.72.0.0/24 new", say: "user specified configurations are not supported"},
	{name: "configuration and option", args: "network create --config-from plain -o mtu=1400 new", say: "network driver options are not supported"},
	{name: "configuration with a bad subnet", args: "network create --config-only --subnet 10.72.0.1/24 new", say: "10.72.0.1/24 … host bits"},
	{name: "connect to a configuration", args: "network connect plain free", say: "configuration-only network plain"},
	{name: "bridge with the name of another link", args: "network create -o com.docker.network.bridge.name=eth0 new", say: "eth0 on this host"},
	{name: "bridge overlaps an overlay", args: "network create --subnet 10.70.0.128/25 new", say: "10.70.0.128/25 … overlaps … demo"},
	{name: "bridge with an overlay's name", args: "network create demo", say: "network with name demo already exists"},
	{name: "MTU too small for IPv6", args: "network create --ipv6 -o mtu=1279 new", say: "mtu=1279 … 1280"},
	{name: "MTU too small", args: "network create -d overlay -o mtu=10 new", say: "mtu=10"},
	{name: "MTU is no number", args: "network create -d overlay -o mtu=big new", say: "mtu=big"},
	{name: "VNI is taken", args: "network create -d overlay -o vni=100000 new", say: "100000 … demo"},
	{name: "VNI outside the range", args: "network create -d overlay -o vni=7 new", say: "vni=7"},
	{name: "name is taken", args: "network create -d overlay demo", say: "network with name demo already exists"},
	{name: "name is predefined", args: "network create -d overlay host", say: "host already exists"},
	{name: "name starts with an underscore", args: "network create -d overlay _new", say: `"_new"`},
	{name: "name has a slash", args: "network create -d overlay new/er", say: `"new/er"`},
	{name: "name is too long", args: "network create -d overlay " + strings.Repeat("n", 64), say: "63"},
	{name: "no name", args: "network create -d overlay", say: "arg", code: 2},
	{name: "unknown flag", args: "network create --colour red new", say: "--colour", code: 2},
	{name: "unknown command", args: "network paint demo", say: "paint", code: 2},

	{name: "remove what is not there", args: "network rm nowhere", say: "network nowhere not found"},
	{name: "remove what is predefined", args: "network rm host", say: "host is a pre-defined network and cannot be removed"},
	{name: "remove the default network", args: "network rm bridge", say: "bridge is a pre-defined network and cannot be removed"},
	{name: "name of the default network", args: "network create bridge", say: "network with name bridge already exists"},
	{name: "default network as an overlay", args: "network create -d overlay bridge", say: "network with name bridge already exists"},
	{name: "connect to what holds nothing", args: "network connect none free", say: "none … predefined"},
	{name: "connect nothing to the default network", args: "network connect bridge nothing", say: "target nothing not found"},
	{name: "none and another network", args: "run --network none --network demo true", say: "conflicting options", code: 2},
	{name: "host and another network", args: "run --network demo --network host true", say: "conflicting options", code: 2},
	{name: "address without a network", args: "run --network none --ip 10.70.0.9 true", say: "user specified IP address", code: 2},
	{name: "no container's network", args: "run --network container: true", say: "container:", code: 2},
	{name: "container that is not there", args: "run --network container:nowhere true", say: "nowhere"},
	{name: "remove what is in use", args: "network rm demo", say: "demo … web1 … web2"},
	{name: "inspect what is not there", args: "network inspect nowhere", say: "network nowhere not found", code: prints},

	{name: "connect to no network", args: "network connect nowhere free", say: "network nowhere not found"},
	{name: "connect nothing", args: "network connect demo nothing", say: "target nothing not found"},
	{name: "connect a dead process", args: "network connect demo pid:999999", say: "pid:999999"},
	{name: "connect no process", args: "network connect demo pid:me", say: "pid:me"},
	{name: "connect a file", args: "network connect demo netns:/etc/passwd", say: "/etc/passwd"},
	{name: "connect a missing file", args: "network connect demo netns:/run/netns/missing", say: "/run/netns/missing"},
	{name: "connect the host itself", args: "network connect demo pid:1", say: "host's own network namespace"},
	{name: "connect a container without Docker", args: "network connect demo docker:web", say: "Docker … web"},
	{name: "connect twice", args: "network connect demo web1", say: "web1 … demo already"},
	{name: "interface name is taken", args: "network connect --ifname lo demo free", say: "free … interface lo"},
	{name: "interface name is too long", args: "network connect --ifname sixteencharacter demo free", say: "sixteencharacter"},
	{name: "interface name has a slash", args: "network connect --ifname e/0 demo free", say: "e/0"},
	{name: "endpoint name is taken", args: "network connect --name web2 demo free", say: "web2"},
	{name: "endpoint name is bad", args: "network connect --name -.- demo free", say: "-.-"},
	{name: "address is taken", args: "network connect --ip 10.70.0.200 demo free", say: "address already in use … 10.70.0.200 … h2"},
	{name: "address is the gateway", args: "network connect --ip 10.70.0.1 demo free", say: "10.70.0.1 … the gateway"},
	{name: "address is elsewhere", args: "network connect --ip 10.71.0.2 demo free", say: "10.71.0.2 … not in this network's subnets"},
	{name: "address is none", args: "network connect --ip ten demo free", say: "ten"},
	{name: "address of the other family", args: "network connect --ip fd70::2 demo free", say: "fd70::2"},
	{name: "IPv6 address without IPv6", args: "network connect --ip6 fd70::2 demo free", say: "fd70::2"},
	{name: "MAC is multicast", args: "network connect --mac-address 01:00:5e:00:00:01 demo free", say: "01:00:5e:00:00:01"},
	{name: "MAC is derived", args: "network connect --mac-address 02:42:0a:46:00:c8 demo free", say: "02:42:0a:46:00:c8"},
	{name: "MAC is none", args: "network connect --mac-address red demo free", say: "red"},
	{name: "no address is left", args: "network connect full free", say: "full … h1 … h2"},
	{name: "disconnect what is not connected", args: "network disconnect demo free", say: "free … demo"},
	{name: "disconnect from the default network before its first use", args: "network disconnect bridge free", say: "free is not connected to network bridge"},

	{name: "sandbox name is bad", args: "sandbox create a/b", say: "a/b"},
	{name: "sandbox is not there", args: "sandbox rm nowhere", say: "nowhere"},
	{name: "agent is not there", args: "--host unix:///run/nowhere.sock network ls", say: "/run/nowhere.sock"},
}

// Exit codes of badInputs that are not simply 1.
const (
	either = -1 // a wrong command line or a refused request: 1 or 2
	prints = -2 // 1, and standard output is not empty: docker prints []
)

// Part 9: "Bad input, each a clear error with nothing left behind."
func TestBadInput(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "--subnet", "10.70.0.0/24", "-o", "vni=100000", "demo")
	c.attach(h1, "demo", "web1")
	c.attach(h2, "demo", "web2", "--ip", "10.70.0.200")
	c.create(h1, "--subnet", "10.71.0.0/29", "full")
	for i := range 5 {
		c.attach(c.Nodes[i%2], "full", fmt.Sprintf("full%d", i))
	}
	c.netns(h1, "free")
	c.ambiguous(h1)
	c.ctl(h1, "network", "create", "--config-only", "plain")

	before := c.settledState()
	for _, bad := range badInputs {
		t.Run(bad.name, func(t *testing.T) {
			res, err := h1.Ctl(t.Context(), strings.Fields(bad.args)...)
			if err != nil {
				t.Fatal(err)
			}
			bad.check(t, res)
			c.unchanged(t, before)
		})
	}
}

// check compares what a command left with what it should have.
func (bad badInput) check(t *testing.T, res lab.Result) {
	t.Helper()
	good := res.Code == max(bad.code, 1)
	if bad.code == either {
		good = res.Code == 1 || res.Code == 2
	}
	if !good {
		t.Errorf("%s: exit status %d", res.Command, res.Code)
	}
	if res.Stdout != "" && bad.code != prints {
		t.Errorf("%s: standard output is %q", res.Command, res.Stdout)
	}
	for word := range strings.SplitSeq(bad.say, " … ") {
		if !strings.Contains(res.Stderr, word) {
			t.Errorf("%s: %q does not say %q", res.Command, res.Stderr, word)
		}
	}
	if strings.Contains(res.Stderr, "rpc error") || strings.Contains(res.Stderr, "goroutine ") {
		t.Errorf("%s: %q is not for users", res.Command, res.Stderr)
	}
}

// state returns, line by line, all that a refused command must leave as it was:
// the keys in etcd, and what every node and its agent hold.
func (c *cluster) state(ctx context.Context) (lab.Footprint, error) {
	keys, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	var all lab.Footprint
	delete(keys, lab.Prefix+"subnets/version") // another one after each network
	for key, value := range keys {
		all = append(all, "etcd: "+key+" "+value)
	}
	nodes, err := c.onNodes(ctx)
	return append(all, nodes...), err
}

// onNodes is the part of the state that is not in etcd.
func (c *cluster) onNodes(ctx context.Context) (lab.Footprint, error) {
	var mu sync.Mutex // guards all
	var all lab.Footprint
	err := c.onEach(func(n *lab.Node) error {
		print, err := n.Footprint(ctx)
		if err != nil {
			return err
		}
		sandboxes, err := n.MustCtl(ctx, "sandbox", "ls")
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, line := range append(print, strings.Split(sandboxes, "\n")...) {
			all = append(all, n.Name+": "+line)
		}
		return nil
	})
	return all, err
}

// settledState returns the state once no address is tentative any more, and no link is
// on its way out.
func (c *cluster) settledState() lab.Footprint {
	c.t.Helper()
	var settled lab.Footprint
	c.eventually(retireWithin, func(ctx context.Context) error {
		var err error
		settled, err = c.state(ctx)
		for _, line := range settled {
			if strings.Contains(line, "tentative") || strings.Contains(line, doomed) {
				return errors.New(line)
			}
		}
		return err
	})
	return settled
}

// doomed is how ip(8) shows a link that is about to be deleted.
const doomed = " group 1466 "

// retireWithin bounds how long what a command undid may be seen: a look at all
// hosts alone takes a busy machine seconds.
const retireWithin = 20 * time.Second

// unchanged checks that the state is what it was, now or once what a command
// undid is retired.
func (c *cluster) unchanged(t *testing.T, before lab.Footprint) {
	t.Helper()
	err := lab.Eventually(t.Context(), retireWithin, func(ctx context.Context) error {
		now, err := c.state(ctx)
		if diff := before.Diff(now); err == nil && len(diff) > 0 {
			err = errors.New(strings.Join(diff, "\n"))
		}
		return err
	})
	if err != nil {
		t.Errorf("something was left behind (-before +after): %v", err)
	}
}

// ambiguous makes networks until two ids begin with the same digit, and
// checks that the digit does not do as a reference.
func (c *cluster) ambiguous(n *lab.Node) {
	c.t.Helper()
	seen := map[string]int{}
	for i := range 17 {
		digit := c.create(n, fmt.Sprintf("net-%d", i))[:1]
		if seen[digit]++; seen[digit] == 2 {
			c.refused(n, []string{"network " + digit, "ambiguous"}, "network", "rm", digit)
			return
		}
	}
	c.t.Error("17 ids begin with 17 different hexadecimal digits")
}

// An attach that fails half-way in the kernel is rolled back wholly: in this
// sandbox another interface goes by the name that the new one is to have.
func TestAttachFailsHalfWay(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1 := c.Nodes[0]
	c.create(h1, "--ipv6", "demo")
	a := c.attach(h1, "demo", "a")
	box := c.netns(h1, "b")
	_, err := box.Exec(t.Context(), "ip", "link", "property", "add", "dev", "lo", "altname", eth0)
	c.must(err)
	before := c.settledState()
	c.refused(h1, []string{"eth0"}, "network", "connect", "demo", "b")
	c.unchanged(t, before)
	_, err = box.Exec(t.Context(), "ip", "link", "property", "del", "dev", "lo", "altname", eth0)
	c.must(err)
	c.connect("demo", box)
	c.mesh(a, box)
}

// A truncated or foreign record in etcd is reported, disturbs nothing, and is
// forgotten when it is gone.
func TestBadRecords(t *testing.T) {
	t.Parallel()
	c := three(t)
	id := c.create(c.Nodes[0], "demo")
	boxes := []*lab.Sandbox{c.attach(c.Nodes[0], "demo", "a"), c.attach(c.Nodes[1], "demo", "b")}
	client, err := c.Etcd.Client()
	c.must(err)
	bad := map[string]string{
		"networks/" + strings.Repeat("ab", 32): `{"id":"ab`,
		"nodes/" + strings.Repeat("cd", 32):    "hello",
		"net/" + id + "/endpoints/zz":          "{}",
		"net/" + id + "/blocks/64/" + "nine":   `{"node":"x"}`,
	}
	for key, value := range bad {
		_, err := client.Put(t.Context(), lab.Prefix+key, value)
		c.must(err)
	}
	warned := func(want bool) func(context.Context) error {
		return func(ctx context.Context) error {
			status, err := c.Nodes[0].MustCtl(ctx, "status")
			if err != nil {
				return err
			}
			for key := range bad {
				if strings.Contains(status, key) != want {
					return fmt.Errorf("a warning of %s: want %v\n%s", key, want, status)
				}
			}
			return nil
		}
	}
	c.eventually(settleWithin, warned(true))
	c.mesh(boxes...)
	c.must(c.verified(t.Context()))
	late := c.attach(c.Nodes[2], "demo", "late")
	c.mesh(append(boxes, late)...)
	for key := range bad {
		_, err := client.Delete(t.Context(), lab.Prefix+key, clientv3.WithPrefix())
		c.must(err)
	}
	c.eventually(settleWithin, warned(false))
	c.eventually(settleWithin+time.Second, c.verified)
}
