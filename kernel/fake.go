package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/overspan/overspan"
)

// A Fake is a kernel in memory, with the methods of a Host: it lets an agent
// run without privileges. It refuses what a kernel refuses, and hints at what
// others change, though not at what Apply does. No packet passes through it.
// It is safe for concurrent use.
type Fake struct {
	underlay Underlay
	routes   []netip.Prefix

	mu       sync.Mutex // guards all below
	state    State
	spaces   map[string]fakeNetns // by path
	inodes   map[uint64]struct{}  // that the spaces have
	cookies  uint64               // how many namespaces were made
	faults   []fault
	watchers map[*pending]struct{}
	remade   int // how often the underlay device was made anew
}

// A fakeNetns is a network namespace: which one it is, the interfaces in it that
// are not ours, and the veths that may have an end in it; the state says which do.
type fakeNetns struct {
	id      overspan.NetnsID
	foreign []string
	veths   map[string]struct{}
}

// A fault makes the next op fail whose text contains match.
type fault struct {
	match string
	err   error
}

// NewFake makes the kernel of a host that holds nothing of ours.
func NewFake(underlay Underlay, routes ...netip.Prefix) *Fake {
	return &Fake{
		underlay: underlay,
		routes:   routes,
		spaces:   make(map[string]fakeNetns),
		inodes:   make(map[uint64]struct{}),
		watchers: make(map[*pending]struct{}),
	}
}

// Read returns the part of the state that is in the scope.
func (f *Fake) Read(ctx context.Context, scope Scope) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		err = f.fault("read")
	}
	if err != nil {
		return State{Partial: true}, fmt.Errorf("read the kernel's network state: %w", err)
	}
	return f.state.Within(scope), nil
}

// Apply carries out ops in order. What builds on an op that failed is skipped,
// everything else is still tried.
func (f *Fake) Apply(ctx context.Context, ops []Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	run := applying{failed: broken{}}
	for i, op := range ops {
		if err := ctx.Err(); err != nil {
			f.owe(ops[i:]...)
			return run.end(ops[i:], err)
		}
		if run.skips(op) {
			continue
		}
		if err := f.applyOne(op); err != nil {
			run.fail(op, err)
		}
	}
	return run.err()
}

func (f *Fake) applyOne(op Op) error {
	err := f.fault(op.String())
	if err == nil {
		err = f.state.refuse(op)
	}
	if o, ok := op.(AddLink); ok && err == nil {
		err = f.refusePeer(o)
	}
	if err != nil {
		f.owe(op)
		return err
	}
	op.apply(&f.state)
	switch o := op.(type) {
	case AddLink:
		f.enterNetns(o.Name)
	case SetInside:
		f.enterNetns(o.Veth)
	case AddNetns:
		f.makeNetns(o.Path)
	case DelNetns:
		f.loseNetns(o.Path)
	}
	return nil
}

// owe remembers what a flush has failed to do, as Host does.
func (f *Fake) owe(ops ...Op) {
	for _, op := range ops {
		if o, ok := op.(FlushFlows); ok {
			for _, flow := range o.Flows {
				put(&f.state.Owed, flow.key(), struct{}{})
			}
		}
	}
}

// refusePeer says why a veth's other end cannot be made.
func (f *Fake) refusePeer(o AddLink) error {
	if o.Inside == nil {
		return nil
	}
	if _, ok := f.spaces[o.Inside.Netns]; !ok {
		return noNetns(o.Inside.Netns)
	}
	_, there := f.state.Links[o.Name]
	if !there && slices.Contains(f.interfaces(o.Inside.Netns), o.Inside.Name) {
		return errFileExists
	}
	return nil
}

func noNetns(path string) error {
	return overspan.Errorf(overspan.ErrNotFound, "network namespace %s not found", path)
}

// fault returns the error of the first fault that matches, which it uses up.
func (f *Fake) fault(text string) error {
	for i, next := range f.faults {
		if strings.Contains(text, next.match) {
			f.faults = slices.Delete(f.faults, i, i+1)
			return next.err
		}
	}
	return nil
}

// FailNext makes the next op fail whose text contains match, or, with match
// "read", the next Read.
func (f *Fake) FailNext(match string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, fault{match, err})
}

// Retire deletes what is doomed.
func (f *Fake) Retire(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	f.state.Doomed = nil
	return nil
}

// State returns all of the state.
func (f *Fake) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Clone()
}

// Mutate changes the state as a user with ip(8) would, and hints at it. Namespaces are
// made and lost by MakeNetns and LoseNetns alone.
func (f *Fake) Mutate(change func(*State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.state.Clone()
	change(&f.state)
	for veth := range f.state.Insides {
		f.enterNetns(veth)
	}
	f.hint(before)
}

// Watch sends hints until ctx ends, then closes the channel. The first one says
// that anything may have happened before.
func (f *Fake) Watch(ctx context.Context) <-chan Hint {
	out := make(chan Hint)
	p := &pending{hints: map[Hint]struct{}{}, wake: make(chan struct{}, 1)}
	p.add(Hint{All: true})
	f.mu.Lock()
	f.watchers[p] = struct{}{}
	f.mu.Unlock()
	go func() {
		defer close(out)
		p.deliver(ctx, out)
		f.mu.Lock()
		delete(f.watchers, p)
		f.mu.Unlock()
	}()
	return out
}

// hint tells the watchers what differs from before. What happens inside a
// container cannot be seen from the host.
func (f *Fake) hint(before State) {
	tell := func(h Hint) {
		for p := range f.watchers {
			p.add(h)
		}
	}
	was, is := before.byDevice(), f.state.byDevice()
	for name, part := range is {
		if !part.Equal(was[name]) {
			tell(hintAt(name))
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			tell(hintAt(name))
		}
	}
	if !before.rules().Equal(f.state.rules()) {
		tell(Hint{Rules: true})
	}
}

func hintAt(dev string) Hint {
	if hasOurName(dev) {
		return Hint{Dev: dev}
	}
	return Hint{Underlay: true} // the program there is all that is ours
}

// byDevice takes links, and what hangs on them, apart.
func (s State) byDevice() map[string]State {
	parts := make(map[string]State)
	edit := func(dev string, change func(*State)) {
		part := parts[dev]
		change(&part)
		parts[dev] = part
	}
	for name, l := range s.Links {
		edit(name, func(p *State) { put(&p.Links, name, l) })
	}
	for a := range s.Addrs {
		edit(a.Dev, func(p *State) { put(&p.Addrs, a, struct{}{}) })
	}
	for k, dst := range s.FDB {
		edit(k.Dev, func(p *State) { put(&p.FDB, k, dst) })
	}
	for k := range s.Statics {
		edit(k.Dev, func(p *State) { put(&p.Statics, k, struct{}{}) })
	}
	for dev, program := range s.Programs {
		edit(dev, func(p *State) { put(&p.Programs, dev, program) })
	}
	for k, mac := range s.Neighs {
		edit(k.Dev, func(p *State) { put(&p.Neighs, k, mac) })
	}
	return parts
}

// rules is the part of s that belongs to the packet filter.
func (s State) rules() State { return State{Sets: s.Sets, Chains: s.Chains} }
