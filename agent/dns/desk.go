package dns

import (
	"errors"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// A desk answers what comes to a door by UDP. Names of ours it answers one after
// the other, which takes less than to hand a question on to somebody else; what
// others are to be asked waits for them elsewhere.
type desk struct {
	door *door
	conn *net.UDPConn
	memo memo
	out  []byte // for replies
}

// failuresMost bounds how often in a row a message cannot be received, such as for
// want of memory, until the door is opened anew.
const failuresMost = 8

// serve answers until the socket is closed.
func (k *desk) serve() error {
	in := make([]byte, dns.MaxMsgSize)
	for failures := 0; ; {
		n, from, err := k.conn.ReadFromUDPAddrPort(in)
		switch {
		case err == nil:
			failures = 0
			k.answer(in[:n], from)
		case errors.Is(err, net.ErrClosed) || failures == failuresMost:
			return err
		default:
			failures++
		}
	}
}

// answer answers one message, or nothing if it is none to be answered.
func (k *desk) answer(raw []byte, from netip.AddrPort) {
	s := k.door.server
	who := spot{k.door.at.network, from.Addr().Unmap()}
	now := s.moment()
	if known, ok := k.memo.find(now, who.addr, raw); ok {
		k.send(known.reply(raw), from, known.result)
		return
	}
	query := new(dns.Msg)
	switch err := query.Unpack(raw); {
	case len(raw) < headerSize || query.Response:
		return // who answers an answer may be answered for ever
	case err != nil:
		k.send(k.pack(new(dns.Msg).SetRcodeFormatError(query)), from, resultRefused)
		return
	}
	t := s.take(now, who, "udp", query)
	if t.result == resultForward {
		s.running.Go(func() {
			s.passOn(k.door.ctx, &t)
			out, err := t.reply.Pack()
			if err != nil {
				s.log.Debug("cannot pack a reply", "error", err)
				t.result = resultFailed
			}
			k.send(out, from, t.result)
		})
		return
	}
	out := k.pack(t.reply)
	k.memo.note(now, who.addr, raw, out, t)
	k.send(out, from, t.result)
}

// pack returns a message as it is sent; nil if that cannot be. It is overwritten
// by the next one.
func (k *desk) pack(m *dns.Msg) []byte {
	out, err := m.PackBuffer(k.out)
	if err != nil {
		k.door.server.log.Debug("cannot pack a reply", "error", err)
		return nil
	}
	return out
}

func (k *desk) send(out []byte, to netip.AddrPort, result string) {
	s := k.door.server
	s.results.WithLabelValues(result).Inc()
	if len(out) == 0 {
		return
	}
	if _, err := k.conn.WriteToUDPAddrPort(out, to); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("cannot answer", "to", to, "error", err)
	}
}
