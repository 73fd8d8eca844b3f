package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func (a *app) networkCommand() *cobra.Command {
	return group("network", "Manage networks",
		a.networkCreateCommand(), a.networkListCommand(), a.networkInspectCommand(),
		a.networkRemoveCommand(), a.networkPruneCommand(),
		a.networkConnectCommand(), a.networkDisconnectCommand())
}

func (a *app) networkCreateCommand() *cobra.Command {
	var req overspanv1.CreateNetworkRequest
	var aux, options, labels []string
	var ipv4 bool
	cmd := &cobra.Command{
		Use:               "create [flags] NETWORK",
		Short:             "Create a network, on every node at once or on this one; prints its id",
		Example:           "  ctl network create -d overlay demo\n  ctl network create -d overlay --subnet 10.20.0.0/24 --ip-range 10.20.0.128/25 demo\n  ctl network create -o icc=false apart",
		Args:              wants(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&req.Driver, "driver", "d", "bridge", "overlay: all nodes; bridge: this node")
	f.StringSliceVar(&req.Subnets, "subnet", nil, "subnet in CIDR form, at most one of each family")
	f.StringSliceVar(&req.Gateways, "gateway", nil, "address of the gateway in a subnet")
	f.StringSliceVar(&req.IpRanges, "ip-range", nil, "part of a subnet from which addresses are chosen")
	f.StringSliceVar(&aux, "aux-address", nil, "address that others use, as name=address")
	f.BoolVar(&req.Ipv6, "ipv6", false, "choose an IPv6 subnet if none is given")
	f.BoolVar(&ipv4, "ipv4", true, "choose an IPv4 subnet if none is given")
	f.BoolVar(&req.Internal, "internal", false, "no way out of the network and none in")
	f.StringArrayVarP(&options, "opt", "o", nil, "option, as key=value: host_binding, icc, masquerade, mtu, name (bridge), snat4, snat6, vni (overlay), or docker's names")
	f.StringArrayVar(&labels, "label", nil, "label, as key=value")
	f.BoolVar(&req.ConfigOnly, "config-only", false, "make nothing but a configuration that networks are made from")
	f.StringVar(&req.ConfigFrom, "config-from", "", "configuration network from which subnets, options and labels are copied")
	alwaysSo(f, "attachable", "", "every network is")
	// Here -o is docker's; what the command prints can still be chosen.
	f.StringVar(&a.output, "output", "", "how to show data: json, yaml, go-template=TEMPLATE; only the id if not given")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		req.Name, req.NoIpv4 = args[0], !ipv4
		if req.AuxAddresses, err = keyValues("aux-address", aux, true); err != nil {
			return err
		}
		if req.Options, err = keyValues("opt", options, false); err != nil {
			return err
		}
		if req.Labels, err = keyValues("label", labels, false); err != nil {
			return err
		}
		networks, err := a.networks()
		if err != nil {
			return err
		}
		resp, err := networks.CreateNetwork(cmd.Context(), &req)
		if err != nil {
			return err
		}
		return one(a, inspectNetwork(&overspanv1.GetNetworkResponse{Network: resp.GetNetwork()}), func() error {
			_, err := fmt.Fprintln(a.stdout, resp.GetNetwork().GetId())
			return err
		})
	}
	return cmd
}

func (a *app) networkRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] NETWORK...",
		Aliases:           []string{"remove"},
		SuggestFor:        []string{"delete"},
		Short:             "Remove networks",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNetworks(manyArgs),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a network that does not exist is no error")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		networks, err := a.networks()
		if err != nil {
			return err
		}
		return a.each(args, func(ref string) error {
			_, err := networks.RemoveNetwork(cmd.Context(), &overspanv1.RemoveNetworkRequest{Network: ref})
			if force && isNotFound(err) {
				return nil
			}
			if err == nil {
				fmt.Fprintln(a.stdout, ref)
			}
			return err
		})
	}
	return cmd
}

func (a *app) networkPruneCommand() *cobra.Command {
	var force bool
	var filters filterFlag
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove all networks that nothing is connected to",
		Long: `Prune removes the networks of the cluster, and the local ones of this host, that
no container is connected to. The filter until=TIME leaves those that were made
after that: how long ago (10m, 1h30m), a date (2026-11-21T08:00:00Z), or seconds
since 1970. The filter label!=KEY leaves those with the label.`,
		Example:           "  ctl network prune --filter until=24h --filter label!=keep",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	filters.add(a, cmd, "", networkFilterKeys(map[string]valueList{"label!": anything, "until": anything}))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		if !force && !confirmed(cmd.InOrStdin(), a.stderr) {
			return nil
		}
		networks, err := a.networks()
		if err != nil {
			return err
		}
		resp, err := networks.PruneNetworks(cmd.Context(), &overspanv1.PruneNetworksRequest{Filters: parsed})
		if err != nil {
			return err
		}
		names := resp.GetNames()
		if names == nil {
			names = []string{}
		}
		return one(a, struct{ NetworksDeleted []string }{names}, func() error {
			if len(names) > 0 {
				fmt.Fprintf(a.stdout, "Deleted Networks:\n%s\n\n", strings.Join(names, "\n"))
			}
			return nil
		})
	}
	return cmd
}

// confirmed asks whether every unused network shall go; the answer is no
// unless it is y.
func confirmed(in io.Reader, out io.Writer) bool {
	fmt.Fprint(out, "WARNING! This will remove all custom networks not used by at least one container.\n"+
		"Those of the cluster go on every node.\n"+
		"Are you sure you want to continue? [y/N] ")
	answer, _ := bufio.NewReader(in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
