package api

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A filter says whether a network is wanted.
type filter func(*overspanv1.Network) bool

// filterKeys are docker's: of the values of a key one must match, of labels all.
var filterKeys = map[string]func(value string) (filter, error){
	"driver": func(value string) (filter, error) {
		return func(n *overspanv1.Network) bool { return n.GetDriver() == value }, nil
	},
	"scope": func(value string) (filter, error) {
		return func(n *overspanv1.Network) bool { return overspan.Driver(n.GetDriver()).Scope() == value }, nil
	},
	"type":  filterType,
	"label": filterLabel,
	"id": func(value string) (filter, error) {
		return filterPattern(value, (*overspanv1.Network).GetId)
	},
	"name": func(value string) (filter, error) {
		return filterPattern(value, (*overspanv1.Network).GetName)
	},
}

// filterType tells predefined networks from the others.
func filterType(value string) (filter, error) {
	if value != "builtin" && value != "custom" {
		return nil, overspan.Errorf(overspan.ErrInvalid, "invalid filter type=%s: want builtin or custom", value)
	}
	return func(n *overspanv1.Network) bool { return isPredefined(n) == (value == "builtin") }, nil
}

// filterLabel takes key or key=value.
func filterLabel(value string) (filter, error) {
	key, want, exact := strings.Cut(value, "=")
	return func(n *overspanv1.Network) bool {
		got, ok := n.GetLabels()[key]
		return ok && (!exact || got == want)
	}, nil
}

// filterPattern matches any part of a text, by a regular expression.
func filterPattern(value string, text func(*overspanv1.Network) string) (filter, error) {
	re, err := regexp.Compile(value)
	if err != nil {
		return nil, overspan.Errorf(overspan.ErrInvalid, "invalid filter: %w", err)
	}
	return func(n *overspanv1.Network) bool { return re.MatchString(text(n)) }, nil
}

// parseFilters makes one filter of all.
func parseFilters(in map[string]*overspanv1.FilterValues) (filter, error) {
	var all []filter
	for _, key := range slices.Sorted(maps.Keys(in)) {
		parse := filterKeys[key]
		if parse == nil {
			return nil, overspan.Errorf(overspan.ErrInvalid, "invalid filter %q: use driver, id, label, name, scope or type", key)
		}
		var values []filter
		for _, value := range in[key].GetValues() {
			f, err := parse(value)
			if err != nil {
				return nil, err
			}
			values = append(values, f)
		}
		if key == "label" {
			all = append(all, values...)
		} else {
			all = append(all, anyOf(values))
		}
	}
	return func(n *overspanv1.Network) bool {
		return !slices.ContainsFunc(all, func(f filter) bool { return !f(n) })
	}, nil
}

// anyOf matches what one of the filters matches; no filters match all.
func anyOf(filters []filter) filter {
	return func(n *overspanv1.Network) bool {
		return len(filters) == 0 || slices.ContainsFunc(filters, func(f filter) bool { return f(n) })
	}
}
