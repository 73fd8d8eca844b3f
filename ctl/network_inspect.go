package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// networkDetails is docker's shape of an inspected network, and our own fields
// after it.
type networkDetails struct {
	Name       string
	Id         string // as docker spells it
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamDetails
	Internal   bool
	Attachable bool // overlays: to containers that no service starts
	Ingress    bool
	ConfigFrom configFrom
	ConfigOnly bool
	Containers map[string]containerDetails // by endpoint id
	Options    map[string]string
	Labels     map[string]string

	VNI      uint32 `json:",omitempty"`
	MTU      uint32 `json:",omitempty"`
	Underlay string `json:",omitempty"` // family of the addresses that carry it
	Node     string `json:",omitempty"` // of a local network
	Blocks   []blockItem
	Peers    []peerDetails `json:",omitempty"` // with --verbose
}

// ID returns what templates may call so, too.
func (d networkDetails) ID() string { return d.Id }

type configFrom struct {
	Network string
}

// peerDetails is a node that takes part in a network.
type peerDetails struct {
	Name      string
	ID        string
	IP        string // that carries the network there
	Status    string
	Addresses uint64 // in its blocks
	Used      uint64
}

type ipamDetails struct {
	Driver  string
	Options map[string]string
	Config  []ipamConfig
}

type ipamConfig struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

// containerDetails is an endpoint, as docker shows a container in a network.
type containerDetails struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
	Node        string
	Sandbox     string
	Interface   string
}

func inspectNetwork(resp *overspanv1.GetNetworkResponse) networkDetails {
	n := resp.GetNetwork()
	d := networkDetails{
		Name:       n.GetName(),
		Id:         n.GetId(),
		Created:    timeOf(n.GetCreated()),
		Scope:      overspan.Driver(n.GetDriver()).Scope(),
		Driver:     n.GetDriver(),
		EnableIPv4: n.GetIpv4() != nil,
		EnableIPv6: n.GetIpv6() != nil,
		IPAM:       ipamDetails{Driver: "default", Options: map[string]string{}, Config: []ipamConfig{}},
		Internal:   n.GetInternal(),
		Attachable: n.GetDriver() == string(overspan.DriverOverlay),
		ConfigFrom: configFrom{n.GetConfigFrom()},
		ConfigOnly: n.GetConfigOnly(),
		Containers: map[string]containerDetails{},
		Options:    orEmpty(n.GetOptions()),
		Labels:     orEmpty(n.GetLabels()),
		VNI:        n.GetVni(),
		MTU:        n.GetMtu(),
		Underlay:   n.GetUnderlay(),
		Node:       n.GetNode(),
		Blocks:     []blockItem{},
	}
	for _, s := range []*overspanv1.Subnet{n.GetIpv4(), n.GetIpv6()} {
		if s != nil {
			d.IPAM.Config = append(d.IPAM.Config, ipamConfig{
				Subnet:             s.GetPrefix(),
				IPRange:            s.GetRange(),
				Gateway:            s.GetGateway(),
				AuxiliaryAddresses: s.GetAux(),
			})
		}
	}
	for _, e := range resp.GetEndpoints() {
		d.Containers[e.GetEndpoint().GetId()] = containerDetails{
			Name:        e.GetEndpoint().GetName(),
			EndpointID:  e.GetEndpoint().GetId(),
			MacAddress:  e.GetEndpoint().GetMac(),
			IPv4Address: withBits(e.GetEndpoint().GetIpv4(), e.GetIpv4Bits()),
			IPv6Address: withBits(e.GetEndpoint().GetIpv6(), e.GetIpv6Bits()),
			Node:        e.GetNodeName(),
			Sandbox:     e.GetEndpoint().GetSandbox(),
			Interface:   e.GetEndpoint().GetInterface(),
		}
	}
	for _, b := range resp.GetBlocks() {
		d.Blocks = append(d.Blocks, blockItemOf(b))
	}
	return d
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (a *app) networkInspectCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:               "inspect [flags] NETWORK...",
		Short:             "Show networks in detail, with the endpoints of all nodes",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNetworks(manyArgs),
	}
	a.formatFlag(cmd, "f")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also the nodes that take part (Peers)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		networks, err := a.networks()
		if err != nil {
			return err
		}
		return inspectEach(a, args, func(ref string) (networkDetails, error) {
			resp, err := networks.GetNetwork(cmd.Context(), &overspanv1.GetNetworkRequest{Network: ref})
			details := inspectNetwork(resp)
			if err == nil && verbose {
				details.Peers, err = a.peers(cmd.Context(), resp)
			}
			return details, err
		})
	}
	return cmd
}

// peers returns the nodes that hold addresses of a network, by name.
func (a *app) peers(ctx context.Context, of *overspanv1.GetNetworkResponse) ([]peerDetails, error) {
	nodes, err := a.nodes()
	if err != nil {
		return nil, err
	}
	all, err := nodes.ListNodes(ctx, &overspanv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	peers := []peerDetails{}
	for _, n := range all.GetNodes() {
		peer := peerDetails{Name: n.GetNode().GetName(), ID: n.GetNode().GetId(), Status: nodeStatus(n)}
		for _, b := range of.GetBlocks() {
			if b.GetNode() == peer.ID {
				peer.Addresses += b.GetSize()
				peer.Used += b.GetUsed()
			}
		}
		for _, vtep := range n.GetNode().GetVteps() {
			if address, err := netip.ParseAddr(vtep); err == nil && string(overspan.FamilyOf(address)) == of.GetNetwork().GetUnderlay() {
				peer.IP = vtep
			}
		}
		if peer.Addresses > 0 {
			peers = append(peers, peer)
		}
	}
	return peers, nil
}

// inspectEach prints all that were found, and then fails if one was not.
func inspectEach[T any](a *app, args []string, get func(string) (T, error)) error {
	var found []T
	failed := a.each(args, func(ref string) error {
		item, err := get(ref)
		if err == nil {
			found = append(found, item)
		}
		return err
	})
	if err := inspect(a, found); err != nil {
		return err
	}
	return failed
}
