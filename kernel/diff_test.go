package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

func TestDiffOfEqualStatesIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genWant().Draw(t, "s")
		if ops := Diff(s, s); len(ops) != 0 {
			t.Fatalf("Diff(s, s) = %s", texts(ops))
		}
		if ops := Diff(asRead(s.Clone()), s); len(ops) != 0 {
			t.Fatalf("Diff(s as read, s) = %s", texts(ops))
		}
	})
}

// TestDiffLeadsThere carries the ops out on a kernel that refuses what does not
// come in order.
func TestDiffLeadsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genHave().Draw(t, "have"), genWant().Draw(t, "want")
		before := have.Lines()
		ops := Diff(have, want)
		if diff := cmp.Diff(before, have.Lines()); diff != "" {
			t.Fatalf("Diff changed have (-want +got):\n%s", diff)
		}
		got := have
		for _, op := range ops {
			if add, ok := op.(AddLink); ok && got.Links[add.Name] != (Link{}) {
				t.Fatalf("%s: it is there; all ops:\n%s", op, texts(ops))
			} else if ok && hasEnd(got, add.Inside) {
				t.Fatalf("%s: its other end is there; all ops:\n%s", op, texts(ops))
			}
			if err := got.refuse(op); err != nil {
				t.Fatalf("%s: %v; all ops:\n%s", op, err, texts(ops))
			}
			got = Apply(got, []Op{op})
		}
		if diff := cmp.Diff(expected(have, want).Lines(), reached(got, want).Lines()); diff != "" {
			t.Fatalf("not there (-want +got):\n%s\nops:\n%s", diff, texts(ops))
		}
		if again := Diff(got, want); len(again) != 0 {
			t.Fatalf("the second run does %s\nafter:\n%s", texts(again), texts(ops))
		}
	})
}

// hasEnd reports whether a veth has an end where another is to have its own.
func hasEnd(s State, end *Inside) bool {
	for _, i := range s.Insides {
		if end != nil && !i.Missing && i.Netns == end.Netns && i.Name == end.Name {
			return true
		}
	}
	return false
}

// expected is want as far as it can be seen: as read back, without the insides
// that have has not read.
func expected(have, want State) State {
	want = asRead(want.Clone())
	maps.DeleteFunc(want.Insides, func(veth string, _ Inside) bool {
		_, read := have.Insides[veth]
		_, there := have.Links[veth]
		return there && !read
	})
	return want
}

// reached is what was reached, without what is nobody's business: links that
// wait to be retired, sysctls that nobody wants.
func reached(got, want State) State {
	got = got.Clone()
	got.Doomed = nil
	maps.DeleteFunc(got.Sysctls, func(path, _ string) bool { return want.Sysctls[path] == "" })
	return got
}

func TestDiffOfPartialStatesOnlyAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genHave().Draw(t, "have"), genWant().Draw(t, "want")
		have.Partial = rapid.Bool().Draw(t, "have partial")
		want.Partial = !have.Partial || rapid.Bool().Draw(t, "want partial")
		ops := Diff(have, want)
		got := Apply(have, ops)
		for _, op := range ops {
			if text := op.String(); strings.HasPrefix(text, "del ") || strings.HasPrefix(text, "doom ") {
				t.Errorf("op %s", text)
			}
		}
		wantKept(t, "netns", have.Netns, got.Netns)
		wantKept(t, "link", have.Links, got.Links)
		wantKept(t, "inside", have.Insides, got.Insides)
		wantKept(t, "address", have.Addrs, got.Addrs)
		wantKept(t, "fdb entry", have.FDB, got.FDB)
		statics := maps.Clone(have.Statics)
		maps.DeleteFunc(statics, func(k FDBKey, _ struct{}) bool { return got.Links[k.Dev].Master == "" })
		wantKept(t, "static entry of a port", statics, got.Statics)
		wantKept(t, "neighbour", have.Neighs, got.Neighs)
		wantKept(t, "sysctl", have.Sysctls, got.Sysctls)
		wantKept(t, "set", have.Sets, got.Sets)
		wantKept(t, "chain", have.Chains, got.Chains)
		for name, l := range have.Links {
			if !l.convertible(got.Links[name]) {
				t.Errorf("link %s was made anew", name)
			}
		}
		for key, c := range have.Chains {
			for _, id := range c.ids(key.Name) {
				if !slices.Contains(got.Chains[key].ids(key.Name), id) {
					t.Errorf("chain %s lost a rule", key)
				}
			}
		}
		wantKept(t, "address that was wanted", want.Addrs, got.Addrs)
		wantKept(t, "fdb entry that was wanted", want.FDB, got.FDB)
		wantKept(t, "neighbour that was wanted", want.Neighs, got.Neighs)
		wantKept(t, "link that was wanted", want.Links, got.Links)
	})
}

func wantKept[K comparable, V any](t *rapid.T, what string, before, after map[K]V) {
	for k := range before {
		if _, ok := after[k]; !ok {
			t.Errorf("%s %v is gone", what, k)
		}
	}
}

// TestDiffIsDeterministic gives the same ops, each with a text of its own, from
// maps that were filled in another order.
func TestDiffIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genHave().Draw(t, "have"), genWant().Draw(t, "want")
		ops := texts(Diff(have, want))
		if diff := cmp.Diff(ops, texts(Diff(have.Clone(), want.Clone()))); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
		lines := strings.Split(ops, "\n")
		slices.Sort(lines)
		if n := len(slices.Compact(slices.Clone(lines))); n != len(lines) {
			t.Fatalf("two ops with one text:\n%s", ops)
		}
	})
}

func texts(ops []Op) string {
	var lines []string
	for _, op := range ops {
		lines = append(lines, op.String())
	}
	return strings.Join(lines, "\n")
}

func BenchmarkDiff(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1k", 1_000}, {"10k", 10_000}, {"50k", 50_000}} {
		s := State{FDB: map[FDBKey]Dest{}, Neighs: map[NeighKey]LLAddr{}}
		for i := range size.n {
			ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			hw := overspan.MAC{2, 0x42, 10, 0, byte(i >> 8), byte(i)}
			s.FDB[FDBKey{"osx-0123456789", hw}] = Dest{VTEP: netip.AddrFrom4([4]byte{10, 99, 0, byte(i % 250)})}
			s.Neighs[NeighKey{"osx-0123456789", ip}] = LLAddr{MAC: hw}
		}
		b.Run(fmt.Sprintf("fdb=%s", size.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Diff(s, s)
			}
		})
		b.Run(fmt.Sprintf("from=empty/fdb=%s", size.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Diff(State{}, s)
			}
		})
	}
}
