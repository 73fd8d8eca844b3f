package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// freezeItem tells of a freeze and how far the nodes are in it.
type freezeItem struct {
	Reason  string
	Node    string // who noticed
	Since   time.Time
	Reports []reportItem
}

// reportItem is what a node has published again of what etcd has lost.
type reportItem struct {
	ID        string
	Name      string
	Status    string
	Reported  bool
	Networks  uint32
	Blocks    uint32
	Endpoints uint32
	Failures  []string
}

func freezeItemOf(f *overspanv1.FreezeStatus) *freezeItem {
	frozen := f.GetFrozen()
	item := &freezeItem{
		Reason:  frozen.GetReason(),
		Node:    cmp.Or(frozen.GetNodeName(), overspan.ShortID(frozen.GetNode())),
		Since:   timeOf(frozen.GetSince()),
		Reports: reportItemsOf(f.GetReports()),
	}
	return item
}

func reportItemsOf(in []*overspanv1.NodeReport) []reportItem {
	out := []reportItem{}
	for _, r := range in {
		out = append(out, reportItem{
			ID:        r.GetNode(),
			Name:      r.GetName(),
			Status:    upDown(r.GetUp()),
			Reported:  r.GetReport() != nil,
			Networks:  r.GetReport().GetNetworks(),
			Blocks:    r.GetReport().GetBlocks(),
			Endpoints: r.GetReport().GetEndpoints(),
			Failures:  append([]string{}, r.GetReport().GetFailures()...),
		})
	}
	return out
}

// print tells the story: who noticed what, how far each node is, what to do.
func (f *freezeItem) print(line func(label, format string, args ...any)) {
	line("Frozen", "since %s, by node %s: %s", clock(f.Since), f.Node, f.Reason)
	line("", "nothing is attached, created or removed, and no kernel forgets anything")
	for _, r := range f.Reports {
		line("", "%s %s %s", r.Status, r.Name, r)
		for _, failure := range r.Failures {
			line("", "  %s", failure)
		}
	}
	line("", "when every node has published what it holds: ctl cluster accept")
}

// String says what the node has done.
func (r reportItem) String() string {
	switch {
	case !r.Reported:
		return "has not published again what it holds"
	case len(r.Failures) > 0:
		return fmt.Sprintf("could not publish all that it holds, %d problems", len(r.Failures))
	}
	return fmt.Sprintf("has published again what etcd had lost: %d networks, %d blocks, %d endpoints", r.Networks, r.Blocks, r.Endpoints)
}

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Act on the cluster as a whole", a.clusterAcceptCommand())
}

func (a *app) clusterAcceptCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "accept [flags]",
		Short: "Go on with what etcd holds, after it was rolled back or replaced",
		Long: `Accept ends a freeze. The agents freeze the cluster when they notice that etcd
has lost its past: it was restored from a backup, emptied or replaced. Each then
writes to etcd again what it serves; ctl status shows how far they are. From the
acceptance on, what etcd holds is the truth: whatever no agent has published is
gone from all nodes.`,
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also while a node has not published again all that it holds")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		system, err := a.system()
		if err != nil {
			return err
		}
		resp, err := system.Accept(cmd.Context(), &overspanv1.AcceptRequest{Force: force})
		if err != nil {
			return err
		}
		for _, r := range reportItemsOf(resp.GetReports()) {
			if !r.Reported || len(r.Failures) > 0 {
				fmt.Fprintf(a.stderr, "warning: node %s (%s) %s\n", r.Name, r.Status, r)
			}
		}
		return nil
	}
	return cmd
}
