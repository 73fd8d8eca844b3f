package kernel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errNoProgram is why a Host for trying things out runs no program.
var errNoProgram = errors.New("no programs here")

// Guard says what this host can hold containers to their own addresses with. It
// tries that out, in a network namespace that is gone afterwards, and the answer
// is the same for as long as the Host lives.
func (h *Host) Guard() Guard { return h.guard() }

// tryGuards is called once.
func (h *Host) tryGuards() Guard {
	g := Guard{Why: "programs at ports are switched off (--port-programs)"}
	err := scratch(func(t *Host) error {
		g.Locked = t.tryLocked() == nil
		if h.config.NoPrograms {
			return nil
		}
		p, err := h.port()
		if err == nil {
			err = t.attachPort(loopbackIndex, p)
		}
		if g.Programs, g.Why = err == nil, ""; err != nil {
			g.Why = fmt.Sprintf("the kernel runs no programs at ports (eBPF with clsact, Linux 5.12): %v", err)
		}
		return nil
	})
	if err != nil {
		g.Why = fmt.Sprintf("programs at ports cannot be tried out: %v", err)
	}
	return g
}

// tryLocked locks a port of a bridge and reads it back: older kernels pass over
// what they do not know.
func (h *Host) tryLocked() error {
	for _, kind := range []LinkKind{KindBridge, KindVeth} {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(kind))
		m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifInfo(0, 0, 0), rtaText(unix.IFLA_IFNAME, "lock-"+string(kind)), info)
		if err := h.route.exec(m); err != nil {
			return err
		}
	}
	bridge, err := h.route.link("lock-" + string(KindBridge))
	if err != nil {
		return err
	}
	port, err := h.route.link("lock-" + string(KindVeth))
	if err != nil {
		return err
	}
	if err := firstError(h.route.execAll([]message{setMaster(port.index, bridge.index), setPort(port.index, Port{Locked: true})})); err != nil {
		return err
	}
	if port, err = h.route.linkAt(port.index); err == nil && !port.Port.Locked {
		err = errors.New("the port is not locked")
	}
	return err
}

// lacksGuard says what follows from a Guard, in words for an administrator.
func (g Guard) lacksGuard() []string {
	switch {
	case g.Programs:
		return nil
	case g.Locked:
		return []string{g.Why + ": of what containers send only the MAC address is checked (port flag locked), and traffic within a network takes the slower way by bridge and packet filter"}
	}
	return []string{g.Why + ", and bridge ports cannot be locked (Linux 5.16): what containers send is not checked"}
}
