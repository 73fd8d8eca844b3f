package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/overspan/overspan"
)

// streamName is the metadata that gives each watched range a stream of its own:
// etcd's client has a stream for each set of metadata. etcd tells progress to
// all watches of a stream or to none, and to none while one of them waits for a
// revision that is still to come, as every new watch does.
const streamName = "overspan-watch"

// ownStream returns a context whose calls go over a range's own stream.
func ownStream(ctx context.Context, key string) context.Context {
	return clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(ctx, streamName, key))
}

// Watch implements KV.
func (e *Etcd) Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch {
	out := make(chan Batch)
	e.wg.Go(func() {
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(e.ctx, cancel)()
		send := func(b Batch) {
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
		if err := e.watch(ctx, r, after, send); err != nil && ctx.Err() == nil {
			send(Batch{Err: err})
		}
	})
	return out
}

// watch passes on what the client's watch says until it fails or ctx ends.
func (e *Etcd) watch(ctx context.Context, r KeyRange, after int64, send func(Batch)) error {
	what := "watch " + r.Key
	client, err := e.connect(ctx)
	if err != nil {
		return e.fault(what, err)
	}
	opts := []clientv3.OpOption{
		clientv3.WithRev(after + 1),
		clientv3.WithProgressNotify(),
		clientv3.WithFragment(),
	}
	if r.End != "" {
		opts = append(opts, clientv3.WithRange(r.End))
	}
	defer e.countWatch(r.Key)()
	stream, cancel := e.untilMemberLeft(ctx)
	defer cancel()
	for resp := range client.Watch(ownStream(stream, r.Key), r.Key, opts...) {
		if err := resp.Err(); err != nil {
			return e.fault(what, err)
		}
		b := batch(resp, after)
		if b.Revision > after || b.Revision == after && len(b.Events) == 0 {
			after = b.Revision
			send(b)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s: the stream ended", what)
}

// batch reads a response of a watch that has told everything up to after. A
// response with events may bear a revision that is ahead of what it tells, as
// a watch does that catches up: its frontier is its last event. One without
// events is a notification of progress. Events that were told are left out.
func batch(resp clientv3.WatchResponse, after int64) Batch {
	if len(resp.Events) == 0 {
		return Batch{Revision: resp.Header.Revision}
	}
	b := Batch{Revision: resp.Events[len(resp.Events)-1].Kv.ModRevision}
	for _, ev := range resp.Events {
		if ev.Kv.ModRevision > after {
			b.Events = append(b.Events, Event{Deleted: ev.Type == clientv3.EventTypeDelete, KeyValue: keyValue(ev.Kv)})
		}
	}
	return b
}

// Progress implements KV.
func (e *Etcd) Progress(ctx context.Context) error {
	client, err := e.connect(ctx)
	if err != nil {
		return e.fault("request progress", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	var errs []error
	for _, key := range e.watchedKeys() {
		if err := client.RequestProgress(ownStream(ctx, key)); err != nil {
			errs = append(errs, e.fault("request progress of "+key, err))
		}
	}
	return errors.Join(errs...)
}

// countWatch notes that a range is watched, until the function that it returns is
// called.
func (e *Etcd) countWatch(key string) (release func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched[key]++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.watched[key]--; e.watched[key] == 0 {
			delete(e.watched, key)
		}
	}
}

// watchedKeys returns the first keys of the ranges that are watched.
func (e *Etcd) watchedKeys() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.watched))
}
