package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

func TestNameOfANamespaceOutweighsTheDigitsOfAnID(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	digits := string(n.Sandboxes()[0].ID[:2])
	n.kernel.MakeNetns("/run/netns/" + digits)
	if e := n.connect(ConnectRequest{Network: "demo", Target: digits}); e.Sandbox != digits {
		t.Errorf("target %s is taken for sandbox %s", digits, e.Sandbox)
	}
	if _, err := n.target(t.Context(), string(n.Sandboxes()[0].ID[:12])); err != nil {
		t.Errorf("digits that name nothing else: %v", err)
	}
}

// A namespace that has the number, and the path, of one that is gone is connected
// as itself, though nobody has looked since.
func TestReuseOfANumberIsAnotherSandbox(t *testing.T) {
	c := newTestCluster(t, 2)
	n, peer := c.nodes[0], c.nodes[1]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	peer.connect(ConnectRequest{Network: "demo", Target: peer.container("peer")})
	for _, test := range []struct{ name, dies, next string }{
		{"the same path", "/run/netns/web", "web"},
		{"another path", "/run/netns/web", "netns:/run/netns/web2"},
	} {
		before := n.kernel.MakeNetns(test.dies)
		was := n.connect(ConnectRequest{Network: "demo", Target: "netns:" + test.dies})
		events := n.Subscribe(t.Context(), Span{})
		n.kernel.LoseNetns(test.dies)
		path := test.dies
		if rest, named := strings.CutPrefix(test.next, "netns:"); named {
			path = rest
		}
		if now := n.kernel.MakeNetns(path); now.Ino != before.Ino {
			t.Fatalf("%s: its number is %d, want that of the one before, %d", test.name, now.Ino, before.Ino)
		}
		is := n.connect(ConnectRequest{Network: "demo", Target: test.next})
		n.eventually("the endpoint of the dead one is gone", func() bool { return len(n.Attachments()) == 1 })
		if here := n.Attachments(); here[0].Endpoint.ID != is.ID || is.ID == was.ID || here[0].Netns != path {
			t.Errorf("%s: the endpoints are %+v, want %s in %s alone", test.name, here, is.ID, path)
		}
		var told []string
		for !slices.Contains(told, "connect "+string(is.ID)) || !slices.Contains(told, "disconnect "+string(was.ID)) {
			e := <-events
			told = append(told, e.Action+" "+e.ID)
		}
		n.kernel.LoseNetns(path)
		n.eventually("its end is seen", func() bool { return len(n.Sandboxes()) == 0 })
	}
	n.clean()
}

// What a sandbox's record lacks that an earlier version wrote tells it from nothing.
func TestRecordsOfEarlierVersionsMatch(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.kernel.MakeNetns("/run/netns/web")
	n.connect(ConnectRequest{Network: "demo", Target: "web"})
	sb := n.Sandboxes()[0]
	sb.Inode = overspan.NetnsID{Dev: sb.Inode.Dev, Ino: sb.Inode.Ino}
	n.local.PutSandbox(sb)
	if err := n.journal.PutSandbox(sb); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	if got, err := n.target(t.Context(), "netns:/run/netns/web"); err != nil || got.ID != sb.ID {
		t.Errorf("target = %+v, %v; want %s", got, err, sb.ID)
	}
	if here := n.Attachments(); len(here) != 1 {
		t.Errorf("endpoints: %+v", here)
	}
}
