package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// versionDetails are both ends of the connection.
type versionDetails struct {
	Client versionItem
	Agent  *versionItem `json:",omitempty"`
}

type versionItem struct {
	Version   string
	GoVersion string
	Commit    string `json:",omitempty"`
}

func (v versionItem) String() string {
	text := v.Version + ", " + v.GoVersion
	if v.Commit != "" {
		text += ", commit " + v.Commit
	}
	return text
}

// ownVersion is this program's.
func ownVersion() versionItem {
	v := versionItem{Version: overspan.Version, GoVersion: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "version [flags]",
		Short:             "Show the versions of ctl and of the agent",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := versionDetails{Client: ownVersion()}
		system, err := a.system()
		if err != nil {
			return err
		}
		resp, agentErr := system.Version(cmd.Context(), &overspanv1.VersionRequest{})
		if agentErr == nil {
			d.Agent = &versionItem{resp.GetVersion(), resp.GetGoVersion(), resp.GetCommit()}
		}
		err = one(a, d, func() error {
			fmt.Fprintf(a.stdout, "ctl    %s\n", d.Client)
			if d.Agent != nil {
				fmt.Fprintf(a.stdout, "agent  %s\n", *d.Agent)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return agentErr
	}
	return cmd
}
