package main

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// networkItem is a network in a list, as -o shows it.
type networkItem struct {
	ID        string
	Name      string
	Driver    string
	Scope     string
	IPv4      bool
	IPv6      bool
	Internal  bool
	Labels    labels
	CreatedAt time.Time
}

// labels print as docker's templates print them: a=b,c=d.
type labels map[string]string

func (l labels) String() string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(l)) {
		out = append(out, key+"="+l[key])
	}
	return strings.Join(out, ",")
}

// networkRow is a network in a list as docker's formats see it: every field is
// a text, in this order.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels labels
}

// Label returns one label, for docker's {{.Label "key"}}.
func (n networkRow) Label(key string) string { return n.labels[key] }

func networkRowOf(n networkItem) any {
	return networkRow{
		CreatedAt: n.CreatedAt.String(),
		Driver:    n.Driver,
		ID:        n.ID,
		IPv4:      strconv.FormatBool(n.IPv4),
		IPv6:      strconv.FormatBool(n.IPv6),
		Internal:  strconv.FormatBool(n.Internal),
		Labels:    n.Labels.String(),
		Name:      n.Name,
		Scope:     n.Scope,
		labels:    n.Labels,
	}
}

func networkItemOf(n *overspanv1.Network) networkItem {
	return networkItem{
		ID:        n.GetId(),
		Name:      n.GetName(),
		Driver:    n.GetDriver(),
		Scope:     overspan.Driver(n.GetDriver()).Scope(),
		IPv4:      n.GetIpv4() != nil,
		IPv6:      n.GetIpv6() != nil,
		Internal:  n.GetInternal(),
		Labels:    orEmpty(n.GetLabels()),
		CreatedAt: timeOf(n.GetCreated()),
	}
}

func (a *app) networkListCommand() *cobra.Command {
	list := listing[networkItem]{
		columns: []column[networkItem]{
			{"NETWORK ID", func(n networkItem) string { return n.ID }},
			{"NAME", func(n networkItem) string { return n.Name }},
			{"DRIVER", func(n networkItem) string { return n.Driver }},
			{"SCOPE", func(n networkItem) string { return n.Scope }},
		},
		short: func(n *networkItem) { n.ID = overspan.ShortID(n.ID) },
		id:    func(n networkItem) string { return n.ID },
		row:   networkRowOf,
	}
	var filters filterFlag
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List networks",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	filters.add(a, cmd, "f", networkFilterKeys(map[string]valueList{"dangling": either("true", "false")}))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parsed, err := filters.parse()
		if err != nil {
			return err
		}
		networks, err := a.networks()
		if err != nil {
			return err
		}
		resp, err := networks.ListNetworks(cmd.Context(), &overspanv1.ListNetworksRequest{Filters: parsed})
		if err != nil {
			return err
		}
		var items []networkItem
		for _, n := range resp.GetNetworks() {
			items = append(items, networkItemOf(n))
		}
		return list.print(a, items)
	}
	return cmd
}

func isNotFound(err error) bool { return errors.Is(err, overspan.ErrNotFound) }

// withBits writes an address with its prefix length, "" if there is none.
func withBits(address string, bits uint32) string {
	if address == "" || bits == 0 {
		return address
	}
	return address + "/" + strconv.Itoa(int(bits))
}
