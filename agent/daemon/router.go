package daemon

import (
	"context"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// routerWarnings tells if this host has become a router for everybody.
func (d *Daemon) routerWarnings(ctx context.Context) []string {
	found, err := d.journal.Found()
	if err != nil {
		return []string{"cannot read what this host was like before: " + err.Error()}
	}
	open, err := d.host.OpenRouter(ctx)
	if err != nil {
		return []string{"cannot tell whom this host forwards for: " + err.Error()}
	}
	return becameRouter(found.Sysctls, open)
}

// becameRouter tells of the families that a host forwards for everybody since an
// agent has switched that on, if there are any. One that forwarded before does
// what its administrator has decided. Was is what settings were before an agent
// changed them.
func becameRouter(was map[string]string, open []overspan.Family) []string {
	var families, commands []string
	for _, family := range open {
		path, command := kernel.ForwardIPv4, "iptables"
		if family == overspan.IPv6 {
			path, command = kernel.ForwardIPv6, "ip6tables"
		}
		if was[path] == "0" {
			families = append(families, string(family))
			commands = append(commands, command+" -P FORWARD DROP")
		}
	}
	if len(families) == 0 {
		return nil
	}
	return []string{"this host has become a router that lets everybody pass (" + strings.Join(families, ", ") +
		"): networks need forwarding, and its FORWARD chain accepts what it does not know; unless others rely on that: " + strings.Join(commands, "; ")}
}
