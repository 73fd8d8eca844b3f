package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// endpointItem is an endpoint, in lists and in detail.
type endpointItem struct {
	ID          string
	Name        string
	Aliases     []string `json:",omitempty"`
	Network     string
	NetworkID   string
	Node        string
	NodeID      string
	NodeDown    bool `json:",omitempty"`
	Local       bool
	IPv4Address string
	IPv6Address string
	MacAddress  string
	Sandbox     string
	Interface   string
	Ports       map[string][]portBinding `json:",omitempty"`
	Lost        string                   `json:",omitempty"`

	// Of this node's endpoints alone.
	Gateway    bool              `json:",omitempty"`
	GwPriority int32             `json:",omitempty"`
	DriverOpts map[string]string `json:",omitempty"`

	CreatedAt time.Time
}

func endpointItemOf(v *overspanv1.EndpointView) endpointItem {
	e := v.GetEndpoint()
	return endpointItem{
		ID:          e.GetId(),
		Name:        e.GetName(),
		Aliases:     e.GetAliases(),
		Network:     v.GetNetworkName(),
		NetworkID:   e.GetNetwork(),
		Node:        v.GetNodeName(),
		NodeID:      e.GetNode(),
		NodeDown:    v.GetNodeDown(),
		Local:       v.GetLocal(),
		IPv4Address: withBits(e.GetIpv4(), v.GetIpv4Bits()),
		IPv6Address: withBits(e.GetIpv6(), v.GetIpv6Bits()),
		MacAddress:  e.GetMac(),
		Sandbox:     e.GetSandbox(),
		Interface:   e.GetInterface(),
		Ports:       portBindings(e.GetPorts()),
		Lost:        v.GetLost(),
		Gateway:     v.GetGateway(),
		GwPriority:  v.GetGatewayPriority(),
		DriverOpts:  v.GetDriverOptions(),
		CreatedAt:   timeOf(e.GetCreated()),
	}
}

// addresses returns both addresses without their prefix lengths.
func (e endpointItem) addresses() []string {
	var out []string
	for _, a := range []string{e.IPv4Address, e.IPv6Address} {
		if a != "" {
			bare, _, _ := strings.Cut(a, "/")
			out = append(out, bare)
		}
	}
	return out
}

// A portBinding is a host's side of a published port, as docker inspect shows it.
type portBinding struct {
	HostIp   string // as docker spells it
	HostPort string
}

// portBindings returns docker's shape of the published ports: "80/tcp" to where
// it is published.
func portBindings(ports []*overspanv1.Port) map[string][]portBinding {
	out := map[string][]portBinding{}
	for _, p := range ports {
		target := fmt.Sprintf("%d/%s", p.GetPort(), p.GetProtocol())
		out[target] = append(out[target], portBinding{HostIp: p.GetHostIp(), HostPort: fmt.Sprint(p.GetHostPort())})
	}
	return out
}

// status is "up", "down" where its node is, or why the endpoint is off its network.
func (e endpointItem) status() string {
	if e.Lost != "" {
		return "lost: " + e.Lost
	}
	return upDown(!e.NodeDown)
}

func (a *app) endpointCommand() *cobra.Command {
	return group("endpoint", "Show endpoints", a.endpointListCommand(), a.endpointInspectCommand())
}

func (a *app) endpointListCommand() *cobra.Command {
	list := listing[endpointItem]{
		columns: []column[endpointItem]{
			{"ENDPOINT ID", func(e endpointItem) string { return e.ID }},
			{"NAME", func(e endpointItem) string { return e.Name }},
			{"NETWORK", func(e endpointItem) string { return e.Network }},
			{"NODE", func(e endpointItem) string { return e.Node }},
			{"ADDRESS", func(e endpointItem) string { return strings.Join(e.addresses(), ",") }},
			{"MAC", func(e endpointItem) string { return e.MacAddress }},
			{"INTERFACE", func(e endpointItem) string { return e.Interface }},
			{"STATUS", endpointItem.status},
		},
		short: func(e *endpointItem) {
			e.ID, e.NetworkID, e.NodeID = overspan.ShortID(e.ID), overspan.ShortID(e.NetworkID), overspan.ShortID(e.NodeID)
		},
		id: func(e endpointItem) string { return e.ID },
	}
	var filters filterFlag
	cmd := &cobra.Command{
		Use:               "ls [flags] [NETWORK]",
		Aliases:           []string{"list"},
		Short:             "List the endpoints of a network, or of all networks that this node takes part in",
		Args:              wants(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeNetworks(oneArg),
	}
	list.flags(a, cmd)
	filters.add(a, cmd, "f", map[string]valueList{
		"address": anything, "id": anything, "interface": anything, "name": a.endpointNames, "network": a.networkNames,
		"node": a.nodeNames, "sandbox": a.sandboxNames, "status": either("up", "down", "lost"),
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		endpoints, err := a.endpoints()
		if err != nil {
			return err
		}
		resp, err := endpoints.ListEndpoints(cmd.Context(), &overspanv1.ListEndpointsRequest{Network: optional(args), Filters: parsed})
		if err != nil {
			return err
		}
		var items []endpointItem
		for _, e := range resp.GetEndpoints() {
			items = append(items, endpointItemOf(e))
		}
		return list.print(a, items)
	}
	return cmd
}

// optional returns the only argument, "" if there is none.
func optional(args []string) string {
	return strings.Join(args, "")
}

func (a *app) endpointInspectCommand() *cobra.Command {
	var network string
	cmd := &cobra.Command{
		Use:               "inspect [flags] ENDPOINT...",
		Short:             "Show endpoints in detail, by name or id",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeEndpoints(manyArgs),
	}
	cmd.Flags().StringVar(&network, "network", "", "the network that a name belongs to")
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		endpoints, err := a.endpoints()
		if err != nil {
			return err
		}
		return inspectEach(a, args, func(ref string) (endpointItem, error) {
			resp, err := endpoints.GetEndpoint(cmd.Context(), &overspanv1.GetEndpointRequest{Endpoint: ref, Network: network})
			return endpointItemOf(resp.GetEndpoint()), err
		})
	}
	return cmd
}
