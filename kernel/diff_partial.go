package kernel

import "slices"

// union returns the state to aim at where have or want is not whole: want, and
// besides everything that is there. Where the two cannot be had both, what is
// there stays.
func union(have, want State) State {
	out := have.Clone()
	out.Add(want)
	for name, w := range want.Links {
		h, there := have.Links[name]
		inside, read := have.Insides[name]
		if there && !h.convertible(w) {
			out.Links[name] = h
		}
		if there && read && !inside.convertible(want.Insides[name]) {
			out.Insides[name] = inside
		}
		if w.Kind == KindVeth && out.Links[name].Master == "" {
			out.dropStatics(name) // they went with the bridge, and need one
		}
	}
	for name, w := range want.Sets {
		if h, there := have.Sets[name]; there && (h.Family != w.Family || h.Subnets != w.Subnets) {
			out.Sets[name] = h.clone()
		}
	}
	for key, w := range want.Chains {
		if h, there := have.Chains[key]; there {
			out.Chains[key] = unionChain(key.Name, h, w)
		}
	}
	return out
}

// unionChain takes want's rules only if they contain all of have's. A rule read
// back has no text, so there is no way to keep it in a chain that is loaded
// anew.
func unionChain(name string, have, want Chain) Chain {
	if have.Hook != "" {
		want.Hook = have.Hook
	}
	ids := want.ids(name)
	for _, id := range have.ids(name) {
		if !slices.Contains(ids, id) {
			want.Rules = have.Rules
			break
		}
	}
	return want
}
