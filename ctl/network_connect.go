package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// targetHelp says what can be connected.
const targetHelp = `TARGET is the name of a sandbox, pid:N, netns:/path, the name of a namespace of
'ip netns', or docker:NAME.`

// endpointOptions says what --driver-opt takes.
const endpointOptions = "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,…, com.docker.network.endpoint.ifname=NAME"

func (a *app) networkConnectCommand() *cobra.Command {
	var req overspanv1.ConnectRequest
	var wait string
	var doors publication
	var driverOpts, linkLocal []string
	var links []string
	cmd := &cobra.Command{
		Use:   "connect [flags] NETWORK TARGET",
		Short: "Connect a container of this host to a network",
		Long:  "Connect gives a container an interface, an address and a name in a network.\n\n" + targetHelp,
		Example: "  ctl network connect demo web1\n  ctl network connect --ip 10.0.0.9 --name db demo pid:4711\n" +
			"  ctl network connect --gw-priority 1 demo web1\n  ctl network connect -p 8080:80 demo web1",
		Args:              wants(cobra.ExactArgs(2)),
		ValidArgsFunction: a.completeConnect,
	}
	f := cmd.Flags()
	f.StringVar(&req.Ip, "ip", "", "IPv4 address")
	f.StringVar(&req.Ip6, "ip6", "", "IPv6 address")
	f.StringVar(&req.Name, "name", "", "name in the network (default: the target's)")
	f.StringVar(&req.Mac, "mac-address", "", "MAC address")
	f.StringVar(&req.Interface, "ifname", "", "name of the interface (default: the first free ethN)")
	f.Int32Var(&req.GatewayPriority, "gw-priority", 0, "the container's default routes lead through its network of the highest number, the oldest of several")
	f.StringArrayVar(&driverOpts, "driver-opt", nil, "option of the interface, as key=value: "+endpointOptions)
	f.StringSliceVar(&linkLocal, "link-local-ip", nil, "not supported: link-local addresses do not pass between nodes")
	cobra.CheckErr(f.MarkHidden("link-local-ip"))
	f.StringArrayVar(&req.Aliases, "alias", nil, "further name in the network, which others may have too; may be repeated")
	f.StringArrayVar(&links, "link", nil, "NAME:ALIAS: a name that the target alone knows another by; may be repeated")
	doors.flags(f)
	f.StringVar(&wait, "wait", "peers", "what to wait for: peers, local, none")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"peers", "local", "none"}, cobra.ShellCompDirectiveNoFileComp)))
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		req.Network, req.Target = args[0], args[1]
		doors.into(&req)
		if req.Wait, err = parseWait(wait); err != nil {
			return err
		}
		if req.DriverOptions, err = keyValues("driver-opt", driverOpts, true); err != nil {
			return err
		}
		if len(linkLocal) > 0 {
			return usagef("--link-local-ip is not supported, since link-local addresses do not pass between nodes: use --ip or --ip6")
		}
		if req.Links, err = parseLinks(links); err != nil {
			return err
		}
		e, err := a.connect(cmd.Context(), &req)
		if err != nil {
			return err
		}
		return one(a, endpointItemOf(e), func() error { return nil })
	}
	return cmd
}

func parseWait(text string) (overspanv1.Wait, error) {
	switch text {
	case "peers":
		return overspanv1.Wait_WAIT_PEERS, nil
	case "local":
		return overspanv1.Wait_WAIT_LOCAL, nil
	case "none":
		return overspanv1.Wait_WAIT_NONE, nil
	}
	return 0, usagef("invalid --wait %q: want peers, local or none", text)
}

// parseLinks reads NAME:ALIAS; NAME alone is its own alias.
func parseLinks(texts []string) ([]*overspanv1.Link, error) {
	var out []*overspanv1.Link
	for _, text := range texts {
		name, alias, both := strings.Cut(text, ":")
		if !both {
			alias = name
		}
		if name == "" || alias == "" {
			return nil, usagef("invalid --link %q: want NAME:ALIAS", text)
		}
		out = append(out, &overspanv1.Link{Name: name, Alias: alias})
	}
	return out, nil
}

// connect has the agent connect a target; peers that are late are told on stderr.
func (a *app) connect(ctx context.Context, req *overspanv1.ConnectRequest) (*overspanv1.EndpointView, error) {
	networks, err := a.networks()
	if err != nil {
		return nil, err
	}
	resp, err := networks.Connect(ctx, req)
	if err != nil {
		return nil, err
	}
	if late := resp.GetUnconfirmed(); len(late) > 0 {
		fmt.Fprintf(a.stderr, "warning: %s may not be reachable yet from: %s\n", resp.GetEndpoint().GetEndpoint().GetName(), strings.Join(late, ", "))
	}
	return resp.GetEndpoint(), nil
}

func (a *app) networkDisconnectCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "disconnect [flags] NETWORK TARGET",
		Short:             "Disconnect a container of this host from a network",
		Long:              "Disconnect takes a container off a network and frees its address and name.\n\n" + targetHelp + "\nThe name or the id of the endpoint will do too.",
		Args:              wants(cobra.ExactArgs(2)),
		ValidArgsFunction: a.completeConnect,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also an endpoint, by its name or id, of a node that is down")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		networks, err := a.networks()
		if err != nil {
			return err
		}
		resp, err := networks.Disconnect(cmd.Context(), &overspanv1.DisconnectRequest{Network: args[0], Target: args[1], Force: force})
		if err != nil {
			return err
		}
		if resp.GetPending() {
			fmt.Fprintln(a.stderr, "note: etcd does not take it now: address and name are freed as soon as it does")
		}
		return one(a, endpointItemOf(resp.GetEndpoint()), func() error { return nil })
	}
	return cmd
}
