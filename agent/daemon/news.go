package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// news returns the events that follow from two snapshots; none for the first one.
// This node's own endpoints are left out: whoever changes them publishes the event.
// The cost is that of the changes, and one comparison for each followed network.
func news(old, new *overspan.Snapshot, self overspan.NodeID) []Event {
	if old == nil {
		return nil
	}
	out := slices.Concat(freezeEvents(old, new), nodeEvents(old, new), networkEvents(old, new, self))
	for _, id := range slices.Sorted(new.Segments.Changes(old.Segments)) {
		if old.Segments.Get(id) != nil && new.Segments.Get(id) != nil { // what is in a network that is new here is no news
			out = append(out, remoteEvents(old, new, id, self)...)
		}
	}
	return out
}

// freezeEvents tells of the begin and the end of a freeze.
func freezeEvents(old, new *overspan.Snapshot) []Event {
	switch {
	case old.Frozen == nil && new.Frozen != nil:
		f := new.Frozen
		return []Event{{
			Type: "cluster", Action: "freeze", ID: new.Meta.ClusterID,
			Attributes: map[string]string{"reason": f.Reason, "node": f.NodeName},
		}}
	case old.Frozen != nil && new.Frozen == nil:
		return []Event{{
			Type: "cluster", Action: "accept", ID: new.Meta.ClusterID,
			Attributes: map[string]string{"accepted": strconv.FormatUint(new.Accepted, 10)},
		}}
	}
	return nil
}

// nodeEvents tells of nodes that came, went, or changed what they take.
func nodeEvents(old, new *overspan.Snapshot) []Event {
	var out, gone []Event
	for _, id := range slices.Sorted(overspan.Changes(old.Nodes, new.Nodes)) {
		was, n := old.Nodes[id], new.Nodes[id]
		if n == nil {
			gone = append(gone, nodeEvent("remove", was))
			continue
		}
		switch up := n.Presence != nil; {
		case up && (was == nil || was.Presence == nil):
			out = append(out, nodeEvent("up", n))
		case !up && was != nil && was.Presence != nil:
			out = append(out, nodeEvent("down", n))
		}
		switch {
		case was == nil || was.Draining == n.Draining:
		case n.Draining:
			out = append(out, nodeEvent("drain", n))
		default:
			out = append(out, nodeEvent("undrain", n))
		}
	}
	return append(out, gone...)
}

func nodeEvent(action string, n *overspan.Node) Event {
	return Event{
		Type: "node", Action: action, ID: string(n.ID), Name: n.Name,
		Attributes: map[string]string{"addresses": words(n.VTEPs)},
	}
}

// networkEvents tells of networks that came and went, as far as this node may
// know them.
func networkEvents(old, new *overspan.Snapshot, self overspan.NodeID) []Event {
	var out, gone []Event
	for _, id := range slices.Sorted(overspan.Changes(old.Networks, new.Networks)) {
		was, n := old.Networks[id], new.Networks[id]
		switch {
		case was == nil && n.On(self):
			out = append(out, networkEvent("create", new, n))
		case n == nil && was.On(self):
			gone = append(gone, networkEvent("destroy", old, was))
		}
	}
	return append(out, gone...)
}

// networkEvent tells of a network. Its labels are attributes, as docker has it.
func networkEvent(action string, s *overspan.Snapshot, n *overspan.Network) Event {
	attributes := map[string]string{}
	maps.Copy(attributes, n.Labels)
	attributes["driver"], attributes["scope"] = string(n.Driver), n.Driver.Scope()
	if n.Node != "" {
		attributes["node"] = s.NodeName(n.Node)
	}
	return Event{Type: "network", Action: action, ID: string(n.ID), Name: n.Name, Attributes: attributes}
}

// remoteEvents tells which endpoints of other nodes were connected to and
// disconnected from a network. What cannot be read is unknown, not absent.
func remoteEvents(old, new *overspan.Snapshot, id overspan.NetworkID, self overspan.NodeID) []Event {
	was, is := old.Segments.Get(id), new.Segments.Get(id)
	n := cmp.Or(new.Networks[id], old.Networks[id])
	if n == nil || was.Bad > 0 || is.Bad > 0 {
		return nil
	}
	var gone, came []Event
	for slot := range is.Endpoints.Changes(was.Endpoints) {
		before, after := was.Endpoints.Get(slot), is.Endpoints.Get(slot)
		if before != nil && after != nil && before.ID == after.ID {
			continue
		}
		if before != nil && before.Slot == slot && before.Node != self {
			gone = append(gone, endpointEvent("disconnect", *before, n.Name, old.NodeName(before.Node)))
		}
		if after != nil && after.Slot == slot && after.Node != self {
			came = append(came, endpointEvent("connect", *after, n.Name, new.NodeName(after.Node)))
		}
	}
	return append(gone, came...)
}

// endpointEvent tells of an endpoint of any node.
func endpointEvent(action string, e overspan.Endpoint, network, node string) Event {
	return Event{
		Type:   "endpoint",
		Action: action,
		ID:     string(e.ID),
		Name:   e.Name,
		Attributes: map[string]string{
			"network":   network,
			"node":      node,
			"sandbox":   e.Sandbox,
			"interface": e.Interface,
			"addresses": words(e.Addrs()),
		},
	}
}

// words lists addresses as an attribute does: with spaces between them.
func words(addresses []netip.Addr) string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}
