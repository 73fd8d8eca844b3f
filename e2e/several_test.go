package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
)

// A homing is a step in the life of a sandbox with several networks, and what
// its default routes are by then. The ports that it has published, port 8080 for
// IPv4 and 8081 for IPv6, are wherever these lead.
type homing struct {
	do      string // "connect", "disconnect" or "restart"
	network string
	flags   []string
	ifname  string // that connect gives it
	v4, v6  string // the interface that each leads through; "" for none
}

// Scenario 35: "Two bridges and an overlay connected and disconnected in any
// order: outside connectivity after every step while a non-internal one is left;
// ports move."
func TestScenario35_SeveralNetworks(t *testing.T) {
	t.Parallel()
	c := build(t, lab.Options{Nodes: 2, Underlay: lab.UnderlayDual})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	h1.Flags = resync(shortResync)
	c.start()
	c.ctl(h1, "network", "create", "-d", "bridge", "one")
	c.ctl(h1, "network", "create", "-d", "bridge", "two")
	c.create(h1, "--ipv6", "six")
	c.ctl(h1, "network", "create", "-d", "bridge", "--internal", "inside")
	peer := c.attach(h2, "six", "peer")
	box := c.netns(h1, "web")
	c.serve(box, 80)
	client, err := lab.OpenUDP(t.Context(), h2, at(h1.Addrs[0], 8080))
	c.must(err)
	defer client.Close()
	plugged := map[string]string{} // interface by network
	quiet := []string{"--driver-opt", "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0"}
	for i, step := range []homing{
		{do: "connect", network: "inside", ifname: "eth0"},
		{do: "connect", network: "one", ifname: "eth1", v4: "eth1", flags: append(twice("8080:80"), quiet...)},
		{do: "connect", network: "six", ifname: "eth2", v4: "eth2", v6: "eth2", flags: append(twice("[::]:8081:80"), "--gw-priority", "5")},
		{do: "connect", network: "two", ifname: "eth3", v4: "eth2", v6: "eth2", flags: []string{"--gw-priority", "5"}},
		{do: "disconnect", network: "inside", v4: "eth2", v6: "eth2"},
		{do: "connect", network: "inside", ifname: "eth0", v4: "eth2", v6: "eth2", flags: []string{"--gw-priority", "9"}},
		{do: "restart", v4: "eth2", v6: "eth2"},
		{do: "disconnect", network: "six", v4: "eth3"},
		{do: "disconnect", network: "two", v4: "eth1"},
		{do: "connect", network: "two", ifname: "eth2", v4: "eth1"},
		{do: "connect", network: "six", ifname: "out0", v4: "eth1", v6: "out0", flags: []string{"--ifname", "out0", "--gw-priority", "-1", "--mac-address", "0a:00:00:00:00:35"}},
		{do: "disconnect", network: "one", v4: "eth2", v6: "out0"},
		{do: "disconnect", network: "two", v4: "out0", v6: "out0"},
		{do: "connect", network: "one", ifname: "eth1", v4: "eth1", v6: "out0", flags: quiet},
		{do: "disconnect", network: "six", v4: "eth1"},
	} {
		name := fmt.Sprintf("step %d, %s %s", i, step.do, step.network)
		c.takeStep(box, step)
		c.leavesBy(box, name, step)
		switch step.do {
		case "connect":
			plugged[step.network] = step.ifname
		case "disconnect":
			delete(plugged, step.network)
		}
		c.served(h2, box, name, step, plugged, client)
		if step.network == "six" && step.do == "connect" {
			c.reaches(box, c.addrsOf(peer)...)
		}
		_, err := h1.MustCtl(t.Context(), "verify")
		c.must(err)
	}
	c.refused(h1, []string{"network inside is internal"}, "network", "connect", "-p", "80", "inside", c.netns(h1, "other").Name)
	c.sysctlsHold(box, "eth1")
	c.optionsRefused(box)
}

// takeStep connects or disconnects, or restarts the agent. A default route that
// moves to a network that comes loses no packet.
func (c *cluster) takeStep(box *lab.Sandbox, step homing) {
	c.t.Helper()
	switch step.do {
	case "restart":
		c.must(box.Node.Restart(c.t.Context()))
	case "disconnect":
		c.disconnect(step.network, box)
	case "connect":
		moves := slices.Contains(step.flags, "--gw-priority") && step.ifname == step.v4
		if !moves {
			c.connect(step.network, box, step.flags...)
			break
		}
		ping, err := box.StartPing(box.Node.Addrs[0])
		c.must(err)
		c.connect(step.network, box, step.flags...)
		sent, lost, err := ping.Stop(c.t.Context())
		c.must(err)
		if lost > 0 || sent == 0 {
			c.t.Errorf("connect %s: %d of %d packets that leave by the default route were lost", step.network, lost, sent)
		}
	}
	if step.ifname == "" {
		return
	}
	got := c.ctl(box.Node, "endpoint", "inspect", "--network", step.network, "--format", "{{.Interface}} {{.Gateway}}", box.Name)
	if want := fmt.Sprintf("%s %t", step.ifname, step.ifname == step.v4 || step.ifname == step.v6); got != want {
		c.t.Errorf("connect %s: interface and gateway are %s, want %s", step.network, got, want)
	}
}

// leavesBy checks that a sandbox has one default route of a family, or none, and
// reaches its node by an address that is in none of its networks.
func (c *cluster) leavesBy(box *lab.Sandbox, name string, step homing) {
	c.t.Helper()
	for family, want := range map[string]string{"-4": step.v4, "-6": step.v6} {
		check := func(ctx context.Context) error {
			routes, err := box.Exec(ctx, "ip", family, "route", "show", "default")
			if err == nil && (strings.Count(routes, "default") != min(1, len(want)) || !strings.Contains(routes, want)) {
				err = fmt.Errorf("%s: the default route (%s) is %q, want it by %q", name, family, routes, want)
			}
			return err
		}
		if want == "" { // the last one goes with its interface, a moment later
			c.eventually(settleWithin, check)
		} else if err := check(c.t.Context()); err != nil {
			c.t.Error(err)
		}
	}
	for _, a := range box.Node.Addrs {
		switch way := map[bool]string{true: step.v4, false: step.v6}[a.Is4()]; way {
		case "":
			c.misses(box, a)
		default:
			c.reaches(box, a)
		}
	}
}

// served checks that another host reaches a sandbox by its published ports where a
// default route of their family is there, also by a flow that goes on, and that
// the records of its endpoints come to tell of those that lead to them.
func (c *cluster) served(from *lab.Node, box *lab.Sandbox, name string, step homing, plugged map[string]string, goesOn net.Conn) {
	c.t.Helper()
	want := map[string]string{}
	for _, a := range box.Node.Addrs {
		way, port := step.v4, uint16(8080)
		if a.Is6() {
			way, port = step.v6, 8081
		}
		if way == "" {
			continue
		}
		if got := c.asks(from, at(a, port), box.Name); !slices.Contains(from.Addrs, got) {
			c.t.Errorf("%s: the server takes %s for its client; want one of %s", name, got, from.Addrs)
		}
		want[way] += fmt.Sprintf(" %d", port)
	}
	if got, err := lab.AskOn(goesOn); step.v4 != "" && (err != nil || got.Name != box.Name) {
		c.t.Errorf("%s: a flow that goes on: answer of %q, %v", name, got.Name, err)
	}
	c.eventually(settleWithin, func(ctx context.Context) error {
		for network, ifname := range plugged {
			var shown []struct {
				Ports map[string][]struct{ HostPort string }
			}
			if err := box.Node.CtlJSON(ctx, &shown, "endpoint", "inspect", "--network", network, box.Name); err != nil {
				return err
			}
			got := ""
			for _, binding := range shown[0].Ports["80/tcp"] {
				got += " " + binding.HostPort
			}
			if got != want[ifname] {
				return fmt.Errorf("%s: ports%s lead to the endpoint in %s, as it says; want%s", name, got, network, want[ifname])
			}
		}
		return nil
	})
}

// addrsOf returns all addresses of a sandbox on its first interface.
func (c *cluster) addrsOf(box *lab.Sandbox) []netip.Addr {
	c.t.Helper()
	addrs, err := box.Addrs(eth0)
	c.must(err)
	return addrs
}

// sysctlsHold checks the settings of an interface, also after its container has
// deleted it.
func (c *cluster) sysctlsHold(box *lab.Sandbox, ifname string) {
	c.t.Helper()
	hold := func() error {
		got, err := box.Exec(c.t.Context(), "sysctl", "-n", "net.ipv4.conf."+ifname+".log_martians", "net.ipv6.conf."+ifname+".accept_ra")
		if err == nil && strings.Join(strings.Fields(got), " ") != "1 0" {
			err = fmt.Errorf("log_martians and accept_ra of %s are %q, want 1 and 0", ifname, got)
		}
		return err
	}
	c.must(hold())
	_, err := box.Exec(c.t.Context(), "ip", "link", "del", ifname)
	c.must(err)
	c.eventually(settleWithin, func(context.Context) error { return hold() })
	// What the programs at ports know of the one that is gone, a look at
	// everything finds.
	c.eventually(settleWithin, c.verified)
}

// optionsRefused tries what cannot be.
func (c *cluster) optionsRefused(box *lab.Sandbox) {
	c.t.Helper()
	const sysctls = "com.docker.network.endpoint.sysctls="
	for _, bad := range []struct {
		opt  string
		say  []string
		more []string
	}{
		{opt: "com.docker.network.endpoint.color=red", say: []string{"unknown option", "endpoint.sysctls"}},
		{opt: sysctls + "net.ipv4.ip_forward=1", say: []string{`invalid sysctl "net.ipv4.ip_forward=1"`, "net.ipv4.conf.IFNAME.KEY=NUMBER"}},
		{opt: sysctls + "net.ipv4.conf.eth0.log_martians=1", say: []string{"invalid sysctl"}},
		{opt: sysctls + "kernel.conf.x.IFNAME.y=1", say: []string{"invalid sysctl"}},
		{opt: sysctls + "net.ipv4.conf.IFNAME.no_such=1", say: []string{"Error: connect " + box.Name + " to network six: sysctls of its driver options: sysctl net/ipv4/conf/eth2/no_such=1: this kernel has none of that name"}},
		{opt: sysctls + "net.ipv6.conf.IFNAME.disable_ipv6=1", say: []string{"contradicts network six, which has IPv6"}},
		{opt: "com.docker.network.endpoint.ifname=a0", more: []string{"--ifname", "b0"}, say: []string{"both b0 and a0"}},
	} {
		c.refused(box.Node, bad.say, append(append([]string{"network", "connect"}, bad.more...), "--driver-opt", bad.opt, "six", box.Name)...)
	}
}
