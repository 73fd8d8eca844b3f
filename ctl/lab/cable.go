package lab

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// makeSwitch makes a bridge on the host.
func (h Host) makeSwitch(ctx context.Context) error {
	return h.ip(ctx,
		"link add switch mtu 9216 type bridge mcast_snooping 0",
		"link set switch up",
	)
}

// plug connects a node to the switch that the host is.
func (h Host) plug(ctx context.Context, n Node) error {
	// The node's process is named as the machine sees it: hence from outside the
	// switch's process namespace.
	peer := strconv.Itoa(n.PID)
	if err := h.ip(ctx,
		"link add "+n.Name+" mtu 9216 master switch type veth peer name eth0 netns "+peer,
		"link set "+n.Name+" up",
	); err != nil {
		return err
	}
	return n.ip(ctx,
		"link set lo up",
		"address add "+n.Address.String()+"/"+strconv.Itoa(underlay.Bits())+" dev eth0",
		"link set eth0 mtu 1500 up",
	)
}

// ip has ip(8) carry out lines in the host's network namespace.
func (h Host) ip(ctx context.Context, lines ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", h.PID), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip on host %s: %w: %s", h.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
