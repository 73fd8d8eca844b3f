package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// iptablesTables are the tables of nftables that iptables takes for its own.
var iptablesTables = []string{"filter", "mangle", "nat", "raw", "security"}

// nfAccept is the policy of a base chain that lets pass what no rule decides.
const nfAccept = 1

func nfFamily(f overspan.Family) uint8 {
	if f == overspan.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// nftMessage returns a request to nftables.
func nftMessage(command int, f overspan.Family, parts ...nl.NetlinkRequestData) message {
	head := &nl.Nfgenmsg{NfgenFamily: nfFamily(f), Version: nl.NFNETLINK_V0}
	return newMessage(command|unix.NFNL_SUBSYS_NFTABLES<<8, 0, append([]nl.NetlinkRequestData{head}, parts...)...)
}

// generation returns the number of nftables' last change; 0 where there is no
// nftables.
func (h *Host) generation() uint32 {
	body, err := h.netfilter.get(nftMessage(unix.NFT_MSG_GETGEN, overspan.IPv4))
	if err != nil {
		return 0
	}
	return decodeGeneration(body)
}

func decodeGeneration(body []byte) uint32 {
	for kind, v := range walk(body[min(len(body), nl.SizeofNfgenmsg):]) {
		if kind == unix.NFTA_GEN_ID {
			return getBig32(v)
		}
	}
	return 0
}

// batchMessage returns the begin or the end of a transaction of nftables.
func batchMessage(kind int) message {
	subsystem := binary.NativeEndian.Uint16([]byte{0, unix.NFNL_SUBSYS_NFTABLES}) // in network order
	return newMessage(kind, 0, &nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0, ResId: subsystem})
}

// An nftObject is what a listing of nftables tells of a table or a chain.
type nftObject struct {
	table, name string
	policy      uint32 // of a base chain
	base        bool
	use         uint32 // what is in it, or refers to it
}

func decodeNftTable(b []byte) (o nftObject) {
	for kind, v := range walk(b[min(len(b), nl.SizeofNfgenmsg):]) {
		switch kind {
		case unix.NFTA_TABLE_NAME:
			o.name = unix.ByteSliceToString(v)
		case unix.NFTA_TABLE_USE:
			o.use = getBig32(v)
		}
	}
	return o
}

func decodeNftChain(b []byte) (o nftObject) {
	for kind, v := range walk(b[min(len(b), nl.SizeofNfgenmsg):]) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			o.table = unix.ByteSliceToString(v)
		case unix.NFTA_CHAIN_NAME:
			o.name = unix.ByteSliceToString(v)
		case unix.NFTA_CHAIN_HOOK:
			o.base = true
		case unix.NFTA_CHAIN_POLICY:
			o.policy = getBig32(v)
		case unix.NFTA_CHAIN_USE:
			o.use = getBig32(v)
		}
	}
	return o
}

// getBig32 reads a number as netfilter writes them.
func getBig32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// readTables finds the tables of iptables, in its nft flavour, that hold nothing:
// at the most base chains without rules, which let everything pass.
func (h *Host) readTables() (map[TableKey]struct{}, error) {
	out := map[TableKey]struct{}{}
	for _, f := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		tables, err := h.listNft(unix.NFT_MSG_GETTABLE, f, decodeNftTable)
		if err != nil {
			return nil, fmt.Errorf("list %s tables: %w", f, err)
		}
		chains, err := h.listNft(unix.NFT_MSG_GETCHAIN, f, decodeNftChain)
		if err != nil {
			return nil, fmt.Errorf("list %s chains: %w", f, err)
		}
		for _, t := range tables {
			idle := uint32(0)
			for _, c := range chains {
				if c.table == t.name && c.base && c.policy == nfAccept && c.use == 0 {
					idle++
				}
			}
			if slices.Contains(iptablesTables, t.name) && t.use == idle {
				out[TableKey{f, t.name}] = struct{}{}
			}
		}
	}
	return out, nil
}

func (h *Host) listNft(command int, f overspan.Family, decode func([]byte) nftObject) ([]nftObject, error) {
	bodies, err := h.netfilter.dump(nftMessage(command, f))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without nftables
	}
	var out []nftObject
	for _, b := range bodies {
		out = append(out, decode(b))
	}
	return out, err
}

// delTable deletes a table that holds nothing, in one step: the kernel refuses
// where somebody has put a rule into it meanwhile, and then it stays.
func (h *Host) delTable(o DelTable) error {
	chains, err := h.listNft(unix.NFT_MSG_GETCHAIN, o.Table.Family, decodeNftChain)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	var batch []message
	for _, c := range chains {
		if c.table == o.Table.Name {
			batch = append(batch, nftMessage(unix.NFT_MSG_DELCHAIN, o.Table.Family,
				rtaText(unix.NFTA_CHAIN_TABLE, c.table), rtaText(unix.NFTA_CHAIN_NAME, c.name)))
		}
	}
	batch = append(batch, nftMessage(unix.NFT_MSG_DELTABLE, o.Table.Family, rtaText(unix.NFTA_TABLE_NAME, o.Table.Name)))
	for _, m := range batch {
		m.Flags |= unix.NLM_F_NONREC
	}
	err = h.netfilter.execBatch(batch)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// execBatch has nftables carry out all of the messages or none.
func (c *conn) execBatch(msgs []message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The end of a batch is acknowledged by new kernels only.
	msgs[len(msgs)-1].Flags |= unix.NLM_F_ACK
	first := c.seq + 1
	var pack []byte
	for _, m := range slices.Concat([]message{batchMessage(unix.NFNL_MSG_BATCH_BEGIN)}, msgs, []message{batchMessage(unix.NFNL_MSG_BATCH_END)}) {
		c.seq++
		m.Seq = c.seq
		pack = append(pack, m.Serialize()...)
		pack = append(pack, make([]byte, -len(pack)&(unix.NLMSG_ALIGNTO-1))...)
	}
	if err := c.send(pack); err != nil {
		return err
	}
	var failed error
	for {
		answers, err := c.receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Type != unix.NLMSG_ERROR || a.Header.Seq-first > uint32(len(msgs)) {
				continue // an answer to an earlier request that timed out
			}
			failed = errors.Join(failed, answerError(a))
			if a.Header.Seq-first == uint32(len(msgs)) {
				return failed
			}
		}
	}
}
