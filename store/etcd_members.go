package store

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/overspan/overspan"
)

// memberTimeout bounds the question after one member's health.
const memberTimeout = 2 * time.Second

// Endpoints implements KV.
func (e *Etcd) Endpoints() []string { return slices.Clone(e.endpoints) }

// Members implements KV.
func (e *Etcd) Members(ctx context.Context) []Member {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	members := make([]Member, len(e.endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range e.endpoints {
		wg.Go(func() { members[i] = e.member(ctx, endpoint) })
	}
	wg.Wait()
	return members
}

func (e *Etcd) member(ctx context.Context, endpoint string) Member {
	m := Member{Endpoint: endpoint}
	client, err := e.connect(ctx)
	if err != nil {
		m.Err = overspan.Errorf(overspan.ErrUnavailable, "%s", plain(err))
		return m
	}
	start := time.Now()
	resp, err := e.askMember(ctx, client, endpoint)
	m.Latency = time.Since(start)
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		m.Err = overspan.Errorf(overspan.ErrUnavailable, "%s", reasonSilent)
	case err != nil:
		m.Err = overspan.Errorf(overspan.ErrUnavailable, "%s", plain(err))
	default:
		m.ID, m.Version = resp.Header.MemberId, resp.Version
		m.Leader = resp.Leader == resp.Header.MemberId
		m.Err = ailment(resp)
	}
	return m
}

// askMember asks one member once: it is told at once that nobody listens there.
func (e *Etcd) askMember(ctx context.Context, client *clientv3.Client, endpoint string) (*clientv3.StatusResponse, error) {
	if e.dial == nil { // in this process
		return client.Status(ctx, endpoint)
	}
	// The client reads its own endpoints here, which a survey may be changing.
	e.mu.Lock()
	conn, err := client.Dial(endpoint)
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := etcdserverpb.NewMaintenanceClient(conn).Status(ctx, &etcdserverpb.StatusRequest{})
	return (*clientv3.StatusResponse)(resp), err
}

// ailment returns what a member that answers says is wrong with it, if anything.
func ailment(resp *clientv3.StatusResponse) error {
	if len(resp.Errors) == 0 {
		return nil
	}
	told := strings.Join(resp.Errors, "; ")
	switch {
	case strings.Contains(told, etcdserverpb.AlarmType_NOSPACE.String()):
		told = reasonNoSpace
	case resp.Leader == 0:
		told = reasonNoLeader
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s", told)
}
