package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// protocolNumbers are what IP calls the protocols.
var protocolNumbers = map[overspan.Protocol]uint8{
	overspan.TCP:  unix.IPPROTO_TCP,
	overspan.UDP:  unix.IPPROTO_UDP,
	overspan.SCTP: unix.IPPROTO_SCTP,
}

// parseFlow reads what a rule publishes, as iptables-save prints it; the zero
// Flow if it publishes nothing. A rule that names no address serves all of the
// host's.
func parseFlow(spec string) Flow {
	values := map[string]string{}
	words := strings.Fields(quoted.ReplaceAllString(spec, "TEXT"))
	for i, word := range words[:max(0, len(words)-1)] {
		values[word] = words[i+1]
	}
	to, err := netip.ParseAddrPort(values["--to-destination"])
	port, bad := strconv.ParseUint(values["--dport"], 10, 16)
	if err != nil || bad != nil {
		return Flow{}
	}
	dst := netip.IPv4Unspecified()
	if to.Addr().Is6() {
		dst = netip.IPv6Unspecified()
	}
	if host, named := values["-d"]; named {
		bare, _, _ := strings.Cut(host, "/")
		if dst, err = netip.ParseAddr(bare); err != nil {
			return Flow{}
		}
	}
	return Flow{Protocol: overspan.Protocol(values["-p"]), Dst: netip.AddrPortFrom(dst, uint16(port)), To: to}
}

// flushFlows deletes conntrack's entries that a packet to a published port would
// follow elsewhere than its rule says. Entries of others, and those that lead
// where they should, stay. What it fails to do stays owed: Read tells of it.
func (h *Host) flushFlows(o FlushFlows) error {
	h.owe(o)
	h.owing.Lock()
	defer h.owing.Unlock()
	local, err := h.localAddrs()
	if err != nil {
		return err
	}
	var stray []message
	for _, q := range flowQuestions(o.Flows) {
		more, err := h.strayFlows(q, local)
		if err != nil {
			return fmt.Errorf("list conntrack entries: %w", err)
		}
		stray = append(stray, more...)
	}
	for _, err := range h.netfilter.execAll(stray) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete a conntrack entry: %w", err)
		}
	}
	for _, f := range o.Flows {
		delete(h.owed, f.key())
	}
	return nil
}

// owe notes the flows that some ops were to flush.
func (h *Host) owe(ops ...Op) {
	h.owing.Lock()
	defer h.owing.Unlock()
	for _, op := range ops {
		if o, flushes := op.(FlushFlows); flushes {
			for _, f := range o.Flows {
				put(&h.owed, f.key(), struct{}{})
			}
		}
	}
}

// readOwed returns the flows that are still to be flushed.
func (h *Host) readOwed() map[Flow]struct{} {
	h.owing.Lock()
	defer h.owing.Unlock()
	return maps.Clone(h.owed)
}

// askedAlone is up to how many published ports conntrack is asked about one by
// one. Each question makes it walk its whole table, but returns only matches; for
// more ports the whole table is listed once.
const askedAlone = 8

// A flowQuestion asks conntrack for the entries that some flows may be among.
type flowQuestion struct {
	dump  message
	flows []Flow
}

// flowQuestions returns what is to be asked about flows, of which each is in one.
func flowQuestions(flows []Flow) []flowQuestion {
	var out []flowQuestion
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		var of []Flow
		for _, f := range flows {
			if overspan.FamilyOf(f.Dst.Addr()) == family {
				of = append(of, f)
			}
		}
		switch {
		case len(of) == 0:
		case len(of) > askedAlone:
			out = append(out, flowQuestion{conntrackMessage(nl.IPCTNL_MSG_CT_GET, family), of})
		default:
			for _, f := range of {
				out = append(out, flowQuestion{conntrackMessage(nl.IPCTNL_MSG_CT_GET, family, onlyTo(f)...), []Flow{f}})
			}
		}
	}
	return out
}

// localAddrs returns the addresses of the host's devices.
func (h *Host) localAddrs() (map[netip.Addr]struct{}, error) {
	found, err := h.route.addrs(0)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Addr]struct{}, len(found))
	for _, a := range found {
		out[a.prefix.Addr()] = struct{}{}
	}
	return out, nil
}

// strayFlows returns the messages that delete the entries of a question's flows
// that lead elsewhere.
func (h *Host) strayFlows(q flowQuestion, local map[netip.Addr]struct{}) ([]message, error) {
	byPort := make(map[flowPort][]Flow, len(q.flows))
	for _, f := range q.flows {
		at := flowPort{protocolNumbers[f.Protocol], f.Dst.Port()}
		byPort[at] = append(byPort[at], f)
	}
	var stray []message
	err := h.netfilter.scan(q.dump, func() { stray = nil }, func(body []byte) error {
		entry := decodeConntrack(body)
		for _, f := range byPort[flowPort{entry.protocol, entry.to.Port()}] {
			if entry.strays(f, local) {
				stray = append(stray, entry.deletion())
				break
			}
		}
		return nil
	})
	return stray, err
}

// A flowPort is by what the entries of a flow are found.
type flowPort struct {
	protocol uint8
	port     uint16
}

// strays reports whether an entry is one of a flow's and leads elsewhere.
func (e conntrackEntry) strays(f Flow, local map[netip.Addr]struct{}) bool {
	return e.isOf(f, local) && e.answers != f.To
}

// isOf reports whether an entry, of a flow's protocol and port, is one of its. What
// only passes through this host to the same port elsewhere is not ours.
func (e conntrackEntry) isOf(f Flow, local map[netip.Addr]struct{}) bool {
	if f.Dst.Addr().IsUnspecified() {
		return overspan.FamilyOf(f.Dst.Addr()) == e.family && e.isHere(local)
	}
	return e.to == f.Dst
}

// isHere reports whether an entry's packets are sent to the host.
func (e conntrackEntry) isHere(local map[netip.Addr]struct{}) bool {
	_, here := local[e.to.Addr()]
	return here || e.to.Addr().IsLoopback()
}
