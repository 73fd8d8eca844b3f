package store

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Grant implements KV.
func (e *Etcd) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return 0, e.fault("grant lease", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	resp, err := client.Grant(ctx, int64(max(time.Second, ttl)/time.Second))
	if err != nil {
		return 0, e.fault("grant lease", err)
	}
	return LeaseID(resp.ID), nil
}

// Revoke implements KV.
func (e *Etcd) Revoke(ctx context.Context, id LeaseID) error {
	client, err := e.connect(ctx)
	if err != nil {
		return e.fault("revoke lease", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if _, err := client.Revoke(ctx, clientv3.LeaseID(id)); err != nil {
		return e.fault("revoke lease", err)
	}
	return nil
}

// KeepAlive implements KV.
func (e *Etcd) KeepAlive(ctx context.Context, id LeaseID) (<-chan struct{}, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return nil, e.fault("keep lease alive", err)
	}
	lost := make(chan struct{})
	e.wg.Go(func() {
		defer close(lost)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(e.ctx, cancel)()
		e.keepAlive(clientv3.WithRequireLeader(ctx), client, clientv3.LeaseID(id))
	})
	return lost, nil
}

// keepAlive returns when the lease is known to be gone, when it was not renewed for
// its whole TTL, or when ctx ends. The client's own stream is not enough: it ends
// when its member briefly has no leader, and it stays with a member that this client
// has left. While a member is shunned, each renewal is a call of its own.
func (e *Etcd) keepAlive(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID) {
	const pause = 200 * time.Millisecond
	expiry := time.Now().Add(e.timeout)
	for {
		renewed := time.Now()
		resp, err := e.renew(ctx, client, id, expiry)
		switch {
		case ctx.Err() != nil || errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		case err == nil:
			expiry = renewed.Add(time.Duration(resp.TTL) * time.Second)
			if !e.shuns(client) {
				expiry = e.stream(ctx, client, id, expiry)
			}
		}
		if time.Now().After(expiry) {
			return
		}
		wait := pause
		if err == nil && e.shuns(client) {
			wait = time.Until(expiry) / 3
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// renew sends one keepalive, in vain if there is no answer before expiry, or if
// the one member that is asked does not answer: the next is for another.
func (e *Etcd) renew(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID, expiry time.Time) (*clientv3.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithDeadline(ctx, expiry)
	defer cancel()
	resp, err := askOne(ctx, e.patience(), func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return client.KeepAliveOnce(ctx, id)
	})
	if unanswered(err) {
		e.doubt()
	}
	return resp, err
}

// stream keeps a lease alive while the client can, and does not leave a member,
// and returns when it expires.
func (e *Etcd) stream(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID, expiry time.Time) time.Time {
	ctx, cancel := e.untilMemberLeft(ctx)
	defer cancel()
	if e.shuns(client) { // since a moment ago
		return expiry
	}
	answers, err := client.KeepAlive(ctx, id)
	if err != nil {
		return expiry
	}
	for resp := range answers {
		expiry = time.Now().Add(time.Duration(resp.TTL) * time.Second)
	}
	return expiry
}
