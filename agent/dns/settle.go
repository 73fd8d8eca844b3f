package dns

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/overspan/overspan"
)

// A look is how much a pass looks at.
type look int

const (
	lookChanged look = iota // what has changed here, or all where networks have
	lookAgain               // all, but what files say that were written before
	lookAll                 // all
)

// A sight is what settling follows from.
type sight struct {
	plugged  overspan.Plugged
	networks map[overspan.NetworkID]*overspan.Network
	bad      bool // something cannot be read: a network that is missing is not gone
}

// Settle opens sockets on the gateways of all networks that this node has an
// endpoint in, and closes the others; and it tells the namespaces of ip-netns(8)
// whom to ask. It returns once that is so of what has changed since the last time; it
// costs the same whatever else is plugged in.
func (s *Server) Settle() { s.settle(lookChanged) }

// settle carries Settle out; false if nothing is known yet.
func (s *Server) settle(what look) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	snapshot := s.node.Called()
	if s.closed || snapshot == nil {
		return false
	}
	old := s.sight
	s.sight = sight{s.node.Plugged(), snapshot.Networks, len(snapshot.Bad) > 0}
	if what == lookChanged && (s.sight.bad != old.bad || !overspan.SameMap(s.sight.networks, old.networks)) {
		what = lookAgain
	}
	s.settleDoors(old.plugged, what)
	if s.cfg.NetnsDir == "" {
		return true
	}
	if err := s.settleFiles(old.plugged, what); err != nil {
		s.unfiled = "names cannot be looked up in namespaces of ip-netns(8): " + err.Error()
	} else if what != lookChanged {
		s.unfiled = ""
	}
	return true
}

// settleDoors opens and closes what Settle says. The caller holds mu.
func (s *Server) settleDoors(old overspan.Plugged, what look) {
	before := len(s.doors)
	for _, id := range s.networks(old, what) {
		s.settleNetwork(id)
	}
	if what != lookChanged || len(s.doors) < before {
		s.forgetIndexes()
	}
}

// networks returns those to look at. The caller holds mu.
func (s *Server) networks(old overspan.Plugged, what look) []overspan.NetworkID {
	now := s.sight.plugged.InNetwork
	if what == lookChanged {
		return slices.Collect(now.Changes(old.InNetwork))
	}
	ids := slices.Collect(now.Keys())
	ids = slices.AppendSeq(slices.AppendSeq(ids, maps.Keys(s.doors)), maps.Keys(s.trouble))
	slices.Sort(ids)
	return slices.Compact(ids)
}

// settleNetwork opens and closes doors of one network. The caller holds mu.
func (s *Server) settleNetwork(id overspan.NetworkID) {
	n, used := s.sight.networks[id], s.sight.plugged.InNetwork.Get(id) != nil
	if used && n == nil && s.sight.bad {
		return
	}
	var want []netip.Addr
	if used && n != nil {
		want = n.Gateways()
	}
	var open []*door
	for _, d := range s.doors[id] {
		if slices.Contains(want, d.at.addr) {
			open = append(open, d)
		} else {
			d.close()
		}
	}
	var trouble []string
	for _, addr := range want {
		if slices.ContainsFunc(open, func(d *door) bool { return d.at.addr == addr }) {
			continue
		}
		d, err := s.open(spot{id, addr})
		if err == nil {
			open = append(open, d)
			continue
		}
		why := fmt.Sprintf("names are not served in network %s: %v: what else listens on this port must leave out the gateways' addresses", n.Name, err)
		if !slices.Contains(s.trouble[id], why) {
			s.log.Warn("cannot serve names", "network", id, "error", err)
		}
		trouble = append(trouble, why)
	}
	assign(s.doors, id, open)
	assign(s.trouble, id, trouble)
}

// assign gives a key of a map a list; none if it is empty.
func assign[K comparable, V any](m map[K][]V, k K, list []V) {
	if len(list) == 0 {
		delete(m, k)
		return
	}
	m[k] = list
}

// forgetIndexes drops the indexes of networks that nobody here asks in any more.
// The caller holds mu.
func (s *Server) forgetIndexes() {
	s.known.Lock()
	defer s.known.Unlock()
	maps.DeleteFunc(s.indexes, func(id overspan.NetworkID, _ *index) bool { return s.doors[id] == nil })
}

// settleFiles has each namespace's resolv.conf say what it should. The caller
// holds mu.
func (s *Server) settleFiles(old overspan.Plugged, what look) error {
	want := map[string]wish{}
	for _, id := range changedSandboxes(old, s.sight.plugged) {
		if name := netnsName(old.Sandboxes.Get(id)); name != "" {
			assign(s.named, name, slices.DeleteFunc(s.named[name], func(o overspan.SandboxID) bool { return o == id }))
			want[name] = wish{}
		}
		if name := netnsName(s.sight.plugged.Sandboxes.Get(id)); name != "" {
			s.named[name] = append(s.named[name], id)
			want[name] = wish{}
		}
	}
	if what != lookChanged {
		for name := range s.named {
			want[name] = wish{}
		}
		for _, name := range s.files.there(what == lookAll) {
			want[name] = wish{}
		}
	}
	if len(want) == 0 {
		return nil
	}
	host, err := s.host.read()
	if err != nil {
		return err
	}
	for name := range want {
		want[name] = s.sight.wish(s.named[name], host)
	}
	return s.files.settle(want, what == lookAll)
}

// wish returns what the namespace that some sandboxes are in wants. Host is what the
// host's own resolv.conf says. Of several, as there are when one has just gone, the
// youngest counts that has somebody to ask.
func (s sight) wish(sandboxes []overspan.SandboxID, host overspan.Resolver) wish {
	var w wish
	var youngest *overspan.Sandbox
	for _, id := range sandboxes {
		var networks []*overspan.Network
		for _, a := range s.plugged.InSandbox.Get(id).All() {
			if n := s.networks[a.Endpoint.Network]; n != nil {
				networks = append(networks, n)
			} else if s.bad {
				w.unsure = true
			}
		}
		sb := s.plugged.Sandboxes.Get(id)
		gateways := overspan.Nameservers(networks...)
		if len(gateways) == 0 || youngest != nil && cmp.Or(youngest.Created.Compare(sb.Created), cmp.Compare(youngest.ID, id)) > 0 {
			continue
		}
		youngest, w.text = sb, netnsMark+host.Within(gateways, sb.Resolver).String()
	}
	return w
}

// netnsName returns the name by which ip-netns(8) knows a sandbox; "" if it does not.
func netnsName(sb *overspan.Sandbox) string {
	if sb == nil || sb.Kind != overspan.SandboxNetns {
		return ""
	}
	dir, name := filepath.Split(sb.Netns)
	if !slices.Contains(netnsDirs, filepath.Clean(dir)) {
		return ""
	}
	return name
}

// changedSandboxes returns those that have come, gone or changed, and those whose
// attachments have.
func changedSandboxes(old, now overspan.Plugged) []overspan.SandboxID {
	ids := slices.Collect(now.Sandboxes.Changes(old.Sandboxes))
	ids = slices.AppendSeq(ids, now.InSandbox.Changes(old.InSandbox))
	slices.Sort(ids)
	return slices.Compact(ids)
}
