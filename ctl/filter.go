package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A valueList returns the values that a shell may offer for a key.
type valueList func(context.Context) ([]string, error)

// A filterFlag is docker's --filter of one command.
type filterFlag struct {
	given []string
}

// add gives a command the flag; keys are what the agent takes, for help and
// completion. Short is its letter, "" where that means something else.
func (f *filterFlag) add(a *app, cmd *cobra.Command, short string, keys map[string]valueList) {
	names := slices.Sorted(maps.Keys(keys))
	cmd.Flags().StringArrayVarP(&f.given, "filter", short, nil, "key=value, with the key "+strings.Join(names, ", ")+"; may be repeated")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("filter", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		key, _, valued := strings.Cut(prefix, "=")
		if !valued {
			var out []string
			for _, name := range names {
				out = append(out, name+"=")
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		if keys[key] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		values, how := a.complete(manyArgs, keys[key])(cmd, nil, "")
		for i, value := range values {
			values[i] = key + "=" + value
		}
		return values, how
	}))
}

// parse groups key=value by key, in docker's way; the agent knows which keys
// there are and what their values mean.
func (f *filterFlag) parse() (map[string]*overspanv1.FilterValues, error) {
	out := map[string]*overspanv1.FilterValues{}
	for _, text := range f.given {
		key, value, ok := strings.Cut(text, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if !ok || key == "" {
			return nil, usagef("invalid filter '%s': bad format of filter (expected name=value)", text)
		}
		if out[key] == nil {
			out[key] = &overspanv1.FilterValues{}
		}
		out[key].Values = append(out[key].Values, value)
	}
	return out, nil
}

// anything is the list of a key of which a shell knows no values.
func anything(context.Context) ([]string, error) { return nil, nil }

// either lists the words that a key takes.
func either(words ...string) valueList {
	return func(context.Context) ([]string, error) { return slices.Clone(words), nil }
}

// networkFilterKeys are docker's, but for those of one command alone.
func networkFilterKeys(more map[string]valueList) map[string]valueList {
	keys := map[string]valueList{
		"driver": either("bridge", "host", "null", "overlay"),
		"id":     anything,
		"label":  anything,
		"name":   anything,
		"scope":  either("global", "local"),
		"type":   either("builtin", "custom"),
	}
	maps.Copy(keys, more)
	return keys
}
