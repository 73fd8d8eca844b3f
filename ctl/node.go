package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Whether a node takes new containers, in docker's words.
const (
	availabilityActive = "active"
	availabilityDrain  = "drain"
)

// nodeItem is a node, in lists and in detail.
type nodeItem struct {
	ID           string
	Name         string
	Self         bool
	Status       string // "up", "down" or "removing"
	Availability string // "" while it is being removed
	Addresses    []string
	MTU          uint32
	Routes       []string
	Version      string
	Registration int64
	Networks     []string
}

func nodeItemOf(v *overspanv1.NodeView) nodeItem {
	n := v.GetNode()
	return nodeItem{
		ID:           n.GetId(),
		Name:         n.GetName(),
		Self:         v.GetSelf(),
		Status:       nodeStatus(v),
		Availability: nodeAvailability(v),
		Addresses:    append([]string{}, n.GetVteps()...),
		MTU:          n.GetMtu(),
		Routes:       append([]string{}, n.GetRoutes()...),
		Version:      n.GetVersion(),
		Registration: v.GetRegistration(),
		Networks:     append([]string{}, v.GetNetworks()...),
	}
}

// String shows a node on one line.
func (n nodeItem) String() string {
	words := append([]string{n.Status, n.Name}, n.Addresses...)
	if n.Availability == availabilityDrain {
		words = append(words, "(draining)")
	}
	return strings.Join(words, " ")
}

func nodeStatus(v *overspanv1.NodeView) string {
	if v.GetRemoving() {
		return "removing"
	}
	return upDown(v.GetUp())
}

func nodeAvailability(v *overspanv1.NodeView) string {
	switch {
	case v.GetRemoving():
		return ""
	case v.GetNode().GetDraining():
		return availabilityDrain
	}
	return availabilityActive
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Show, drain and remove nodes",
		a.nodeListCommand(), a.nodeInspectCommand(), a.nodeRemoveCommand(),
		a.nodeDrainCommand("drain", "Let nodes take no new containers", false),
		a.nodeDrainCommand("undrain", "Let nodes take containers again", true))
}

func (a *app) nodeListCommand() *cobra.Command {
	list := listing[nodeItem]{
		columns: []column[nodeItem]{
			{"NODE ID", func(n nodeItem) string {
				if n.Self {
					return n.ID + " *"
				}
				return n.ID
			}},
			{"NAME", func(n nodeItem) string { return n.Name }},
			{"STATUS", func(n nodeItem) string { return n.Status }},
			{"AVAILABILITY", func(n nodeItem) string { return n.Availability }},
			{"ADDRESS", func(n nodeItem) string { return strings.Join(n.Addresses, ",") }},
			{"VERSION", func(n nodeItem) string { return n.Version }},
		},
		short: func(n *nodeItem) { n.ID = overspan.ShortID(n.ID) },
		id:    func(n nodeItem) string { return n.ID },
	}
	var filters filterFlag
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List nodes; the one that answers is marked with *",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	filters.add(a, cmd, "f", map[string]valueList{
		"availability": either(availabilityActive, availabilityDrain), "id": anything, "name": a.nodeNames,
		"network": a.networkNames, "status": either("up", "down", "removing"),
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		nodes, err := a.nodes()
		if err != nil {
			return err
		}
		resp, err := nodes.ListNodes(cmd.Context(), &overspanv1.ListNodesRequest{Filters: parsed})
		if err != nil {
			return err
		}
		var items []nodeItem
		for _, n := range resp.GetNodes() {
			items = append(items, nodeItemOf(n))
		}
		return list.print(a, items)
	}
	return cmd
}

func (a *app) nodeInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect [flags] NODE...",
		Short:             "Show nodes in detail",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNodes(manyArgs),
	}
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := a.nodes()
		if err != nil {
			return err
		}
		return inspectEach(a, args, func(ref string) (nodeItem, error) {
			resp, err := nodes.GetNode(cmd.Context(), &overspanv1.GetNodeRequest{Node: ref})
			return nodeItemOf(resp.GetNode()), err
		})
	}
	return cmd
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:        "rm [flags] NODE...",
		Aliases:    []string{"remove"},
		SuggestFor: []string{"delete"},
		Short:      "Remove nodes that are gone for good",
		Long: `Rm takes nodes out of the cluster and frees the addresses, names and blocks that
they held. It is asked of another node. A node that is removed and comes back
joins again: it keeps what nobody has taken meanwhile.`,
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNodes(manyArgs),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also a node that is up")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := a.nodes()
		if err != nil {
			return err
		}
		return a.each(args, func(ref string) error {
			_, err := nodes.RemoveNode(cmd.Context(), &overspanv1.RemoveNodeRequest{Node: ref, Force: force})
			if err == nil {
				fmt.Fprintln(a.stdout, ref)
			}
			return err
		})
	}
	return cmd
}

func (a *app) nodeDrainCommand(verb, short string, undo bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:               verb + " NODE...",
		Short:             short,
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNodes(manyArgs),
	}
	if !undo {
		cmd.Long = `Drain keeps new containers off nodes. Those that are there stay connected; the
addresses that a node does not use go back to the cluster at once.`
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := a.nodes()
		if err != nil {
			return err
		}
		return a.each(args, func(ref string) error {
			_, err := nodes.DrainNode(cmd.Context(), &overspanv1.DrainNodeRequest{Node: ref, Undo: undo})
			if err == nil {
				fmt.Fprintln(a.stdout, ref)
			}
			return err
		})
	}
	return cmd
}
