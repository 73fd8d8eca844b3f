package ports

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// A refusal is what is known of a port that could not be bound while the ledger is
// locked. To find which program has it takes a look at all of the host's, so that
// is left to explain.
type refusal struct {
	port   overspan.Port
	err    error         // of the system call
	wanted string        // the sandbox whose port it is, where it had it before
	holder string        // which of our sandboxes has it; "": none
	rival  overspan.Port // what the same request has taken before, and is in the way; the zero Port: nothing
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// noneFree is that all ports of a range are refused.
type noneFree struct {
	spec Spec
	last error
}

func (n noneFree) Error() string { return n.last.Error() }
func (n noneFree) Unwrap() error { return n.last }

// explain turns a refusal into an error for people; any other stays as it is.
func explain(err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	last := explainAll([]*refusal{r})[0]
	var all noneFree
	if errors.As(err, &all) {
		return overspan.Errorf(overspan.ErrInUse, "publish %s: none of the host ports is free; the last: %w", all.spec, last)
	}
	return last
}

// explainAll says why ports could not be bound, and by whom they are held. It looks
// once at the host's programs, if at all.
func explainAll(refused []*refusal) []error {
	var foreign []overspan.Port
	for _, r := range refused {
		if r.foreign() {
			foreign = append(foreign, r.port)
		}
	}
	programs := programsAt(foreign)
	var out []error
	for _, r := range refused {
		out = append(out, r.explain(cmp.Or(r.holder, programs[r.port], "another program of this host")))
	}
	return out
}

// foreign reports whether a program that is not ours has the port.
func (r *refusal) foreign() bool {
	ours := r.holder != "" || r.rival != overspan.Port{} || errors.Is(r.err, errNames)
	return !ours && errors.Is(r.err, unix.EADDRINUSE)
}

func (r *refusal) explain(holder string) error {
	p := r.port
	switch {
	case r.rival != overspan.Port{}:
		return overspan.Errorf(overspan.ErrInvalid, "bind for %s failed: the port is given twice in this very command, first as %s: leave one out, or choose another host port", p.Host(), r.rival)
	case errors.Is(r.err, errNames):
		return overspan.Errorf(overspan.ErrInUse, "bind for %s failed: names are answered at port %d of every network's gateway: publish it at one address of the host, -p ADDRESS:%d:%d, or choose another host port",
			p.Host(), namesPort, namesPort, p.Port)
	case errors.Is(r.err, unix.EADDRINUSE):
		return overspan.Errorf(overspan.ErrInUse, "bind for %s failed: port is already allocated to %s: choose another host port, or leave it out to have one drawn", p.Host(), holder)
	case errors.Is(r.err, unix.EADDRNOTAVAIL):
		return overspan.Errorf(overspan.ErrInvalid, "bind for %s failed: %s is no address of this host", p.Host(), p.HostIP)
	case errors.Is(r.err, unix.EPROTONOSUPPORT), errors.Is(r.err, unix.EAFNOSUPPORT), errors.Is(r.err, unix.ESOCKTNOSUPPORT):
		return overspan.Errorf(overspan.ErrUnsupported, "bind for %s failed: this host's kernel has no %s for %s", p.Host(), p.Protocol, overspan.FamilyOf(p.HostIP))
	}
	return fmt.Errorf("bind for %s: %w", p.Host(), r.err)
}
