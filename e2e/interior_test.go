package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
)

// An interior is what etcd holds of a network below net/. Nodes are called by
// their names.
type interior struct {
	endpoints map[uint64]endpointRecord // by slot
	names     map[string]uint64         // slot by name
	holders   map[uint64][]string       // nodes that hold a slot
	wants     []string
}

type endpointRecord struct{ Name, Node, IPv4 string }

// interior reads the inside of a network from etcd.
func (c *cluster) interior(ctx context.Context, id string) (interior, error) {
	in := interior{endpoints: map[uint64]endpointRecord{}, names: map[string]uint64{}, holders: map[uint64][]string{}}
	nodes, err := c.keys(ctx, "nodes/")
	if err != nil {
		return in, err
	}
	name := func(id string) string {
		var rec struct{ Name string }
		// A record that cannot be read names nobody.
		_ = json.Unmarshal([]byte(nodes[lab.Prefix+"nodes/"+id]), &rec)
		return rec.Name
	}
	keys, err := c.keys(ctx, "net/"+id+"/")
	if err != nil {
		return in, err
	}
	for key, value := range keys {
		parts := strings.Split(strings.TrimPrefix(key, lab.Prefix+"net/"+id+"/"), "/")
		last := parts[len(parts)-1]
		var rec struct {
			endpointRecord
			Slot string // of a reference
		}
		if err := json.Unmarshal([]byte(value), &rec); err != nil {
			return in, fmt.Errorf("%s: %w", key, err)
		}
		rec.Node = name(rec.Node)
		switch parts[0] {
		case "endpoints":
			slot, err := strconv.ParseUint(last, 16, 64)
			if err != nil {
				return in, fmt.Errorf("%s: %w", key, err)
			}
			in.endpoints[slot] = rec.endpointRecord
		case "names":
			if in.names[last], err = strconv.ParseUint(rec.Slot, 10, 64); err != nil {
				return in, fmt.Errorf("%s: %w", key, err)
			}
		case "blocks":
			if err := in.hold(parts[1], last, rec.Node); err != nil {
				return in, fmt.Errorf("%s: %w", key, err)
			}
		case "wants":
			in.wants = append(in.wants, key)
		}
	}
	return in, nil
}

// hold notes a block.
func (in interior) hold(size, first, node string) error {
	from, err := strconv.ParseUint(first, 16, 64)
	if err != nil {
		return err
	}
	count, err := strconv.ParseUint(size, 10, 64)
	for slot := from; slot < from+count; slot++ {
		in.holders[slot] = append(in.holders[slot], node)
	}
	return err
}

// sound checks that no slot is held twice, each endpoint stands in a block of
// its node and has its name, no name is left over, and no want either.
func (in interior) sound() error {
	var errs []error
	for slot, nodes := range in.holders {
		if len(nodes) > 1 {
			errs = append(errs, fmt.Errorf("slot %d is held by %v", slot, nodes))
		}
	}
	for slot, e := range in.endpoints {
		if in.names[e.Name] != slot {
			errs = append(errs, fmt.Errorf("%s is at slot %d, but its name leads to %d", e.Name, slot, in.names[e.Name]))
		}
		if len(in.holders[slot]) != 1 || in.holders[slot][0] != e.Node {
			errs = append(errs, fmt.Errorf("%s of %s is at slot %d, which %v holds", e.Name, e.Node, slot, in.holders[slot]))
		}
	}
	if len(in.names) != len(in.endpoints) {
		errs = append(errs, fmt.Errorf("%d names for %d endpoints", len(in.names), len(in.endpoints)))
	}
	for _, want := range in.wants {
		errs = append(errs, fmt.Errorf("%s is left", want))
	}
	return errors.Join(errs...)
}

// endpointPorts lists the endpoints' ports of a network's bridge on a node.
func endpointPorts(ctx context.Context, n *lab.Node, network string) ([]string, error) {
	out, err := n.Exec(ctx, "bridge", "link", "show")
	if err != nil {
		return nil, err
	}
	bridge := overspan.BridgeName(overspan.NetworkID(network))
	var ports []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "master "+bridge+" ") {
			continue
		}
		name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		if strings.HasPrefix(name, "osv-") {
			ports = append(ports, name)
		}
	}
	return ports, nil
}

// A record is a key in etcd as it stands.
type record struct {
	value       string
	create, mod int64
}

// records reads all keys of the cluster.
func (c *cluster) records() map[string]record { return c.recordsAt(0) }

// recordsAt reads them as they stood at a revision; 0 is now.
func (c *cluster) recordsAt(rev int64) map[string]record {
	c.t.Helper()
	client, err := c.Etcd.Client()
	c.must(err)
	res, err := client.Get(c.t.Context(), lab.Prefix, clientv3.WithPrefix(), clientv3.WithRev(rev))
	c.must(err)
	out := map[string]record{}
	for _, kv := range res.Kvs {
		out[strings.TrimPrefix(string(kv.Key), lab.Prefix)] = record{string(kv.Value), kv.CreateRevision, kv.ModRevision}
	}
	return out
}
