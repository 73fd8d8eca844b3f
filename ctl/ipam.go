package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// blockItem is a block of addresses that a node holds.
type blockItem struct {
	Network   string
	NetworkID string
	Node      string
	NodeID    string
	Status    string // of the node: "up" or "down"
	First     string // address
	Last      string
	Slot      uint64
	Size      uint64
	Used      uint64
	Epoch     int64
}

func blockItemOf(b *overspanv1.BlockView) blockItem {
	return blockItem{
		Network:   b.GetNetworkName(),
		NetworkID: b.GetNetwork(),
		Node:      b.GetNodeName(),
		NodeID:    b.GetNode(),
		Status:    upDown(b.GetUp()),
		First:     b.GetFirstAddress(),
		Last:      b.GetLastAddress(),
		Slot:      b.GetFirst(),
		Size:      b.GetSize(),
		Used:      b.GetUsed(),
		Epoch:     b.GetEpoch(),
	}
}

func (a *app) ipamCommand() *cobra.Command {
	return group("ipam", "Show who holds which addresses", a.ipamListCommand())
}

func (a *app) ipamListCommand() *cobra.Command {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	list := listing[blockItem]{
		columns: []column[blockItem]{
			{"NETWORK", func(b blockItem) string { return b.Network }},
			{"FIRST", func(b blockItem) string { return b.First }},
			{"LAST", func(b blockItem) string { return b.Last }},
			{"SIZE", func(b blockItem) string { return number(b.Size) }},
			{"USED", func(b blockItem) string { return number(b.Used) }},
			{"NODE", func(b blockItem) string { return b.Node }},
			{"STATUS", func(b blockItem) string { return b.Status }},
		},
		short: func(b *blockItem) {
			b.NetworkID, b.NodeID = overspan.ShortID(b.NetworkID), overspan.ShortID(b.NodeID)
		},
	}
	var filters filterFlag
	cmd := &cobra.Command{
		Use:               "ls [flags] [NETWORK]",
		Aliases:           []string{"list"},
		Short:             "List the address blocks of a network, or of all networks that this node takes part in",
		Args:              wants(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeNetworks(oneArg),
	}
	cmd.Flags().BoolVar(&list.noTrunc, "no-trunc", false, "whole ids")
	a.formatFlag(cmd, "")
	filters.add(a, cmd, "f", map[string]valueList{
		"network": a.networkNames, "node": a.nodeNames, "status": either("up", "down"),
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		system, err := a.system()
		if err != nil {
			return err
		}
		resp, err := system.ListBlocks(cmd.Context(), &overspanv1.ListBlocksRequest{Network: optional(args), Filters: parsed})
		if err != nil {
			return err
		}
		var items []blockItem
		for _, b := range resp.GetBlocks() {
			items = append(items, blockItemOf(b))
		}
		return list.print(a, items)
	}
	return cmd
}
