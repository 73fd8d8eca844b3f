package main

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// dockerNames are docker's other names of flags of run.
var dockerNames = map[string]string{
	"dns-opt":       "dns-option",
	"net":           "network",
	"net-alias":     "alias",
	"network-alias": "alias",
}

// dockerRunFlags has a flag set of run understand what users of docker type from
// habit: its other names, and flags for what is so anyhow. It returns whether the
// command shall run in the background, which is not to be had.
func dockerRunFlags(f *pflag.FlagSet) (detach *bool) {
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if ours, ok := dockerNames[name]; ok {
			name = ours
		}
		return pflag.NormalizedName(name)
	})
	alwaysSo(f, "rm", "", "the sandbox is always removed")
	ttyFlags(f)
	detach = f.BoolP("detach", "d", false, "not supported")
	hide(f, "detach")
	return detach
}

// ttyFlags adds -i and -t, of run and exec: a command has what ctl itself reads
// and writes, a terminal or not.
func ttyFlags(f *pflag.FlagSet) {
	alwaysSo(f, "interactive", "i", "input is always passed on")
	alwaysSo(f, "tty", "t", "a terminal is always passed on")
}

// alwaysSo adds a flag that asks for what is so without it, and refuses to have
// it otherwise.
func alwaysSo(f *pflag.FlagSet, name, shorthand, usage string) {
	f.BoolFuncP(name, shorthand, usage, func(text string) error {
		if on, err := strconv.ParseBool(text); err != nil || !on {
			return errors.New(usage + ": leave the flag out")
		}
		return nil
	})
	hide(f, name)
}

// hide keeps a flag out of the help.
func hide(f *pflag.FlagSet, name string) { f.Lookup(name).Hidden = true }
