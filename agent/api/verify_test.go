package api_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// second is another node's daemon: that of apitest under another id.
type second struct {
	*apitest.Daemon
}

func (second) Self() overspan.NodeID { return apitest.Other }

// verdicts verifies all nodes and returns a line for each.
func verdicts(t *testing.T, system overspanv1.SystemServiceClient) []string {
	t.Helper()
	resp, err := system.Verify(t.Context(), &overspanv1.VerifyRequest{All: true})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range resp.GetNodes() {
		out = append(out, fmt.Sprintf("%s %q %s", v.GetName(), v.GetDrift(), v.GetError()))
	}
	return out
}

// TestVerifyAllAsksOtherAgents over mutual TLS at their underlay address, and
// says of each that cannot be asked why not.
func TestVerifyAllAsksOtherAgents(t *testing.T) {
	ca := apitest.NewAuthority(t)
	files := apitest.TLSFiles(t)
	ca.Write(t, files, 1)

	other := second{apitest.New()}
	other.SetDrift("add fdb 02:42:0a:00:00:10 dev osx-1 dst 10.99.0.1")
	addr := serve(t, other, api.Config{Listen: []string{"tcp://127.0.0.2:0"}, TLS: files})[0]
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}

	d := apitest.New()
	vtep := func(text string) {
		d.Change(func(s *overspan.Snapshot) {
			n := *s.Nodes[apitest.Other]
			n.VTEPs = []netip.Addr{netip.MustParseAddr(text)}
			s.Nodes[apitest.Other] = &n
		})
	}
	vtep("127.0.0.2")
	own := serve(t, d, api.Config{Listen: []string{"unix://" + filepath.Join(t.TempDir(), "agent.sock"), "tcp://127.0.0.1:" + port}, TLS: files})
	system := overspanv1.NewSystemServiceClient(dial(t, own[0], nil))
	want := []string{
		`h1 [] `,
		`h2 ["add fdb 02:42:0a:00:00:10 dev osx-1 dst 10.99.0.1"] `,
		`h3 [] could not be asked: the node is down`,
	}
	if diff := cmp.Diff(want, verdicts(t, system)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}

	vtep("127.0.0.1") // where we listen ourselves
	if got := verdicts(t, system)[1]; !strings.Contains(got, "could not be asked: another agent answers at its address") {
		t.Errorf("the wrong agent: %s", got)
	}
}

func TestVerifyAllWithoutTLS(t *testing.T) {
	d, c := start(t)
	d.SetDrift("del link osv-1")
	got := verdicts(t, c.system)
	if got[0] != `h1 ["del link osv-1"] ` || !strings.Contains(got[1], "could not be asked: this agent does not talk to others") {
		t.Errorf("verdicts: %q", got)
	}
}
