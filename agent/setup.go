package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// A poolFlag is where automatic subnets of one family come from, in the words of
// Docker's default-address-pools. It implements pflag.Value.
type poolFlag struct {
	family overspan.Family
	pool   *overspan.Pool
}

// String implements pflag.Value; "" is a pool that is not given.
func (f poolFlag) String() string {
	if f.pool == nil || *f.pool == (overspan.Pool{}) {
		return ""
	}
	return f.pool.String()
}

// Type implements pflag.Value.
func (f poolFlag) Type() string { return "string" }

// Set implements pflag.Value.
func (f poolFlag) Set(text string) error {
	pool, err := parsePool(text)
	if err != nil {
		return err
	}
	if overspan.FamilyOf(pool.Prefix.Addr()) != f.family {
		return fmt.Errorf("base %s: want an %s prefix", pool.Prefix, f.family)
	}
	if err := ipam.CheckPool(pool); err != nil {
		return err
	}
	*f.pool = pool
	return nil
}

func parsePool(text string) (overspan.Pool, error) {
	wrong := errors.New("want base=PREFIX,size=BITS, such as base=10.128.0.0/9,size=24")
	fields := map[string]string{}
	for _, field := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(field, "=")
		if _, twice := fields[name]; !ok || twice {
			return overspan.Pool{}, wrong
		}
		fields[name] = value
	}
	base, size := fields["base"], fields["size"]
	if len(fields) != 2 || base == "" || size == "" {
		return overspan.Pool{}, wrong
	}
	prefix, err := netip.ParsePrefix(base)
	if err != nil {
		return overspan.Pool{}, fmt.Errorf("base %s: want a prefix such as 10.128.0.0/9", base)
	}
	bits, err := strconv.ParseUint(size, 10, 8)
	if err != nil {
		return overspan.Pool{}, fmt.Errorf("size %s: want the length of each subnet's prefix, such as 24", size)
	}
	return overspan.Pool{Prefix: prefix, Bits: int(bits)}, nil
}

// A vniFlag is a range of VXLAN network identifiers. It implements pflag.Value.
type vniFlag struct{ vnis *overspan.VNIRange }

// String implements pflag.Value; "" is a range that is not given.
func (f vniFlag) String() string {
	if f.vnis == nil || *f.vnis == (overspan.VNIRange{}) {
		return ""
	}
	return f.vnis.String()
}

// Type implements pflag.Value.
func (f vniFlag) Type() string { return "string" }

// Set implements pflag.Value.
func (f vniFlag) Set(text string) error {
	first, last, _ := strings.Cut(text, "-")
	from, err := strconv.ParseUint(first, 10, 24)
	to, errTo := strconv.ParseUint(last, 10, 24)
	if err != nil || errTo != nil || from == 0 || from > to {
		return errors.New("want FIRST-LAST within 1-16777215, such as 65536-131071")
	}
	*f.vnis = overspan.VNIRange{First: uint32(from), Last: uint32(to)}
	return nil
}
