package kernel

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// drawnStates is how many states TestHostLeadsThere visits.
const drawnStates = 40

// TestHostLeadsThere leads a kernel from one drawn state to the next: nothing
// of the plan is missing after one run, nothing else is left, and reading the
// parts one by one gives the whole.
func TestHostLeadsThere(t *testing.T) {
	h := newTestHost(t)
	for _, name := range []string{"x", "y", "p", "q"} {
		newTestNetns(t, h, name)
	}
	sh(t, "ip link add "+uplink+" type bridge")
	world := newWorld()
	at := map[overspan.EndpointID]string{} // the namespace that it was last in
	for seed := range drawnStates {
		want := feasible(h, genWant().Example(seed))
		scope := Scope{All: true}.WithSysctls(want)
		for _, e := range world.endpoints {
			if in, ok := want.Insides[overspan.VethName(e)]; ok {
				at[e] = in.Netns
			}
			scope.Endpoints = append(scope.Endpoints, EndpointKey{Endpoint: e, Netns: at[e]})
		}
		ops := Diff(read(t, h, scope), want)
		if err := h.Apply(t.Context(), ops); err != nil {
			t.Fatalf("seed %d: Apply: %v\nops:\n%s", seed, err, texts(ops))
		}
		got := read(t, h, scope)
		got.Doomed = nil
		if diff := cmp.Diff(closed(asRead(want.Clone())).Lines(), got.Lines()); diff != "" {
			t.Fatalf("seed %d: not there (-want +got):\n%s\nops:\n%s", seed, diff, texts(ops))
		}
		if again := Diff(got, want); len(again) > 0 {
			t.Fatalf("seed %d: the second run does:\n%s\nafter:\n%s", seed, texts(again), texts(ops))
		}
		for _, part := range []Scope{
			{Networks: world.networks[:1], Global: true, Sysctls: scope.Sysctls, Endpoints: scope.Endpoints, InsideSysctls: scope.InsideSysctls},
			{Networks: world.networks, Sysctls: scope.Sysctls},
			{Endpoints: scope.Endpoints, InsideSysctls: scope.InsideSysctls},
			someEntries(got, world),
		} {
			some := read(t, h, part)
			some.Doomed = nil
			if diff := cmp.Diff(got.Within(part).Lines(), some.Lines()); diff != "" {
				t.Fatalf("seed %d: Read(%+v) (-want +got):\n%s", seed, part, diff)
			}
		}
		if err := h.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// someEntries names half of the entries that are there, and of every device of
// the world some that are not.
func someEntries(s State, world world) (sc Scope) {
	for i, key := range slices.SortedFunc(maps.Keys(s.FDB), compareFDBKeys) {
		if i%2 == 0 {
			sc.FDB = append(sc.FDB, key)
		}
	}
	for i, key := range slices.SortedFunc(maps.Keys(s.Neighs), compareNeighKeys) {
		if i%2 == 0 {
			sc.Neighs = append(sc.Neighs, key)
		}
	}
	for _, id := range world.networks {
		dev := overspan.VXLANName(id)
		sc.FDB = append(sc.FDB, FDBKey{dev, overspan.MAC{0x02, 0x42, 0xff}})
		sc.Neighs = append(sc.Neighs, NeighKey{dev, addr("10.255.0.1")}, NeighKey{dev, addr("fd00::ffff")})
	}
	return sc
}

// closed returns the state with chains as they are read: nothing in a kernel
// tells that a chain is the user's.
func closed(s State) State {
	for key, c := range s.Chains {
		c.Open = false
		s.Chains[key] = c
	}
	return s
}

// feasible changes what the model of a kernel allows and a real one does not:
// two chains that are both first, one MAC behind two ports or programs, one VNI of two
// networks or of none that is open, routes by way of a link that is down, namespaces
// that nobody made.
func feasible(h *Host, s State) State {
	here := func(path string) string { return filepath.Join(h.config.NetnsDir, filepath.Base(path)) }
	pins := map[string]struct{}{here("x"): {}, here("y"): {}}
	for path := range s.Netns {
		pins[here(path)] = struct{}{}
	}
	s.Netns = pins
	for veth, in := range s.Insides {
		in.Netns, in.Up = here(in.Netns), true
		s.Insides[veth] = in
	}
	for name, l := range s.Links {
		if l.Kind != KindVeth {
			l.MAC[0] = 6
			s.Links[name] = l
		}
	}
	behind := map[FDBKey]struct{}{}
	for _, k := range slices.SortedFunc(maps.Keys(s.Statics), compareFDBKeys) {
		at := FDBKey{s.Links[k.Dev].Master, k.MAC}
		if _, taken := behind[at]; taken {
			delete(s.Statics, k)
		}
		behind[at] = struct{}{}
	}
	found, vnis := map[macKey]struct{}{}, map[uint32]struct{}{}
	for _, dev := range slices.Sorted(maps.Keys(s.Programs)) {
		p := s.Programs[dev]
		if p.Kind == ProgramUnderlay {
			continue
		}
		key, err := macKeyOf(p)
		if _, taken := found[key]; taken || err != nil {
			p.Open = false
		} else if p.Open {
			found[key] = struct{}{}
		}
		if _, taken := vnis[p.VNI]; taken || !p.Open {
			p.VNI = 0
		}
		vnis[p.VNI] = struct{}{}
		s.Programs[dev] = p
	}
	for key, c := range s.Chains {
		if c.Hook != "" {
			c.Hook = map[string]string{"filter": "FORWARD", "raw": "PREROUTING"}[key.Table]
		}
		if c.Open {
			c.Hook = ""
		}
		s.Chains[key] = c
	}
	return s
}
