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

const filterHelp = "key=value with the key driver, id, label, name, scope or type (custom, builtin); may be repeated"

// networkItem is a network in a list; templates see its fields by docker's names.
type networkItem struct {
	ID        string
	Name      string
	Driver    string
	Scope     string
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

// Label returns one label, for docker's {{.Label "key"}}.
func (n networkItem) Label(key string) string { return n.Labels[key] }

func networkItemOf(n *overspanv1.Network) networkItem {
	return networkItem{
		ID:        n.GetId(),
		Name:      n.GetName(),
		Driver:    n.GetDriver(),
		Scope:     overspan.Driver(n.GetDriver()).Scope(),
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
	}
	var filters []string
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List networks",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, filterHelp)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parsed, err := parseFilters(filters)
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

// parseFilters groups key=value by key; the agent knows which keys there are.
func parseFilters(in []string) (map[string]*overspanv1.FilterValues, error) {
	out := map[string]*overspanv1.FilterValues{}
	for _, text := range in {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, usagef("invalid filter %q: want key=value", text)
		}
		if out[key] == nil {
			out[key] = &overspanv1.FilterValues{}
		}
		out[key].Values = append(out[key].Values, value)
	}
	return out, nil
}

func isNotFound(err error) bool { return errors.Is(err, overspan.ErrNotFound) }

// withBits writes an address with its prefix length, "" if there is none.
func withBits(address string, bits uint32) string {
	if address == "" || bits == 0 {
		return address
	}
	return address + "/" + strconv.Itoa(int(bits))
}
