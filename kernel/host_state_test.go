package kernel

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

// TestHostLeadsThere leads a kernel from one drawn state to the next: nothing
// of the plan is missing after one run, nothing else is left, and reading the
// parts one by one gives the whole.
func TestHostLeadsThere(t *testing.T) {
	h := newTestHost(t)
	world := newWorld()
	for _, name := range []string{"x", "y"} {
		newTestNetns(t, h, name)
	}
	t.Cleanup(func() {
		for _, name := range []string{"p", "q"} {
			if err := h.delPin(filepath.Join(h.config.NetnsDir, name)); err != nil {
				t.Error(err)
			}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := feasible(h, genWant().Draw(t, "want"))
		scope := Scope{All: true, Sysctls: slices.Collect(maps.Keys(want.Sysctls))}
		for _, e := range world.endpoints {
			if in, ok := want.Insides[overspan.VethName(e)]; ok {
				id, _, _ := overspan.ParseAlias(want.Links[overspan.VethName(e)].Alias)
				scope.Endpoints = append(scope.Endpoints, EndpointKey{Network: id, Endpoint: e, Netns: in.Netns})
			}
		}
		before, err := h.Read(t.Context(), scope)
		if err != nil {
			t.Fatal(err)
		}
		ops := Diff(before, want)
		if err := h.Apply(t.Context(), ops); err != nil {
			t.Fatalf("Apply: %v\nops:\n%s", err, texts(ops))
		}
		got, err := h.Read(t.Context(), scope)
		if err != nil {
			t.Fatal(err)
		}
		got.Doomed = nil
		if diff := cmp.Diff(asRead(want.Clone()).Lines(), got.Lines()); diff != "" {
			t.Fatalf("not there (-want +got):\n%s\nops:\n%s", diff, texts(ops))
		}
		if again := Diff(got, want); len(again) > 0 {
			t.Fatalf("the second run does:\n%s\nafter:\n%s", texts(again), texts(ops))
		}
		for _, part := range []Scope{
			{Networks: world.networks[:1], Global: true, Sysctls: scope.Sysctls, Endpoints: scope.Endpoints},
			{Networks: world.networks, Sysctls: scope.Sysctls},
			{Endpoints: scope.Endpoints},
		} {
			some, err := h.Read(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			some.Doomed = nil
			if diff := cmp.Diff(got.Within(part).Lines(), some.Lines()); diff != "" {
				t.Fatalf("Read(%+v) (-want +got):\n%s", part, diff)
			}
		}
		if err := h.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// feasible changes what the model of a kernel allows and a real one does not:
// two chains that are both first, one MAC behind two ports, routes by way of a
// link that is down, namespaces that nobody made.
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
