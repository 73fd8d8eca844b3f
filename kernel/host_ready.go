package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// addressWait bounds the wait for a new IPv6 address to be usable.
const addressWait = 2 * time.Second

// awaitAddrs waits until the kernel receives packets for the IPv6 addresses of
// an interface that has its carrier. Also without duplicate address detection
// it leaves the last steps, joining the solicited-node group and the local
// route, to a work queue (addrconf_dad_work in net/ipv6/addrconf.c): on a busy
// host the answer to a first packet would arrive before them and be dropped.
func awaitAddrs(ctx context.Context, c *conn, addrs []netip.Prefix) error {
	ctx, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, p := range addrs {
		for p.Addr().Is6() {
			local, err := c.isLocal(p.Addr())
			if err != nil {
				return fmt.Errorf("look up the local route of %s: %w", p.Addr(), err)
			}
			if local {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for address %s: %w", p.Addr(), ctx.Err())
			case <-tick.C:
			}
		}
	}
	return nil
}

// isLocal reports whether packets to an address would be received here.
func (c *conn) isLocal(a netip.Addr) (bool, error) {
	head := &nl.RtMsg{}
	head.Family = uint8(afInet(a))
	head.Dst_len = uint8(a.BitLen())
	body, err := c.get(newMessage(unix.RTM_GETROUTE, 0, head, rta(unix.RTA_DST, a.AsSlice())))
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(body) < unix.SizeofRtMsg {
		return false, errors.New("route message too short")
	}
	return body[7] == unix.RTN_LOCAL, nil
}
