package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// sandboxItem is a sandbox, in lists and in detail.
type sandboxItem struct {
	ID        string
	Name      string
	Kind      string
	Netns     string
	PID       int64 `json:",omitempty"`
	Endpoints []endpointItem
	CreatedAt time.Time

	Hostname    string     `json:",omitempty"`
	Nameservers []string   `json:",omitempty"` // that answer within
	DNS         []string   `json:",omitempty"` // that are asked for names of the world
	DNSSearch   []string   `json:",omitempty"`
	DNSOptions  []string   `json:",omitempty"`
	ExtraHosts  []hostItem `json:",omitempty"`
}

// hostItem is a line of the sandbox's /etc/hosts.
type hostItem struct{ Name, Address string }

func sandboxItemOf(v *overspanv1.SandboxView) sandboxItem {
	s := v.GetSandbox()
	item := sandboxItem{
		ID:        s.GetId(),
		Name:      s.GetName(),
		Kind:      s.GetKind(),
		Netns:     s.GetNetns(),
		PID:       s.GetPid(),
		Endpoints: []endpointItem{},
		CreatedAt: timeOf(s.GetCreated()),

		Hostname:    s.GetHostname(),
		Nameservers: v.GetNameservers(),
		DNS:         s.GetResolver().GetServers(),
		DNSSearch:   s.GetResolver().GetSearch(),
		DNSOptions:  s.GetResolver().GetOptions(),
	}
	for _, h := range s.GetHosts() {
		item.ExtraHosts = append(item.ExtraHosts, hostItem{h.GetName(), h.GetAddress()})
	}
	for _, e := range v.GetEndpoints() {
		item.Endpoints = append(item.Endpoints, endpointItemOf(e))
	}
	return item
}

// plugs says in short where a sandbox is plugged in: demo=10.0.0.2.
func (s sandboxItem) plugs() string {
	var out []string
	for _, e := range s.Endpoints {
		out = append(out, e.Network+"="+strings.Join(e.addresses(), ","))
	}
	return strings.Join(out, " ")
}

func (a *app) sandboxCommand() *cobra.Command {
	return group("sandbox", "Manage sandboxes: the network namespaces of this host's containers",
		a.sandboxCreateCommand(), a.sandboxListCommand(), a.sandboxInspectCommand(), a.sandboxRemoveCommand())
}

func (a *app) sandboxCreateCommand() *cobra.Command {
	var settings sandboxFlags
	cmd := &cobra.Command{
		Use:               "create [flags] [NAME]",
		Short:             "Make a lasting network namespace; prints its id",
		Args:              wants(cobra.MaximumNArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	settings.register(cmd.Flags(), "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := settings.request(optional(args))
		if err != nil {
			return err
		}
		sandboxes, err := a.sandboxes()
		if err != nil {
			return err
		}
		resp, err := sandboxes.CreateSandbox(cmd.Context(), req)
		if err != nil {
			return err
		}
		return one(a, sandboxItemOf(&overspanv1.SandboxView{Sandbox: resp.GetSandbox()}), func() error {
			_, err := fmt.Fprintln(a.stdout, resp.GetSandbox().GetId())
			return err
		})
	}
	return cmd
}

func (a *app) sandboxListCommand() *cobra.Command {
	list := listing[sandboxItem]{
		columns: []column[sandboxItem]{
			{"SANDBOX ID", func(s sandboxItem) string { return s.ID }},
			{"NAME", func(s sandboxItem) string { return s.Name }},
			{"KIND", func(s sandboxItem) string { return s.Kind }},
			{"NETWORKS", sandboxItem.plugs},
		},
		short: func(s *sandboxItem) { s.ID = overspan.ShortID(s.ID) },
		id:    func(s sandboxItem) string { return s.ID },
	}
	var filters filterFlag
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List this host's sandboxes",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	filters.add(a, cmd, "f", map[string]valueList{
		"id": anything, "kind": either("docker", "netns", "pid", "sandbox"), "name": a.sandboxNames, "network": a.networkNames,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		sandboxes, err := a.sandboxes()
		if err != nil {
			return err
		}
		resp, err := sandboxes.ListSandboxes(cmd.Context(), &overspanv1.ListSandboxesRequest{Filters: parsed})
		if err != nil {
			return err
		}
		var items []sandboxItem
		for _, s := range resp.GetSandboxes() {
			items = append(items, sandboxItemOf(s))
		}
		return list.print(a, items)
	}
	return cmd
}

func (a *app) sandboxInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect [flags] SANDBOX...",
		Short:             "Show sandboxes in detail",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeSandboxes(manyArgs),
	}
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sandboxes, err := a.sandboxes()
		if err != nil {
			return err
		}
		return inspectEach(a, args, func(ref string) (sandboxItem, error) {
			resp, err := sandboxes.GetSandbox(cmd.Context(), &overspanv1.GetSandboxRequest{Sandbox: ref})
			return sandboxItemOf(resp.GetSandbox()), err
		})
	}
	return cmd
}

func (a *app) sandboxRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm SANDBOX...",
		Aliases:           []string{"remove"},
		SuggestFor:        []string{"delete"},
		Short:             "Disconnect sandboxes from their networks and remove them",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeSandboxes(manyArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			sandboxes, err := a.sandboxes()
			if err != nil {
				return err
			}
			return a.each(args, func(ref string) error {
				_, err := sandboxes.RemoveSandbox(cmd.Context(), &overspanv1.RemoveSandboxRequest{Sandbox: ref})
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				return err
			})
		},
	}
}
