package main

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// completionBound is how long a shell waits for names; then there are none.
const completionBound = 2 * time.Second

// How many arguments of a kind a command takes.
const (
	oneArg   = 1
	manyArgs = -1
)

// complete offers the names that list returns, but for those that are on the
// command line already.
func (a *app) complete(limit int, list valueList) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if limit == len(args) {
			return nil, none
		}
		a.prepareClient()
		a.client.timeout = min(a.timeout, completionBound)
		a.client.stderr = io.Discard // a warning would garble the command line
		found, err := list(cmd.Context())
		if err != nil {
			return nil, none
		}
		return slices.DeleteFunc(found, func(name string) bool { return slices.Contains(args, name) }), none
	}
}

func (a *app) completeNetworks(limit int) cobra.CompletionFunc {
	return a.complete(limit, a.networkNames)
}

func (a *app) networkNames(ctx context.Context) (found []string, err error) {
	networks, err := a.networks()
	if err != nil {
		return nil, err
	}
	custom := map[string]*overspanv1.FilterValues{"type": {Values: []string{"custom"}}}
	resp, err := networks.ListNetworks(ctx, &overspanv1.ListNetworksRequest{Filters: custom})
	for _, n := range resp.GetNetworks() {
		found = append(found, n.GetName())
	}
	return found, err
}

// completeModes completes a --network of run: those named already are given. What
// goes with no other is offered as the first alone.
func (a *app) completeModes(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	list := func(ctx context.Context) ([]string, error) {
		found, err := a.networkNames(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, overspan.DefaultNetwork)
		if len(given) > 0 {
			return found, nil
		}
		found = append(found, string(overspan.DriverHost), string(overspan.DriverNone))
		sandboxes, err := a.sandboxNames(ctx)
		for _, name := range sandboxes {
			found = append(found, containerPrefix+name)
		}
		return found, err
	}
	return a.complete(manyArgs, list)(cmd, given, prefix)
}

func (a *app) completeSandboxes(limit int) cobra.CompletionFunc {
	return a.complete(limit, a.sandboxNames)
}

func (a *app) sandboxNames(ctx context.Context) (found []string, err error) {
	sandboxes, err := a.sandboxes()
	if err != nil {
		return nil, err
	}
	resp, err := sandboxes.ListSandboxes(ctx, &overspanv1.ListSandboxesRequest{})
	for _, s := range resp.GetSandboxes() {
		found = append(found, s.GetSandbox().GetName())
	}
	return found, err
}

func (a *app) completeNodes(limit int) cobra.CompletionFunc {
	return a.complete(limit, a.nodeNames)
}

func (a *app) nodeNames(ctx context.Context) (found []string, err error) {
	nodes, err := a.nodes()
	if err != nil {
		return nil, err
	}
	resp, err := nodes.ListNodes(ctx, &overspanv1.ListNodesRequest{})
	for _, n := range resp.GetNodes() {
		found = append(found, n.GetNode().GetName())
	}
	return found, err
}

func (a *app) completeEndpoints(limit int) cobra.CompletionFunc {
	return a.complete(limit, a.endpointNames)
}

func (a *app) endpointNames(ctx context.Context) (found []string, err error) {
	endpoints, err := a.endpoints()
	if err != nil {
		return nil, err
	}
	resp, err := endpoints.ListEndpoints(ctx, &overspanv1.ListEndpointsRequest{})
	for _, e := range resp.GetEndpoints() {
		found = append(found, e.GetEndpoint().GetName())
	}
	return found, err
}

// completeConnect completes NETWORK TARGET.
func (a *app) completeConnect(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeNetworks(oneArg)(cmd, args, prefix)
	}
	return a.completeSandboxes(oneArg)(cmd, args[1:], prefix)
}
