package api

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// predefined returns the networks host and none. They are no records and hold
// nothing: they are listed as docker lists its own. Their ids follow from
// their names, so that they are the same everywhere.
func predefined() []*overspanv1.Network {
	return []*overspanv1.Network{
		{Id: predefinedID(overspan.DriverHost), Name: string(overspan.DriverHost), Driver: string(overspan.DriverHost)},
		{Id: predefinedID(overspan.DriverNone), Name: string(overspan.DriverNone), Driver: string(overspan.DriverNull)},
	}
}

func predefinedID(d overspan.Driver) string {
	sum := sha256.Sum256([]byte("overspan predefined network " + d))
	return hex.EncodeToString(sum[:])
}

func isPredefined(n *overspanv1.Network) bool {
	return n.GetDriver() == string(overspan.DriverHost) || n.GetName() == string(overspan.DriverNone) ||
		n.GetNode() != "" && n.GetName() == overspan.DefaultNetwork
}

// findPredefined finds host or none by its name, its id, or as much of it as
// tables show; nil if ref names neither.
func findPredefined(ref string) *overspanv1.Network {
	for _, n := range predefined() {
		if overspan.Refers(ref, n.GetName(), n.GetId()) {
			return n
		}
	}
	return nil
}

// unusedDefault returns this node's default network if ref names it and its
// record is not written yet, and nil otherwise.
func (v *view) unusedDefault(ref string) *overspanv1.Network {
	if n := v.defaultNetwork(); n != nil && overspan.Refers(ref, n.GetName(), n.GetId()) {
		return n
	}
	return nil
}

// defaultNetwork returns this node's default network as it is shown until its
// record is written; nil once it is.
func (v *view) defaultNetwork() *overspanv1.Network {
	for _, n := range v.Networks {
		if v.visible(n) && n.Name == overspan.DefaultNetwork {
			return nil
		}
	}
	var registration int64
	if self := v.Nodes[v.self]; self != nil {
		registration = self.CreateRevision
	}
	return &overspanv1.Network{
		Id:     string(overspan.DefaultNetworkID(v.self, registration)),
		Name:   overspan.DefaultNetwork,
		Driver: string(overspan.DriverBridge),
		Node:   string(v.self),
	}
}
