package kernel

import (
	"net/netip"
	"os"
	"testing"

	"github.com/overspan/overspan"
)

// TestFirstPacket joins two hosts by a VXLAN written by hand: the first packet
// of either side arrives, over both underlays, whatever the rules of the host
// say.
func TestFirstPacket(t *testing.T) {
	for _, underlay := range []struct {
		name string
		vtep [2]netip.Addr
	}{
		{"ipv4", [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}},
		{"ipv6", [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}},
	} {
		t.Run(underlay.name, func(t *testing.T) {
			n := newTestNet(7)
			a, b := newTestPair(t, underlay.vtep)
			pathA, pathB := newTestNetns(t, a.host, "a"), newTestNetns(t, b.host, "b")
			planA, planB := n.plan(underlay.vtep[0]), n.plan(underlay.vtep[1])
			n.addRemote(&planA, underlay.vtep[1], 64, 64)
			n.addRemote(&planB, underlay.vtep[0], 0, 64)
			put(&planA.Netns, pathA, struct{}{})
			put(&planB.Netns, pathB, struct{}{})
			keyA := n.addEndpoint(&planA, 2, pathA)
			keyB := n.addEndpoint(&planB, 64, pathB)
			for _, s := range []*State{&planA, &planB} {
				acceptBridged(s)
			}
			converge(t, a.host, Scope{All: true, Endpoints: []EndpointKey{keyA}}, planA)
			converge(t, b.host, Scope{All: true, Endpoints: []EndpointKey{keyB}}, planB)

			for _, ping := range []struct{ from, to string }{
				{pathA, n.v4.Addr(64).String()},
				{pathA, n.v6.Addr(64).String()},
				{pathB, n.v4.Addr(2).String()},
				{pathB, n.v6.Addr(2).String()},
				{pathA, n.v4.Gateway.String()},
				{pathA, n.v6.Gateway.String()},
			} {
				shIn(t, ping.from, "ping -n -c 1 -W 1 "+ping.to)
			}
			// Inner packets of the network's MTU pass whole.
			shIn(t, pathA, "ping -n -c 1 -W 1 -M do -s 1372 "+n.v4.Addr(64).String())

			// A doomed veth is silent at once.
			apply(t, b.host, DoomLink{overspan.VethName(keyB.Endpoint)})
			shIn(t, pathA, "! ping -n -c 1 -W 0.2 "+n.v4.Addr(64).String())
		})
	}
}

// acceptBridged plans what lets bridged frames through where br_netfilter shows
// them to iptables.
func acceptBridged(s *State) {
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		put(&s.Chains, ChainKey{family, "filter", "OVERSPAN-FORWARD"}, Chain{
			Hook:  "FORWARD",
			Rules: hashed("OVERSPAN-FORWARD", "-i osb-+ -o osb-+ -m physdev --physdev-is-bridged -j ACCEPT"),
		})
	}
}

// hashed makes rules that compare equal to what is read back.
func hashed(chain string, texts ...string) []Rule {
	var rules []Rule
	for _, text := range texts {
		r := Rule{Text: text}
		r.Hash = r.ID(chain)
		rules = append(rules, r)
	}
	return rules
}

type testNode struct {
	host *Host
	path string // of its namespace
}

// newTestPair returns two hosts whose underlay devices face each other, with a
// packet filter that forwards nothing.
func newTestPair(t *testing.T, vtep [2]netip.Addr) (a, b testNode) {
	t.Helper()
	base := newTestHost(t)
	nodes := [2]testNode{}
	for i, name := range []string{"node-a", "node-b"} {
		nodes[i].path = newTestNetns(t, base, name)
		ns, err := openNetns(nodes[i].path)
		if err != nil {
			t.Fatal(err)
		}
		err = do(ns, func() (err error) {
			nodes[i].host, err = NewHost(HostConfig{NetnsDir: t.TempDir()})
			if err != nil {
				return err
			}
			return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0)
		})
		ns.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nodes[i].host.Close)
	}
	sh(t, "ip link add ul netns "+nodes[0].path+" type veth peer name ul netns "+nodes[1].path)
	for i, node := range nodes {
		bits := "/24"
		if vtep[i].Is6() {
			bits = "/64 nodad"
		}
		shIn(t, node.path, "ip addr add "+vtep[i].String()+bits+" dev ul; ip link set ul up; iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
	}
	// The underlay's own first packet may wait for its neighbour to be found.
	shIn(t, nodes[0].path, "ping -n -c 1 -w 5 "+vtep[1].String())
	return nodes[0], nodes[1]
}
