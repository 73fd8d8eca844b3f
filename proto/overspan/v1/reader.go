package overspanv1

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
)

// A reader turns the fields of one record into nouns and keeps the first that
// does not hold.
type reader struct {
	record string
	err    error
}

// result returns what was read, or nothing and why.
func result[T any](v T, r reader) (T, error) {
	if r.err != nil {
		var none T
		return none, r.err
	}
	return v, nil
}

// check notes a field that does not hold.
func (r *reader) check(ok bool, field string, value any, want string) bool {
	if !ok && r.err == nil {
		r.err = overspan.Errorf(overspan.ErrCorrupt, "%s: field %s is %s: %s", r.record, field, quote(value), want)
	}
	return ok
}

// quote shortens what a foreign record may blow up.
func quote(value any) string {
	const enough = 200
	text := fmt.Sprint(value)
	return fmt.Sprintf("%q", text[:min(enough, len(text))])
}

func (r *reader) id(field, text string) string {
	r.check(overspan.IsID(text), field, text, "want 64 hex digits")
	return text
}

func (r *reader) name(what, text string) string {
	r.check(overspan.CheckName(what, text) == nil, "name", text, "want 1 to 63 letters, digits, '_', '.', '-'")
	return text
}

func (r *reader) addr(field, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	r.check(err == nil && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified(), field, text, "want an IP address")
	return a
}

// addrOf reads an address of a family; "" is the zero Addr.
func (r *reader) addrOf(field, text string, family overspan.Family) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a := r.addr(field, text)
	r.check(!a.IsValid() || overspan.FamilyOf(a) == family, field, text, "want "+string(family))
	return a
}

func (r *reader) prefix(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	r.check(err == nil && !p.Addr().Is4In6() && p == p.Masked(), field, text, "want a prefix without host bits")
	return p
}

func (r *reader) mac(field, text string) overspan.MAC {
	m, err := overspan.ParseMAC(text)
	r.check(err == nil, field, text, "want a unicast MAC address")
	return m
}

func (r *reader) mtu(field string, v uint32) int {
	r.check(v >= minMTU && v <= maxMTU, field, v, fmt.Sprintf("want %d to %d", minMTU, maxMTU))
	return int(v)
}

// pid reads a process id; 0 is none.
func (r *reader) pid(field string, v int64) int {
	r.check(v >= 0 && v <= math.MaxInt32, field, v, "want a process id")
	return int(v)
}

// time reads a time; a missing one is the zero Time.
func (r *reader) time(field string, t *timestamppb.Timestamp) time.Time {
	if t == nil || !r.check(t.IsValid(), field, t.String(), "want a time") {
		return time.Time{}
	}
	return t.AsTime()
}
