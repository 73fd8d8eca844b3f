package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// needed are the capabilities without which the agent can do nothing:
// changing links, routes and rules, and entering containers' namespaces.
var needed = []struct {
	capability uint
	name       string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
}

// checkPrivilege refuses to start where the kernel would refuse everything.
func checkPrivilege() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has 64 bits, see capget(2)
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	for _, n := range needed {
		if data[n.capability/32].Effective&(1<<(n.capability%32)) == 0 {
			return fmt.Errorf("the agent lacks %s: run it as root, or give it that capability", n.name)
		}
	}
	return nil
}
