package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/steps"
)

// interruptible are h1's operations and the moments at which each is stopped.
var interruptible = []operation{
	{
		name: "attach",
		moments: []steps.Moment{
			steps.AttachBegun, steps.AttachChosen, steps.AttachPreparing, steps.AttachPrepared,
			steps.Attach.Sending(), steps.Attach.Answered(),
			steps.AttachCommitted, steps.AttachNoted, steps.AttachPlugged, steps.AttachConfirmed,
		},
		prepare:  inOwnBlock,
		run:      connectOp,
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name:    "attach that fails",
		moments: []steps.Moment{steps.UndoBegun, steps.UndoUnplugged, steps.UndoForgotten},
		prepare: func(f *fence) {
			inOwnBlock(f)
			f.must(f.altname(f.t.Context(), "add"))
		},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			res, err := connectOp(ctx, f)
			return res, errors.Join(err, f.altname(ctx, "del"))
		},
		attaches: true,
		done:     never,
	},
	{
		name:    "attach without an answer of etcd",
		moments: []steps.Moment{steps.Settling, steps.Settled},
		prepare: func(f *fence) {
			inOwnBlock(f)
			f.must(f.a.Cut())
		},
		run:      connectOp,
		relieve:  func(f *fence) { f.must(f.a.Heal()) },
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name:    "attach to a block of which the peers know nothing",
		moments: []steps.Moment{steps.AskAck.Sending(), steps.AskAck.Answered()},
		prepare: inUnclaimed,
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			if err := f.put(ctx, fmt.Sprintf("blocks/01/%016x", 250), fmt.Sprintf(`{"node":"%s"}`, f.node)); err != nil {
				return lab.Result{}, err
			}
			return connectOp(ctx, f)
		},
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name: "detach",
		moments: []steps.Moment{
			steps.DetachBegun, steps.DetachDeferred, steps.DetachUnplugged,
			steps.Detach.Sending(), steps.Detach.Answered(),
			steps.ReleaseDone, steps.ReleaseFreed, steps.ReleaseForgotten,
		},
		prepare: func(f *fence) {
			inOwnBlock(f)
			f.ctl(f.a, "network", "connect", "--ip", f.addr.String(), f.network, "op")
		},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "network", "disconnect", f.network, "op")
		},
		// It is off the network, whether etcd has heard of it or not.
		done: always,
	},
	{
		name:    "eviction of its own endpoint",
		moments: []steps.Moment{steps.Heed.Sending(), steps.Heed.Answered()},
		prepare: func(f *fence) {
			inOwnBlock(f)
			f.ctl(f.a, "network", "connect", "--ip", f.addr.String(), f.network, "op")
			f.must(f.a.Stop(f.t.Context()))
			f.ctl(f.b, "network", "disconnect", "--force", f.network, "op")
		},
		// It is a part of h1's start.
		run: func(context.Context, *fence) (lab.Result, error) { return lab.Result{}, nil },
	},
	{
		name:    "eviction of another's endpoint",
		moments: []steps.Moment{steps.Evict.Sending(), steps.Evict.Answered()},
		prepare: func(f *fence) {
			f.ctl(f.c, "network", "connect", "--name", "gone", f.network, "spare")
			f.must(f.c.Stop(f.t.Context()))
		},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "network", "disconnect", "--force", f.network, "gone")
		},
		relieve: func(f *fence) { f.must(f.c.Start(f.t.Context())) },
		done:    func(f *fence, held map[string]record) bool { return f.endpointIn(held, "gone") == "" },
	},
	{
		name:    "release of a record that nobody knows",
		moments: []steps.Moment{steps.ReleaseDue, steps.ReleaseUnplugged},
		prepare: inOwnBlock,
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			raw := f.addr.As4()
			return lab.Result{}, f.put(ctx, fmt.Sprintf("endpoints/%016x", raw[3]), fmt.Sprintf(
				`{"id":"%s","network":"%s","node":"%s","name":"orphan","slots":["%d"],"ipv4":"%s","mac":"02:42:%02x:%02x:%02x:%02x"}`,
				strings.Repeat("0f", 32), f.id, f.node, raw[3], f.addr, raw[0], raw[1], raw[2], raw[3]))
		},
	},
	{
		name: "claim",
		moments: []steps.Moment{
			steps.ClaimBegun, steps.ClaimNoted, steps.Claim.Sending(), steps.Claim.Answered(), steps.ClaimDone,
		},
		prepare:  inUnclaimed,
		run:      connectOp,
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name: "want",
		moments: []steps.Moment{
			steps.WantBegun, steps.WantNoted, steps.PutWant.Sending(), steps.PutWant.Answered(), steps.WantPut, steps.WantMet,
		},
		prepare:  inForeignBlock,
		run:      connectOp,
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name:    "want that nobody answers",
		moments: []steps.Moment{steps.DropWant.Sending(), steps.DropWant.Answered()},
		prepare: func(f *fence) {
			inForeignBlock(f)
			f.must(f.b.Pause())
		},
		run:      connectOp,
		relieve:  func(f *fence) { f.must(f.b.Resume()) },
		attaches: true,
		done:     opIsRecorded,
	},
	{
		name: "yield",
		moments: []steps.Moment{
			steps.YieldOffered, steps.Yield.Sending(), steps.Yield.Answered(), steps.YieldDone,
		},
		prepare: inOwnBlock,
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.b.Ctl(ctx, "network", "connect", "--name", "op", "--ip", f.addr.String(), f.network, "taken")
		},
	},
	{
		name: "release of a block",
		moments: []steps.Moment{
			steps.GiveBackBegun, steps.GiveBack.Sending(), steps.GiveBack.Answered(), steps.GiveBackDone,
		},
		prepare: inUnclaimed,
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			// Their name is taken: all that is left of them is the blocks that they
			// claimed. Of two idle ones the first is kept.
			for _, addr := range []netip.Addr{f.addr4(249), f.addr} {
				res, err := f.a.Ctl(ctx, "network", "connect", "--name", "keep", "--ip", addr.String(), f.network, "op")
				if err != nil || !strings.Contains(res.Stderr, "endpoint with name keep already exists") {
					return res, errors.Join(err, res.Err())
				}
			}
			return lab.Result{}, nil
		},
	},
	{
		name: "return after a removal",
		moments: []steps.Moment{
			steps.Reclaim.Sending(), steps.Reclaim.Answered(), steps.Reattach.Sending(), steps.Reattach.Answered(),
		},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.b.Ctl(ctx, "node", "rm", "--force", "h1")
		},
	},
	{
		name:    "drain of another node",
		moments: []steps.Moment{steps.Drain.Sending(), steps.Drain.Answered()},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "node", "drain", "h2")
		},
		relieve: func(f *fence) { f.ctl(f.b, "node", "undrain", "h2") },
		done: func(_ *fence, held map[string]record) bool {
			return recordIn(held, "nodes/", `"name":"h2"`, `"draining":true`)
		},
	},
	{
		name:    "removal of another node",
		moments: []steps.Moment{steps.Remove.Sending(), steps.Remove.Answered()},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "node", "rm", "--force", "h3")
		},
		relieve: func(f *fence) {
			// It may have to come back first.
			f.eventually(startWithin, func(context.Context) error {
				if _, rev := f.registration("h3"); rev == 0 || f.endpointID("probe") == "" {
					return errors.New("h3 has not come back")
				}
				return nil
			})
		},
		done: func(_ *fence, held map[string]record) bool { return !recordIn(held, "nodes/", `"name":"h3"`) },
	},
	{
		name:    "update of the registration",
		moments: []steps.Moment{steps.Update.Sending(), steps.Update.Answered()},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Run(ctx, "ip", "route", "add", "10.250.0.0/16", "dev", "eth0")
		},
		end: func(f *fence) {
			_, err := f.a.Exec(f.t.Context(), "ip", "route", "del", "10.250.0.0/16")
			f.must(err)
		},
	},
	{
		name:    "creation of a network",
		moments: []steps.Moment{steps.Create.Sending(), steps.Create.Answered()},
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "network", "create", "-d", "overlay", "extra")
		},
		done: func(_ *fence, held map[string]record) bool { return recordIn(held, "networks/", `"name":"extra"`) },
		end:  removeExtra,
	},
	{
		name: "removal of a network",
		moments: []steps.Moment{
			steps.Mark.Sending(), steps.Mark.Answered(), steps.Empty.Sending(), steps.Empty.Answered(),
			steps.Erase.Sending(), steps.Erase.Answered(),
		},
		prepare: func(f *fence) { f.create(f.b, "extra") },
		run: func(ctx context.Context, f *fence) (lab.Result, error) {
			return f.a.Ctl(ctx, "network", "rm", "extra")
		},
		// Once the record is marked, any agent finishes it.
		done: func(_ *fence, held map[string]record) bool {
			return !recordIn(held, "networks/", `"name":"extra"`) || recordIn(held, "networks/", `"name":"extra"`, `"deleting":true`)
		},
		end: removeExtra,
	},
}

func always(*fence, map[string]record) bool { return true }

func never(*fence, map[string]record) bool { return false }

// recordIn reports whether among what etcd held is a record that has all the words.
func recordIn(held map[string]record, prefix string, words ...string) bool {
	for key, r := range held {
		lacks := func(word string) bool { return !strings.Contains(r.value, word) }
		if strings.HasPrefix(key, prefix) && !slices.ContainsFunc(words, lacks) {
			return true
		}
	}
	return false
}

func opIsRecorded(f *fence, held map[string]record) bool { return f.endpointIn(held, "op") != "" }

// inOwnBlock says that an address is meant in the block that h1 holds.
func inOwnBlock(f *fence) { f.addr = f.addr4(4) }

// inUnclaimed says that an address is meant that nobody holds.
func inUnclaimed(f *fence) { f.addr = f.addr4(250) }

// inForeignBlock says that an address is meant in a block of h2: the other one
// of the pair of mate's lies in every block of two or more.
func inForeignBlock(f *fence) {
	f.ctl(f.b, "network", "connect", f.network, "mate")
	raw := f.cluster.addr(f.mate).As4()
	f.addr = f.addr4(raw[3] ^ 1)
}

// connectOp connects op with the address that the operation is about.
func connectOp(ctx context.Context, f *fence) (lab.Result, error) {
	return f.a.Ctl(ctx, "network", "connect", "--ip", f.addr.String(), f.network, "op")
}

// altname gives, or takes from, the sandbox op another interface by the name
// that its first endpoint is to have: the kernel then refuses that one.
func (f *fence) altname(ctx context.Context, change string) error {
	_, err := f.op.Exec(ctx, "ip", "link", "property", change, "dev", "lo", "altname", eth0)
	return err
}

// put writes a key of the round's network, as if h1 had.
func (f *fence) put(ctx context.Context, key, value string) error {
	client, err := f.Etcd.Client()
	if err != nil {
		return err
	}
	_, err = client.Put(ctx, lab.Prefix+"net/"+f.id+"/"+key, value)
	return err
}

// removeExtra removes the network that an operation was about, if it is there.
// One that is on its way out is finished by any agent.
func removeExtra(f *fence) {
	f.t.Helper()
	res, err := f.b.Ctl(f.t.Context(), "network", "rm", "extra")
	f.must(err)
	if res.Code != 0 && !strings.Contains(res.Stderr, "not found") {
		f.must(res.Err())
	}
}
