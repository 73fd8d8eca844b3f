package kernel

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// An opCase is an op, and what each switch over ops makes of it.
type opCase struct {
	op      Op
	device  string   // Device
	makes   []string // what cannot be built on if it fails
	needs   []string // what it builds on
	alike   bool     // likeness, isEntry
	kind    string   // of its Repair
	refused bool     // by a kernel that holds nothing
}

// opCases lists every op that there is.
func opCases() []opCase {
	const veth, vxlan, bridge = "osv-0000000001", "osx-0000000001", "osb-0000000001"
	ip, hw := netip.MustParseAddr("192.0.2.2"), mac(2)
	fdb, static, neigh := FDBKey{vxlan, hw}, FDBKey{veth, hw}, NeighKey{vxlan, ip}
	chain := ChainKey{overspan.IPv4, "filter", "OVERSPAN-X"}
	forwards := forwardingNeeds(overspan.IPv4, "filter")
	inside := Inside{Netns: "/run/netns/x", Name: "eth0"}
	addr := Addr{bridge, netip.MustParsePrefix("10.0.0.1/24")}
	return []opCase{
		{op: AddNetns{"/run/netns/x"}, makes: []string{"/run/netns/x"}, kind: "netns"},
		{op: DelNetns{"/run/netns/x"}, kind: "netns"},
		{op: AddLink{veth, Link{Kind: KindVeth, Master: bridge}, &inside}, device: veth, makes: []string{veth}, needs: []string{veth, bridge, inside.Netns}, kind: "link", refused: true},
		{op: SetLink{veth, Link{Kind: KindVeth}, Link{Kind: KindVeth, Master: bridge}}, device: veth, needs: []string{veth, bridge, programOf(veth)}, kind: "link", refused: true},
		{op: DelLink{vxlan}, device: vxlan, makes: []string{vxlan}, kind: "link"},
		{op: DoomLink{veth}, device: veth, kind: "link"},
		{op: Retire{[]string{veth}}, makes: []string{veth}, kind: "link"},
		{op: SetInside{veth, inside, inside}, device: veth, needs: []string{veth}, kind: "inside", refused: true},
		{op: SetSysctl{Path: "net/ipv4/conf/" + bridge + "/arp_ignore", Value: "1"}, device: bridge, needs: []string{bridge}, kind: "sysctl", refused: true},
		{op: AddAddr{addr}, device: bridge, needs: []string{bridge}, kind: "address", refused: true},
		{op: DelAddr{addr}, device: bridge, kind: "address"},
		{op: SetFDB{Key: fdb, Dst: ip}, device: vxlan, needs: []string{vxlan}, alike: true, kind: "fdb", refused: true},
		{op: DelFDB{fdb, Dest{VTEP: ip}}, device: vxlan, alike: true, kind: "fdb"},
		{op: AddStatic{static}, device: veth, needs: []string{veth}, alike: true, kind: "static", refused: true},
		{op: DelStatic{static}, device: veth, alike: true, kind: "static"},
		{op: SetNeigh{Key: neigh, MAC: hw}, device: vxlan, needs: []string{vxlan}, alike: true, kind: "neighbour", refused: true},
		{op: DelNeigh{neigh, LLAddr{MAC: hw}}, device: vxlan, alike: true, kind: "neighbour"},
		{op: SetProgram{Dev: veth, Want: Program{Kind: ProgramPort, Bridge: bridge}}, device: veth, makes: []string{programOf(veth)}, needs: []string{veth}, kind: "program", refused: true},
		{op: AttachProgram{veth}, device: veth, makes: []string{programOf(veth)}, needs: []string{veth, programOf(veth)}, kind: "program", refused: true},
		{op: DelProgram{veth}, device: veth, kind: "program"},
		{op: AddSet{"overspan-x", overspan.IPv4, false}, makes: []string{"overspan-x"}, needs: []string{"overspan-x"}, kind: "set"},
		{op: DelSet{"overspan-x"}, makes: []string{"overspan-x"}, kind: "set"},
		{op: AddSetEntry{"overspan-x", Single(ip)}, needs: []string{"overspan-x"}, alike: true, kind: "set entry", refused: true},
		{op: DelSetEntry{"overspan-x", Single(ip)}, alike: true, kind: "set entry"},
		{op: AddChain{chain}, makes: []string{chain.String()}, kind: "chain"},
		{op: LoadChains{overspan.IPv4, "filter", map[string][]Rule{chain.Name: nil}}, makes: []string{chain.String(), forwards}, kind: "chain"},
		{op: AddJump{chain, "FORWARD"}, makes: []string{forwards}, needs: []string{chain.String()}, kind: "jump", refused: true},
		{op: DelJump{chain, "FORWARD"}, kind: "jump"},
		{op: DelChains{overspan.IPv4, "filter", []string{chain.Name}}, kind: "chain"},
		{op: FlushFlows{[]Flow{{Protocol: "tcp", Dst: netip.AddrPortFrom(ip, 80)}}}, kind: "flow"},
		{op: DelTable{TableKey{overspan.IPv4, "filter"}}, kind: "table"},
	}
}

// TestEveryOpIsKnownEverywhere: what is done with ops is in many switches, and a
// new op must be in each of them.
func TestEveryOpIsKnownEverywhere(t *testing.T) {
	h := newTestHost(t)
	var listed []string
	for _, tt := range opCases() {
		name := reflect.TypeOf(tt.op).Name()
		listed = append(listed, name)
		t.Run(name, func(t *testing.T) {
			_, alike := likeness(tt.op)
			got := opCase{
				device: Device(tt.op), makes: makes(tt.op), needs: needs(tt.op),
				alike: alike, kind: describe(tt.op).Kind, refused: (State{}).refuse(tt.op) != nil,
			}
			want := tt
			want.op = nil
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(opCase{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if isEntry(tt.op) != alike {
				t.Errorf("it travels with others: %v; it is told with others: %v", !alike, alike)
			}
			if tt.op.String() == "" {
				t.Error("it has no text")
			}
			Apply(State{}, []Op{tt.op})
			// The host holds nothing that it could be about: it may be refused.
			if err := h.Apply(t.Context(), []Op{tt.op}); err != nil && (strings.Contains(err.Error(), "unknown op") || strings.Contains(err.Error(), "not an entry")) {
				t.Error(err)
			}
		})
	}
	slices.Sort(listed)
	if diff := cmp.Diff(declaredOps(t), listed); diff != "" {
		t.Errorf("ops of this package and of the table (-declared +listed):\n%s", diff)
	}
}

// declaredOps returns the names of the types of this package that are ops.
func declaredOps(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if ok && f.Name.Name == "apply" && f.Recv != nil {
				names = append(names, f.Recv.List[0].Type.(*ast.Ident).Name)
			}
		}
	}
	slices.Sort(names)
	return names
}
