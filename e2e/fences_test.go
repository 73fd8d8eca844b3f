package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/steps"
)

// Part 3 of survival: an agent is stopped between every two steps of what it
// does, its node is removed, and its addresses are given to another. When it
// goes on, nothing of the old operation commits, what is another's by now is
// off the network, and what is not is served again.
func TestFences(t *testing.T) {
	const labs = 4
	for ops := range slices.Chunk(interruptible, (len(interruptible)+labs-1)/labs) {
		t.Run("from "+ops[0].name, func(t *testing.T) {
			t.Parallel()
			newFence(t).each(ops, (*fence).interrupt)
		})
	}
}

// isolatedWithin bounds how long h1 may have on its networks what is another's by now,
// once it is registered anew. It takes it off as it hears of it; that and the looks of
// the test take a busy machine up to three seconds.
const isolatedWithin = 5 * time.Second

// each tries all moments of some operations, each in a subtest of its own.
func (f *fence) each(ops []operation, try func(*fence, operation, steps.Moment)) {
	outer := f.cluster.t
	defer func() { f.cluster.t = outer }()
	for _, op := range ops {
		for _, m := range op.moments {
			clean := outer.Run(op.name+"/"+string(m), func(t *testing.T) {
				f.cluster.t = t
				try(f, op, m)
			})
			if !clean {
				outer.Fatal("what this has left would only disturb what follows")
			}
		}
	}
}

// A fence is a lab in which h1 is stopped and h2 gets what h1 had.
type fence struct {
	*cluster
	a, b, c *lab.Node
	rounds  int

	node        string // h1's id
	network, id string
	subnet      netip.Prefix
	keep, stay  *lab.Sandbox // on h1: one whose address moves, one whose does not
	op          *lab.Sandbox // on h1: what the operation is about
	kept, taken *lab.Sandbox // on h2: who gets the addresses of keep and op
	mate        *lab.Sandbox // on h2: it makes h2 a member before
	probe       *lab.Sandbox // on h3: it looks who answers
	spare       *lab.Sandbox // on h3
	addr        netip.Addr   // of op; not valid if the operation is about none
}

func newFence(t *testing.T) *fence {
	bin, err := steppedBinaries()
	if err != nil {
		t.Fatal(err)
	}
	f := &fence{cluster: build(t, lab.Options{Nodes: 3, Bin: bin})}
	f.a, f.b, f.c = f.Nodes[0], f.Nodes[1], f.Nodes[2]
	// It finds soon what it looks for now and then: idle blocks, orphans.
	f.a.Flags = append(f.a.Flags, "--resync", "1s", "--block-idle", "1s")
	f.start()
	f.keep, f.stay, f.op = f.netns(f.a, "keep"), f.netns(f.a, "stay"), f.netns(f.a, "op")
	f.kept, f.taken, f.mate = f.netns(f.b, "kept"), f.netns(f.b, "taken"), f.netns(f.b, "mate")
	f.probe, f.spare = f.netns(f.c, "probe"), f.netns(f.c, "spare")
	return f
}

// An interruptible operation of h1.
type operation struct {
	name    string
	moments []steps.Moment

	// prepare makes what the operation needs besides keep, stay and probe, and
	// says what address it is about.
	prepare func(*fence)

	// run carries the operation out, or gives the agent reason to, and returns
	// what the caller was told.
	run func(context.Context, *fence) (lab.Result, error)

	// relieve takes away, once the agent stands still, what kept the operation
	// from going on.
	relieve func(*fence)

	// attaches says that the operation is an attach of op on h1.
	attaches bool

	// done reports, from what etcd held when h1 was removed, whether the operation
	// of a user on h1 had been carried out by then. One that had not must fail, and
	// whichever fails must say why. nil: no user on h1 waits for it.
	done func(*fence, map[string]record) bool

	// end takes away what prepare and run have left.
	end func(*fence)
}

// interrupt carries one operation out and stops it at one moment.
func (f *fence) interrupt(op operation, m steps.Moment) {
	f.setUp(op)
	keepAddr, stayPort := f.addr4(2), overspan.VethName(f.endpointID("stay"))
	told, held := f.begin(op, m)
	_, old := f.registration("h1")

	stood := f.remove()
	f.ctl(f.b, "network", "connect", "--name", "keep", "--ip", keepAddr.String(), f.network, "kept")
	f.takeOver()
	before := f.records()

	f.must(f.a.Resume())
	lost := []string{"keep"}
	carriedOut := op.done != nil && (op.done(f, held) || op.done(f, stood))
	if f.checkTold(op, carriedOut, told) {
		// It was on the network before the removal: what it is told is that it is lost.
		lost = append(lost, "op")
	}
	f.eventually(startWithin, func(context.Context) error {
		if _, now := f.registration("h1"); now == 0 || now == old {
			return fmt.Errorf("h1 has registration %d", now)
		}
		return nil
	})
	registered := time.Now()
	f.eventually(isolatedWithin, func(ctx context.Context) error { return f.isolated(ctx, stayPort, lost) })
	f.t.Logf("isolated at most %s after the new registration", time.Since(registered).Round(time.Millisecond))
	f.checkRecords(before)
	if !carriedOut {
		f.checkNothingDone(before)
	}
	f.checkAnswers(keepAddr, f.keep, f.kept)
	if f.addr.IsValid() {
		f.checkAnswers(f.addr, f.op, f.taken)
	}
	f.tearDown(op)
}

// setUp makes a network with keep and stay on h1 and probe on h3.
func (f *fence) setUp(op operation) {
	f.t.Helper()
	f.rounds++
	f.network, f.addr = fmt.Sprintf("round%d", f.rounds), netip.Addr{}
	f.subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(f.rounds), 0}), 24)
	f.id = f.create(f.b, "--subnet", f.subnet.String(), f.network)
	f.node, _ = f.registration("h1")
	// The first takes the lowest block of the network and in it the lowest address.
	f.ctl(f.a, "network", "connect", f.network, "keep")
	f.ctl(f.a, "network", "connect", f.network, "stay")
	f.ctl(f.c, "network", "connect", f.network, "probe")
	if op.prepare != nil {
		op.prepare(f)
	}
}

// addr4 returns an address of the round's network.
func (f *fence) addr4(slot byte) netip.Addr {
	raw := f.subnet.Addr().As4()
	raw[3] = slot
	return netip.AddrFrom4(raw)
}

// An outcome is what the caller of an operation was told.
type outcome struct {
	lab.Result
	took time.Duration
	err  error
}

// begin starts the operation and returns when h1's agent stands still at the
// moment, with what etcd holds then. What the caller is told comes later.
func (f *fence) begin(op operation, m steps.Moment) (_ <-chan outcome, held map[string]record) {
	f.t.Helper()
	f.t.Cleanup(func() { f.a.Resume() })
	f.must(f.a.StopAt(m))
	if !f.a.Running() {
		f.must(f.a.Launch())
	}
	told, ctx := make(chan outcome, 1), f.t.Context()
	go func() {
		begin := time.Now()
		res, err := op.run(ctx, f)
		told <- outcome{res, time.Since(begin), err}
	}()
	if err := f.a.AwaitStop(ctx, startWithin); err != nil {
		select {
		case got := <-told:
			f.t.Fatalf("%v\nthe operation had ended: %+v", err, got)
		default:
			f.t.Fatal(err)
		}
	}
	held = f.records()
	if op.relieve != nil {
		op.relieve(f)
	}
	return told, held
}

// remove removes h1 from the cluster and returns what etcd held just before: no
// transaction of h1 can have been carried out since.
func (f *fence) remove() map[string]record {
	f.t.Helper()
	ctx := f.t.Context()
	now, err := f.etcd().Get(ctx, lab.Prefix+"nodes/"+f.node)
	f.must(err)
	f.ctl(f.b, "node", "rm", "--force", "h1")
	ctx, cancel := lab.WithTimeout(ctx, settleWithin)
	defer cancel()
	for res := range f.etcd().Watch(ctx, lab.Prefix+"nodes/"+f.node, clientv3.WithRev(now.Header.Revision+1)) {
		f.must(res.Err())
		for _, e := range res.Events {
			if e.Type == clientv3.EventTypeDelete {
				return f.recordsAt(e.Kv.ModRevision - 1)
			}
		}
	}
	f.t.Fatal("h1 was removed, but its registration was never deleted")
	return nil
}

// takeOver gives h2 the address that the operation is about. Where h2 itself
// began the operation, it may have it already.
func (f *fence) takeOver() {
	f.t.Helper()
	if !f.addr.IsValid() {
		return
	}
	res, err := f.b.Ctl(f.t.Context(), "network", "connect", "--name", "op", "--ip", f.addr.String(), f.network, "taken")
	f.must(err)
	if res.Code != 0 && !strings.Contains(res.Stderr, "is connected to network") {
		f.must(res.Err())
	}
}

// checkTold reads what the operation's caller was told, who may be told of success
// only if it was carried out, and reports whether that was that op is attached.
func (f *fence) checkTold(op operation, carriedOut bool, told <-chan outcome) (attached bool) {
	f.t.Helper()
	select {
	case got := <-told:
		f.must(got.err)
		f.t.Logf("after %s, carried out: %t: exit status %d: %s", got.took.Round(time.Millisecond), carriedOut, got.Code, got.Stderr)
		if op.done != nil && (got.Code != 0 || !carriedOut) {
			f.sayWhy(got)
		}
		return op.attaches && got.Code == 0
	case <-time.After(startWithin):
		f.t.Fatal("the operation's caller was told nothing")
		return false
	}
}

// sayWhy checks that an operation failed and gave the removal as its reason, or
// who has the address by now, or what made it fail before.
func (f *fence) sayWhy(res outcome) {
	f.t.Helper()
	if res.Code != 1 {
		f.t.Errorf("%s: exit status %d, want 1", res.Command, res.Code)
	}
	for _, why := range []string{
		"was removed from the cluster", "belongs to taken on h2", "address already in use", // told after SIGCONT
		"interface eth0 exists in /run/netns/op", // before
	} {
		if strings.Contains(res.Stderr, why) {
			return
		}
	}
	f.t.Errorf("%s after %s: %q does not say why", res.Command, res.took, res.Stderr)
}

// isolated reports whether h1's agent has nothing to do, only stay is on the
// network, and status tells of those that are lost.
func (f *fence) isolated(ctx context.Context, stayPort string, lost []string) error {
	ports, err := endpointPorts(ctx, f.a, f.id)
	if err != nil {
		return err
	}
	if !slices.Equal(ports, []string{stayPort}) {
		return fmt.Errorf("h1 has the ports %v; want %s alone, of stay", ports, stayPort)
	}
	status, err := f.a.MustCtl(ctx, "status")
	if err != nil {
		return err
	}
	for _, name := range lost {
		if !strings.Contains(status, "endpoint "+name+" is off its network") {
			return fmt.Errorf("status does not tell of %s:\n%s", name, status)
		}
	}
	_, err = f.a.MustCtl(ctx, "verify")
	return err
}

// registration returns a node's id and its registration's create-revision, 0 if
// it has none.
func (f *fence) registration(name string) (node string, rev int64) {
	f.t.Helper()
	for key, r := range f.records() {
		if id, is := strings.CutPrefix(key, "nodes/"); is && strings.Contains(r.value, `"name":"`+name+`"`) {
			return id, r.create
		}
	}
	return "", 0
}

// checkRecords compares etcd with what it held while h1's agent stood still:
// everything in the network still stands untouched, and whatever h1 wrote since
// is of its new registration.
func (f *fence) checkRecords(before map[string]record) {
	f.t.Helper()
	now := f.records()
	_, registration := f.registration("h1")
	segment := "net/" + f.id + "/"
	for key, r := range before {
		if strings.HasPrefix(key, segment) && now[key] != r {
			f.t.Errorf("%s was %+v, is %+v", key, r, now[key])
		}
	}
	for key, r := range now {
		if before[key] != r && strings.Contains(key+r.value, f.node) && r.mod < registration {
			f.t.Errorf("h1 wrote %s at revision %d without a registration: it has one since %d", key, r.mod, registration)
		}
	}
}

// checkNothingDone compares what etcd says of networks and of other nodes with what it
// held while h1's agent stood still: what had not been carried out then is not later,
// under no registration of h1.
func (f *fence) checkNothingDone(before map[string]record) {
	f.t.Helper()
	now := f.records()
	for _, key := range slices.Sorted(maps.Keys(merged(before, now))) {
		theirs := func(prefix string) bool { return strings.HasPrefix(key, prefix) }
		if slices.ContainsFunc([]string{"networks/", "names/", "vnis/", "subnets/", "nodes/"}, theirs) &&
			key != "nodes/"+f.node && before[key] != now[key] {
			f.t.Errorf("%s was %+v, is %+v", key, before[key], now[key])
		}
	}
}

// merged returns the keys of both.
func merged(a, b map[string]record) map[string]record {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// checkAnswers checks that an address is only at its new home: packets from
// elsewhere and from its old node arrive there alone.
func (f *fence) checkAnswers(addr netip.Addr, old, home *lab.Sandbox) {
	f.t.Helper()
	at, err := home.Capture(eth0)
	f.must(err)
	defer at.Stop()
	if _, err := old.Link(eth0); err == nil {
		former, err := old.Capture(eth0)
		f.must(err)
		defer former.Stop()
		defer func() {
			if n := len(former.Frames(isEchoTo(addr))); n > 0 {
				f.t.Errorf("%s on %s hears %d packets for %s", old.Name, old.Node.Name, n, addr)
			}
		}()
	}
	senders := []*lab.Sandbox{f.probe, f.stay}
	for _, from := range senders {
		f.reaches(from, addr)
	}
	f.eventually(settleWithin, func(context.Context) error {
		if n := len(at.Frames(isEchoTo(addr))); n != len(senders) {
			return fmt.Errorf("%s on %s hears %d packets for %s; want %d", home.Name, home.Node.Name, n, addr, len(senders))
		}
		return nil
	})
}

// isEchoTo matches ICMP echo requests to an address.
func isEchoTo(addr netip.Addr) func([]byte) bool {
	to := addr.As4()
	return func(frame []byte) bool {
		const ip, icmp = 14, 34
		return lab.EtherType(frame) == 0x0800 && len(frame) > icmp &&
			frame[ip+9] == 1 && frame[icmp] == 8 &&
			binary.BigEndian.Uint32(frame[ip+16:]) == binary.BigEndian.Uint32(to[:])
	}
}

// endpointID returns the id of an endpoint of the round's network, "" if it has
// no record.
func (f *fence) endpointID(name string) overspan.EndpointID {
	f.t.Helper()
	return f.endpointIn(f.records(), name)
}

// endpointIn returns the id of an endpoint among what etcd held at some time.
func (f *fence) endpointIn(held map[string]record, name string) overspan.EndpointID {
	for key, r := range held {
		if strings.HasPrefix(key, "net/"+f.id+"/endpoints/") && strings.Contains(r.value, `"name":"`+name+`"`) {
			_, rest, _ := strings.Cut(r.value, `"id":"`)
			return overspan.EndpointID(rest[:64])
		}
	}
	return ""
}

// tearDown takes the round's network and all in it away.
func (f *fence) tearDown(op operation) {
	f.t.Helper()
	for _, box := range []*lab.Sandbox{f.keep, f.stay, f.op, f.kept, f.taken, f.mate, f.probe, f.spare} {
		if _, err := box.Link(eth0); err == nil {
			f.ctl(box.Node, "network", "disconnect", f.network, box.Name)
		}
	}
	if op.end != nil {
		op.end(f)
	}
	f.ctl(f.b, "network", "rm", f.network)
	f.eventually(settleWithin, func(context.Context) error {
		for key := range f.records() {
			if strings.Contains(key, f.id) {
				return errors.New(key + " is left")
			}
		}
		return nil
	})
	f.eventually(settleWithin, f.verified)
}
