package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// verdictItem is what a node says of its kernel.
type verdictItem struct {
	Node     string
	NodeID   string
	Revision int64
	Drift    []string
	Error    string `json:",omitempty"`
}

func (a *app) verifyCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "Compare what the kernel should hold with what it holds",
		Long: "Verify prints what would have to be done to bring the kernel in line, and exits\n" +
			"with 1 if there is anything, or if a node could not be asked.",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&all, "all", false, "every node of the cluster, not only this one")
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		system, err := a.system()
		if err != nil {
			return err
		}
		resp, err := system.Verify(cmd.Context(), &overspanv1.VerifyRequest{All: all})
		if err != nil {
			return err
		}
		items := []verdictItem{}
		clean := true
		for _, v := range resp.GetNodes() {
			item := verdictItem{v.GetName(), v.GetNode(), v.GetRevision(), append([]string{}, v.GetDrift()...), v.GetError()}
			clean = clean && item.Error == "" && len(item.Drift) == 0
			items = append(items, item)
		}
		if err := one(a, items, func() error { return a.printVerdicts(items) }); err != nil {
			return err
		}
		if !clean {
			return exitCode(exitFailure)
		}
		return nil
	}
	return cmd
}

// printVerdicts prints a line for each node and one for each op below it. A
// node that could not be asked has nothing to show: that is told on stderr.
func (a *app) printVerdicts(items []verdictItem) error {
	for _, item := range items {
		name := fmt.Sprintf("%s (%s)", item.Node, overspan.ShortID(item.NodeID))
		switch {
		case item.Error != "":
			fmt.Fprintf(a.stderr, "%s %s\n", name, item.Error)
			continue
		case len(item.Drift) == 0:
			fmt.Fprintf(a.stdout, "%s is in line with revision %d\n", name, item.Revision)
		default:
			fmt.Fprintf(a.stdout, "%s is not in line with revision %d; to repair it:\n", name, item.Revision)
		}
		for _, op := range item.Drift {
			fmt.Fprintf(a.stdout, "  %s\n", op)
		}
	}
	return nil
}
