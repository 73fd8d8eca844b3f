package kernel

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Repair says in words for an operator what an op, or many alike, put right.
type Repair struct {
	Kind   string // of object, one of a dozen words: "link", "fdb"
	Dev    string // the device that it hangs on; "" for none
	Object string // "osx-0123456789", "fdb 02:42:0a:00:00:02 on osx-0123456789"
	Change string // "down → up", "missing → added"
	Count  int    // of ops
}

// String returns "osx-0123456789 down → up".
func (r Repair) String() string { return r.Object + " " + r.Change }

// Verb returns "added", "deleted" or "set": what was done to the object, for those who
// count.
func (r Repair) Verb() string {
	switch {
	case r.Kind == "inside": // its addresses and routes come and go, it stays
		return "set"
	case strings.HasSuffix(r.Change, added) || strings.HasSuffix(r.Change, made):
		return "added"
	case strings.HasSuffix(r.Change, deleted):
		return "deleted"
	}
	return "set"
}

// entriesTold is how many entries of a device are told one by one: a flushed
// table is one event, not thousands.
const entriesTold = 4

// What became of an object.
const (
	added    = "missing → added"
	made     = "missing → made"
	deleted  = "not wanted → deleted"
	replaced = "wrong → replaced"
)

// Repairs says what ops put right, in their order. Entries of one device that
// are many and alike are one Repair, and so are the deletion of a link and its
// making anew.
func Repairs(ops []Op) []Repair {
	runs := map[alike]int{}
	links := map[string]string{} // made in this run, and what is said of each
	for _, op := range ops {
		if key, ok := likeness(op); ok {
			runs[key]++
		}
		if o, ok := op.(AddLink); ok {
			links[o.Name] = made
		}
	}
	var out []Repair
	for _, op := range ops {
		key, entry := likeness(op)
		if entry && runs[key] == 0 {
			continue // told with the first of its kind
		}
		r := describe(op)
		switch o := op.(type) {
		case DelLink:
			if links[o.Name] == made {
				r.Change = "made otherwise → made anew"
				links[o.Name] = ""
			}
		case AddLink:
			if links[o.Name] != made {
				continue // told with its deletion
			}
		}
		if runs[key] > entriesTold {
			r.Object, r.Change, r.Count = fmt.Sprintf("%d %s %s", runs[key], plurals[key.kind], key.of), key.became, runs[key]
			runs[key] = 0
		}
		out = append(out, r)
	}
	return out
}

// alike is what entries have in common that are told together.
type alike struct{ kind, of, became string }

// plurals are the kinds of entries as people count them.
var plurals = map[string]string{
	"fdb":       "forwarding entries on",
	"static":    "static bridge entries on",
	"neighbour": "neighbours on",
	"set entry": "entries of",
}

// likeness says what an entry's op has in common with others.
func likeness(op Op) (key alike, ok bool) {
	key = alike{of: Device(op), became: added}
	switch o := op.(type) {
	case SetFDB:
		key.kind = "fdb"
		if o.Was != (Dest{}) {
			key.became = replaced
		}
	case SetNeigh:
		key.kind = "neighbour"
		if o.Was != (LLAddr{}) {
			key.became = replaced
		}
	case AddStatic:
		key.kind = "static"
	case AddSetEntry:
		key.kind, key.of = "set entry", setText(o.Set)
	case DelFDB:
		key.kind, key.became = "fdb", deleted
	case DelNeigh:
		key.kind, key.became = "neighbour", deleted
	case DelStatic:
		key.kind, key.became = "static", deleted
	case DelSetEntry:
		key.kind, key.of, key.became = "set entry", setText(o.Set), deleted
	default:
		return alike{}, false
	}
	return key, true
}

// Device returns the name of the device of ours that an op is about; "" for
// none.
func Device(op Op) string {
	switch o := op.(type) {
	case AddLink:
		return o.Name
	case SetLink:
		return o.Name
	case DelLink:
		return o.Name
	case DoomLink:
		return o.Name
	case SetInside:
		return o.Veth
	case SetProgram:
		return ourName(o.Dev)
	case AttachProgram:
		return ourName(o.Dev)
	case DelProgram:
		return ourName(o.Dev)
	case AddAddr:
		return o.Addr.Dev
	case DelAddr:
		return o.Addr.Dev
	case SetSysctl:
		return ourName(sysctlDev(o.Path))
	}
	dev, _ := entryDevice(op)
	return dev
}

// ourName returns a device's name if it is like ours, else "".
func ourName(dev string) string { return either(hasOurName(dev), dev, "") }

// describe says what a single op puts right.
func describe(op Op) Repair {
	r := describeObject(op)
	r.Dev, r.Count = Device(op), 1
	return r
}

func describeObject(op Op) Repair {
	switch o := op.(type) {
	case AddLink:
		return Repair{Kind: "link", Object: o.Name, Change: made}
	case SetLink:
		return Repair{Kind: "link", Object: o.Name, Change: arrows(o.Have.attrs(), o.Want.attrs())}
	case DelLink:
		return Repair{Kind: "link", Object: o.Name, Change: deleted}
	case DoomLink:
		return Repair{Kind: "link", Object: o.Name, Change: deleted}
	case Retire:
		return Repair{Kind: "link", Object: strings.Join(o.Names, " "), Change: deleted}
	case SetInside:
		return Repair{
			Kind:   "inside",
			Object: fmt.Sprintf("%s in %s (%s)", o.Have.Name, o.Want.Netns, o.Veth),
			Change: o.changes(),
		}
	case SetProgram, AttachProgram, DelProgram:
		return describeProgram(op)
	case SetSysctl:
		return Repair{Kind: "sysctl", Object: "sysctl " + o.Path, Change: arrow(cmp.Or(o.Was, "unknown"), o.Value)}
	case AddAddr:
		return Repair{Kind: "address", Object: fmt.Sprintf("address %s on %s", o.Addr.Prefix, o.Addr.Dev), Change: added}
	case DelAddr:
		return Repair{Kind: "address", Object: fmt.Sprintf("address %s on %s", o.Addr.Prefix, o.Addr.Dev), Change: deleted}
	case AddNetns:
		return Repair{Kind: "netns", Object: "network namespace " + o.Path, Change: made}
	case DelNetns:
		return Repair{Kind: "netns", Object: "network namespace " + o.Path, Change: deleted}
	}
	if isEntry(op) {
		return describeEntry(op)
	}
	return describeRules(op)
}

func describeEntry(op Op) Repair {
	dev, _ := entryDevice(op)
	switch o := op.(type) {
	case SetFDB:
		r := Repair{Kind: "fdb", Object: fmt.Sprintf("fdb %s on %s dst", o.Key.MAC, dev), Change: o.Dst.String() + " " + added}
		if o.Was != (Dest{}) {
			r.Change = arrow(o.was(), o.Dst.String())
		}
		return r
	case DelFDB:
		return Repair{Kind: "fdb", Object: fmt.Sprintf("fdb %s on %s %s", o.Key.MAC, dev, o.dst()), Change: deleted}
	case AddStatic:
		return Repair{Kind: "static", Object: fmt.Sprintf("static bridge entry %s on %s", o.Key.MAC, dev), Change: added}
	case DelStatic:
		return Repair{Kind: "static", Object: fmt.Sprintf("static bridge entry %s on %s", o.Key.MAC, dev), Change: deleted}
	case SetNeigh:
		r := Repair{Kind: "neighbour", Object: fmt.Sprintf("neighbour %s on %s lladdr", o.Key.IP, dev), Change: o.MAC.String() + " " + added}
		if o.Was != (LLAddr{}) {
			r.Change = arrow(o.Was.String(), o.MAC.String())
		}
		return r
	case DelNeigh:
		return Repair{Kind: "neighbour", Object: fmt.Sprintf("neighbour %s on %s lladdr %s", o.Key.IP, dev, o.LLAddr), Change: deleted}
	case AddSetEntry:
		return Repair{Kind: "set entry", Object: fmt.Sprintf("%s entry %s", setText(o.Set), memberText(o.Member)), Change: added}
	case DelSetEntry:
		return Repair{Kind: "set entry", Object: fmt.Sprintf("%s entry %s", setText(o.Set), memberText(o.Member)), Change: deleted}
	}
	return Repair{Kind: "other", Object: op.String()}
}

// setText says what a set is, and its name.
func setText(name string) string {
	return either(name == UnderlayVTEPs, "map ", "ipset ") + name
}

func describeRules(op Op) Repair {
	switch o := op.(type) {
	case AddSet:
		return Repair{Kind: "set", Object: setText(o.Name), Change: made}
	case DelSet:
		return Repair{Kind: "set", Object: setText(o.Name), Change: deleted}
	case AddChain:
		return Repair{Kind: "chain", Object: "chain " + o.Key.String(), Change: made}
	case LoadChains:
		names := strings.Join(slices.Sorted(maps.Keys(o.Chains)), ", ")
		return Repair{Kind: "chain", Object: fmt.Sprintf("chain %s %s %s", o.Family, o.Table, names), Change: "missing or changed → loaded"}
	case DelChains:
		return Repair{Kind: "chain", Object: fmt.Sprintf("chain %s %s %s", o.Family, o.Table, strings.Join(o.Names, ", ")), Change: deleted}
	case FlushFlows:
		return Repair{Kind: "flow", Object: "conntrack of " + strings.TrimPrefix(op.String(), "flush flows "), Change: "old → forgotten"}
	case DelTable:
		return Repair{Kind: "table", Object: "table " + o.Table.String(), Change: deleted}
	case AddJump:
		return Repair{Kind: "jump", Object: fmt.Sprintf("jump from %s to %s", o.Hook, o.Key), Change: "missing or not first → first"}
	case DelJump:
		return Repair{Kind: "jump", Object: fmt.Sprintf("jump from %s to %s", o.Hook, o.Key), Change: deleted}
	}
	return Repair{Kind: "other", Object: op.String()}
}

// changes writes what is put right at a container's end.
func (o SetInside) changes() string {
	parts := arrowList(o.Have.attrs(), o.Want.attrs())
	for _, a := range missingOf(o.Have.Addrs, o.Want.Addrs) {
		parts = append(parts, "address "+a+" "+added)
	}
	for _, a := range missingOf(o.Want.Addrs, o.Have.Addrs) {
		parts = append(parts, "address "+a+" "+deleted)
	}
	for _, r := range missingOf(o.Have.Routes, o.Want.Routes) {
		parts = append(parts, "route "+r+" "+added)
	}
	for _, r := range missingOf(o.Want.Routes, o.Have.Routes) {
		parts = append(parts, "route "+r+" "+deleted)
	}
	for _, s := range missingOf(o.Have.Sysctls, o.Want.Sysctls) {
		parts = append(parts, "sysctl "+s)
	}
	return strings.Join(parts, ", ")
}

// missingOf returns what of want is not in have.
func missingOf[T interface {
	comparable
	fmt.Stringer
}](have, want []T,
) []string {
	var out []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			out = append(out, w.String())
		}
	}
	return out
}

func arrows(have, want []attr) string { return strings.Join(arrowList(have, want), ", ") }

// arrowList writes the attributes that differ: "mtu 1300 → 1450", "down → up".
// Those that did not apply before go without saying: a new port's flags.
func arrowList(have, want []attr) []string {
	var out []string
	for i, w := range want {
		h := have[i]
		if w == h || w.value == "" || h.value == "" {
			continue
		}
		text := arrow(h.value, w.value)
		if w.name != "" {
			text = w.name + " " + text
		}
		out = append(out, text)
	}
	return out
}

func arrow(have, want string) string { return have + " → " + want }
