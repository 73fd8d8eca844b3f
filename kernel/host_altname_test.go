package kernel

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

// TestAltName: a bridge is found by a second name, gets it back, and keeps those
// that others give it.
func TestAltName(t *testing.T) {
	h := newTestHost(t)
	n := newTestNet(7)
	want := n.plan(netip.MustParseAddr("192.0.2.1"))
	link := want.Links[n.bridge()]
	link.AltName = "br-app"
	want.Links[n.bridge()] = link
	scope := Scope{All: true}

	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	converge(t, h, scope, want)
	sh(t, "ip link show dev br-app | grep -q "+n.bridge())

	sh(t, "ip link property add dev "+n.bridge()+" altname theirs")
	if ops := Diff(read(t, h, scope), want); len(ops) > 0 {
		t.Errorf("another's name is to be corrected:\n%s", texts(ops))
	}
	sh(t, "ip link property del dev "+n.bridge()+" altname br-app")
	ops := Diff(read(t, h, scope), want)
	if got := Repairs(ops); len(got) != 1 || got[0].String() != n.bridge()+" altname none → br-app" {
		t.Errorf("it is put right by %v", got)
	}
	if err := h.Apply(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
	if ops := Diff(read(t, h, scope), want); len(ops) > 0 {
		t.Errorf("left to do:\n%s", texts(ops))
	}
	sh(t, "ip link show dev br-app >/dev/null; ip link show dev theirs >/dev/null")
}

// TestAltNameOfAnother: a link that bears the name is not touched, and the
// bridge is as good without, until it can have it.
func TestAltNameOfAnother(t *testing.T) {
	for kind, commands := range map[string][2]string{
		"name":             {"ip link add br-app type bridge", "ip link set br-app name other"},
		"alternative name": {"ip link add foreign type bridge; ip link property add dev foreign altname br-app", "ip link property del dev foreign altname br-app"},
	} {
		t.Run(kind, func(t *testing.T) {
			h := newTestHost(t)
			n := newTestNet(7)
			want := n.plan(netip.MustParseAddr("192.0.2.1"))
			link := want.Links[n.bridge()]
			link.AltName = "br-app"
			want.Links[n.bridge()] = link
			scope := Scope{All: true}
			sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up; "+commands[0])
			err := h.Apply(t.Context(), Diff(read(t, h, scope), want))
			if !errors.Is(err, overspan.ErrExists) || !strings.Contains(err.Error(), "br-app") {
				t.Errorf("Apply: %v", err)
			}
			left := Diff(read(t, h, scope), want)
			if len(left) != 1 || left[0].String() != "set link "+n.bridge()+" altname br-app (was none)" {
				t.Errorf("left to do:\n%s", texts(left))
			}
			sh(t, "ip link show dev br-app | grep -qv "+n.bridge())
			sh(t, commands[1])
			converge(t, h, scope, want)
		})
	}
}
