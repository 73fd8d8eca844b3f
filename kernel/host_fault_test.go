package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

var errInjected = errors.New("injected")

// failAt makes the n-th send of both host sockets fail, from 0 on; with lose,
// after the kernel has got it. It returns how many sends there have been.
func failAt(h *Host, n int, lose bool) (sends func() int) {
	count := 0
	for _, c := range []*conn{h.route, h.netfilter} {
		c.send = func(pack []byte) error {
			count++
			if count-1 != n {
				return c.sendToKernel(pack)
			}
			if lose {
				if err := c.sendToKernel(pack); err != nil {
					return err
				}
			}
			return errInjected
		}
	}
	return func() int { return count }
}

// TestEachSendFailsOnce lets a network be made with every single request lost,
// before and after the kernel has seen it: the pass says so, and the next one
// completes the work, confused by neither half a veth nor a late answer.
func TestEachSendFailsOnce(t *testing.T) {
	s := newTestSite(t)
	s.want.Netns, s.want.Sets, s.want.Chains = nil, nil, nil
	delete(s.want.Programs, "ul")
	s.scope = Scope{Networks: []overspan.NetworkID{s.net.id}, Endpoints: s.scope.Endpoints, Sysctls: s.scope.Sysctls}
	empty := State{}
	for _, lose := range []bool{false, true} {
		for n := 0; ; n++ {
			ops := Diff(read(t, s.host, s.scope), s.want)
			sends := failAt(s.host, n, lose)
			err := s.host.Apply(t.Context(), ops)
			done := sends() <= n
			failAt(s.host, -1, false)
			if done {
				if err != nil || n < 20 {
					t.Errorf("after %d sends: %v", n, err)
				}
				break
			}
			if err != nil && !errors.Is(err, errInjected) {
				t.Errorf("send %d, lose %v: %v", n, lose, err)
			}
			converge(t, s.host, s.scope, s.want)
			converge(t, s.host, s.scope, empty)
			if err := s.host.Retire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		converge(t, s.host, s.scope, empty)
		if err := s.host.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEachReadFailsOnce: what a read could not learn is unknown, so nothing is
// deleted for it.
func TestEachReadFailsOnce(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	for n := 0; ; n++ {
		sends := failAt(s.host, n, false)
		got, err := s.host.Read(t.Context(), s.scope)
		if sends() <= n {
			if err != nil || n < 5 {
				t.Errorf("after %d sends: %v", n, err)
			}
			return
		}
		if !errors.Is(err, errInjected) || !got.Partial {
			t.Errorf("send %d: partial %v, %v", n, got.Partial, err)
		}
		for _, op := range Diff(got, s.want) {
			if text := op.String(); strings.HasPrefix(text, "del") || strings.HasPrefix(text, "doom") {
				t.Errorf("send %d: %s", n, op)
			}
		}
	}
}

// TestRuleToolsFail lets iptables-restore fail: links are made all the same.
func TestRuleToolsFail(t *testing.T) {
	s := newTestSite(t)
	tool := s.host.rules[overspan.IPv4]
	restore := tool.restore
	tool.restore = "/bin/false"
	err := s.host.Apply(t.Context(), Diff(read(t, s.host, s.scope), s.want))
	if err == nil || strings.Contains(err.Error(), "add jump") {
		t.Errorf("Apply: %v, want the load alone", err)
	}
	tool.restore = restore
	left := Diff(read(t, s.host, s.scope), s.want)
	for _, op := range left {
		if !strings.Contains(op.String(), "ipv4") {
			t.Errorf("left undone: %s", op)
		}
	}
	converge(t, s.host, s.scope, s.want)
}

// TestReadWhileOthersChange reads while links come and go: the kernel breaks
// such dumps off, and none of them may look like a deletion.
func TestReadWhileOthersChange(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var churn sync.WaitGroup
	churn.Go(func() {
		enter(t, s.host)
		for i := 0; ctx.Err() == nil; i++ {
			sh(t, fmt.Sprintf("ip link add c%d type bridge; bridge fdb add 02:00:00:00:00:01 dev c%d self permanent; ip link del c%d", i, i, i))
		}
	})
	for ctx.Err() == nil {
		if ops := Diff(read(t, s.host, s.scope), s.want); len(ops) > 0 {
			t.Errorf("drift:\n%s", texts(ops))
			break
		}
	}
	cancel()
	churn.Wait()
}

// TestNothingLeaks attaches and detaches, well and badly, and counts files.
func TestNothingLeaks(t *testing.T) {
	s := newTestSite(t)
	round := func() {
		converge(t, s.host, s.scope, s.want)
		apply(t, s.host, DoomLink{overspan.VethName(s.key.Endpoint)})
		if err := s.host.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.host.Interfaces("/etc/passwd"); err == nil {
			t.Error("/etc/passwd has interfaces")
		}
		s.host.CheckSupport(t.Context())
	}
	round()
	before := openFiles(t)
	// What each round leaves open adds up; what the runtime and other tests open
	// and close meanwhile does not.
	const rounds = 5
	for range rounds {
		round()
	}
	if after := openFiles(t); after >= before+rounds {
		t.Errorf("%d open files after %d rounds, %d before", after, rounds, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
