package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// containerPrefix begins a --network that is another sandbox's.
const containerPrefix = "container:"

// A runMode is where a command runs: in a sandbox of its own that is plugged
// into networks, if into any; in that of another; or on the host.
type runMode struct {
	networks []string
	shared   string // the sandbox whose network namespace it is; "" for its own
	host     bool
}

// mode understands --network, and refuses what does not go with it, in docker's
// words.
func (r runRequest) mode() (runMode, error) {
	if len(r.networks) == 0 {
		r.networks = []string{overspan.DefaultNetwork}
	}
	for _, network := range r.networks {
		m, special, err := specialMode(network)
		switch {
		case err != nil:
			return runMode{}, err
		case !special:
			continue
		case len(r.networks) > 1:
			return runMode{}, usagef("conflicting options: cannot attach both user-defined and non-user-defined network-modes: --network %s goes with no other", network)
		}
		return m, r.checkSpecial(network, m)
	}
	fixed := r.ip != "" || r.ip6 != ""
	switch {
	case (fixed || r.mac != "") && len(r.networks) != 1:
		return runMode{}, usagef("--ip, --ip6 and --mac-address want exactly one --network")
	case fixed && r.networks[0] == overspan.DefaultNetwork:
		return runMode{}, usagef("user specified IP address is supported on user defined networks only: --ip and --ip6 want another --network than %s", overspan.DefaultNetwork)
	}
	return runMode{networks: r.networks}, nil
}

// specialMode returns what a --network means that is the name of no network.
func specialMode(network string) (m runMode, special bool, err error) {
	target, shared := strings.CutPrefix(network, containerPrefix)
	switch {
	case shared && target == "":
		return m, true, usagef("invalid container format container:<name|id>: --network %s names none", network)
	case shared:
		return runMode{shared: target}, true, nil
	case network == string(overspan.DriverHost):
		return runMode{host: true}, true, nil
	}
	return m, network == string(overspan.DriverNone), nil
}

// checkSpecial refuses what needs a network, or, where the namespace is not the
// command's own, what would have to change that.
func (r runRequest) checkSpecial(network string, m runMode) error {
	if r.ip != "" || r.ip6 != "" {
		return usagef("user specified IP address is supported on user defined networks only: it does not go with --network %s", network)
	}
	given := map[string]bool{"alias": len(r.aliases) > 0, "link": len(r.links) > 0, "mac-address": r.mac != ""}
	if m.host || m.shared != "" {
		given["name"], given["hostname"] = r.name != "", r.settings.hostname != ""
		given["dns"], given["dns-search"] = len(r.settings.servers) > 0, len(r.settings.search) > 0
		given["dns-option"], given["add-host"] = len(r.settings.options) > 0, len(r.settings.add) > 0
	}
	if m.shared != "" && r.doors.some() {
		return usagef("conflicting options: port publishing and the container type network mode: --publish and --publish-all do not go with --network %s", network)
	}
	for _, option := range slices.Sorted(maps.Keys(given)) {
		if given[option] {
			return usagef("conflicting options: %s and the network mode: --%s does not go with --network %s", option, option, network)
		}
	}
	return nil
}
