package api

import (
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Whether something is there, in the words of tables.
const (
	statusUp       = "up"
	statusDown     = "down"
	statusLost     = "lost"
	statusRemoving = "removing"
)

func upDown(up bool) string {
	if up {
		return statusUp
	}
	return statusDown
}

// endpointKeys are those of endpoints. Network, node and sandbox name such a
// thing; an address is one without a prefix length.
func endpointKeys() filterKeys[*overspanv1.EndpointView] {
	type view = *overspanv1.EndpointView
	return filterKeys[view]{
		"id":        pattern(func(e view) string { return e.GetEndpoint().GetId() }),
		"name":      pattern(func(e view) string { return e.GetEndpoint().GetName() }),
		"interface": exactly(func(e view) string { return e.GetEndpoint().GetInterface() }),
		"network":   reference(func(e view) []named { return []named{{e.GetNetworkName(), e.GetEndpoint().GetNetwork()}} }),
		"node":      reference(func(e view) []named { return []named{{e.GetNodeName(), e.GetEndpoint().GetNode()}} }),
		"sandbox":   exactly(func(e view) string { return e.GetEndpoint().GetSandbox() }),
		"address": reference(func(e view) []named {
			return []named{{name: e.GetEndpoint().GetIpv4()}, {name: e.GetEndpoint().GetIpv6()}}
		}),
		"status": oneOf(func(e view) string {
			if e.GetLost() != "" {
				return statusLost
			}
			return upDown(!e.GetNodeDown())
		}, statusUp, statusDown, statusLost),
	}
}

// nodeKeys are those of nodes. Network is one that the node is a member of, as
// far as the asked node follows it.
func nodeKeys() filterKeys[*overspanv1.NodeView] {
	type view = *overspanv1.NodeView
	return filterKeys[view]{
		"id":   pattern(func(n view) string { return n.GetNode().GetId() }),
		"name": pattern(func(n view) string { return n.GetNode().GetName() }),
		"status": oneOf(func(n view) string {
			if n.GetRemoving() {
				return statusRemoving
			}
			return upDown(n.GetUp())
		}, statusUp, statusDown, statusRemoving),
		"availability": oneOf(func(n view) string {
			switch {
			case n.GetRemoving():
				return ""
			case n.GetNode().GetDraining():
				return "drain"
			}
			return "active"
		}, "active", "drain"),
		"network": reference(func(n view) []named {
			var out []named
			for _, name := range n.GetNetworks() {
				out = append(out, named{name: name})
			}
			return out
		}),
	}
}

// sandboxKeys are those of sandboxes. Network is one that it is plugged into.
func sandboxKeys() filterKeys[*overspanv1.SandboxView] {
	type view = *overspanv1.SandboxView
	return filterKeys[view]{
		"id":   pattern(func(s view) string { return s.GetSandbox().GetId() }),
		"name": pattern(func(s view) string { return s.GetSandbox().GetName() }),
		"kind": exactly(func(s view) string { return s.GetSandbox().GetKind() }),
		"network": reference(func(s view) []named {
			var out []named
			for _, e := range s.GetEndpoints() {
				out = append(out, named{e.GetNetworkName(), e.GetEndpoint().GetNetwork()})
			}
			return out
		}),
	}
}

// blockKeys are those of blocks of addresses. Status is that of their node.
func blockKeys() filterKeys[*overspanv1.BlockView] {
	type view = *overspanv1.BlockView
	return filterKeys[view]{
		"network": reference(func(b view) []named { return []named{{b.GetNetworkName(), b.GetNetwork()}} }),
		"node":    reference(func(b view) []named { return []named{{b.GetNodeName(), b.GetNode()}} }),
		"status":  oneOf(func(b view) string { return upDown(b.GetUp()) }, statusUp, statusDown),
	}
}
