package dns

import (
	"net/netip"
	"weak"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// headerSize is the length of a message's header, which its id begins: RFC 1035.
const (
	headerSize = 12
	idSize     = 2
)

// memoMost bounds what a memo holds.
const memoMost = 4096

// A moment is all that answers follow from, but for who asks what.
type moment struct {
	snapshot *overspan.Snapshot
	local    *local
}

// A past is a moment that may be over: it keeps nothing of it in memory. A gateway
// at which nobody asks would hold on to a snapshot of the whole cluster.
type past struct {
	snapshot weak.Pointer[overspan.Snapshot]
	local    weak.Pointer[local]
}

func (m moment) past() past { return past{weak.Make(m.snapshot), weak.Make(m.local)} }

// is reports whether a moment is this one.
func (p past) is(now moment) bool {
	return now.snapshot != nil && p.snapshot.Value() == now.snapshot && p.local.Value() == now.local
}

// A memo holds the replies to the questions of one moment, packed: between two
// changes the same question has the same answer. It has no lock.
type memo struct {
	at      past
	replies map[string]memorized
	key     []byte // of the last question
}

type memorized struct {
	packed []byte
	result string
}

// find returns the reply to a message, if the memo is of the moment and has it.
func (m *memo) find(now moment, who netip.Addr, raw []byte) (memorized, bool) {
	if len(raw) < headerSize || !m.at.is(now) {
		return memorized{}, false
	}
	known, ok := m.replies[string(m.keyOf(who, raw))]
	return known, ok
}

// note keeps a reply, unless there is more than one address in it, which come in
// another order each time.
func (m *memo) note(now moment, who netip.Addr, raw, packed []byte, t taken) {
	if len(t.reply.Answer) > 1 || t.result == resultRefused || len(packed) == 0 || len(raw) > dns.MinMsgSize {
		return
	}
	if !m.at.is(now) || len(m.replies) >= memoMost {
		m.at, m.replies = now.past(), map[string]memorized{}
	}
	m.replies[string(m.keyOf(who, raw))] = memorized{append([]byte(nil), packed...), t.result}
}

// keyOf returns all that a reply depends on: who asks, and the message but for
// its id.
func (m *memo) keyOf(who netip.Addr, raw []byte) []byte {
	addr := who.As16()
	m.key = append(append(m.key[:0], addr[:]...), raw[idSize:]...)
	return m.key
}

// reply returns the reply to a message, until the next one is asked for.
func (k memorized) reply(raw []byte) []byte {
	copy(k.packed, raw[:idSize])
	return k.packed
}
