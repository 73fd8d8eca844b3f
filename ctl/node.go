package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// nodeItem is a node, in lists and in detail.
type nodeItem struct {
	ID           string
	Name         string
	Self         bool
	Status       string // "up" or "down"
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
		Status:       upDown(v.GetUp()),
		Addresses:    append([]string{}, n.GetVteps()...),
		MTU:          n.GetMtu(),
		Routes:       append([]string{}, n.GetRoutes()...),
		Version:      n.GetVersion(),
		Registration: v.GetRegistration(),
		Networks:     append([]string{}, v.GetNetworks()...),
	}
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Show nodes", a.nodeListCommand(), a.nodeInspectCommand())
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
			{"ADDRESS", func(n nodeItem) string { return strings.Join(n.Addresses, ",") }},
			{"VERSION", func(n nodeItem) string { return n.Version }},
		},
		short: func(n *nodeItem) { n.ID = overspan.ShortID(n.ID) },
		id:    func(n nodeItem) string { return n.ID },
	}
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List nodes; the one that answers is marked with *",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		nodes, err := a.nodes()
		if err != nil {
			return err
		}
		resp, err := nodes.ListNodes(cmd.Context(), &overspanv1.ListNodesRequest{})
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
	a.formatFlag(cmd)
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
