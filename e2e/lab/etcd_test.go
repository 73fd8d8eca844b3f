package lab

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// put writes a key through one member.
func put(t *testing.T, m *Member, key, value string) error {
	t.Helper()
	client, err := m.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = client.Put(ctx, key, value)
	return err
}

// holds checks what lies below /a/.
func holds(t *testing.T, e *Etcd, want map[string]string) {
	t.Helper()
	got, err := e.Dump(t.Context(), "/a/")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("etcd holds (-want +got):\n%s", diff)
	}
}

// must ends the test on an error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdOfThreeSurvivesOne(t *testing.T) {
	e := newLab(t, Options{EtcdMembers: 3}).Etcd
	leader, err := e.Leader(t.Context())
	must(t, err)
	must(t, put(t, leader, "/a/b", "c"), leader.Kill(t.Context()))
	next := e.able()[0]
	must(t, Eventually(t.Context(), 10*time.Second, func(context.Context) error { return put(t, next, "/a/d", "e") }))
	holds(t, e, map[string]string{"/a/b": "c", "/a/d": "e"})
	other := e.able()[1]
	must(t, e.Compact(t.Context()), e.Defragment(t.Context()), other.Stop(t.Context()))
	if err := put(t, next, "/a/f", "g"); err == nil {
		t.Error("one member of three has written")
	}
	must(t, leader.Start(t.Context()), other.Start(t.Context()))
	must(t, e.MoveLeader(t.Context(), other))
	if now, err := e.Leader(t.Context()); err != nil || now != other {
		t.Errorf("%v leads, %v; want %s", now, err, other.Name)
	}
}

func TestEtcdMemberCutOffAnswersOnlyItself(t *testing.T) {
	l := newLab(t, Options{EtcdMembers: 3, Nodes: 1})
	far, h1 := l.Etcd.Members[2], root(t, l.Nodes[0])
	must(t, far.Cut(t.Context()))
	silent, err := h1.PingOnce(far.Addrs...)
	if err != nil || len(silent) != 1 {
		t.Errorf("cut off: silent %v, %v", silent, err)
	}
	if _, err := far.Status(t.Context()); err != nil {
		t.Error(err)
	}
	must(t, far.Heal(t.Context()))
	silent, err = h1.PingOnce(far.Addrs...)
	if err != nil || len(silent) != 0 {
		t.Errorf("healed: silent %v, %v", silent, err)
	}
}

func TestEtcdIsFilledAndFreed(t *testing.T) {
	e := newLab(t, Options{EtcdQuota: 8 << 20}).Etcd
	must(t, put(t, e.Members[0], "/a/b", "c"), e.Fill(t.Context()))
	if err := put(t, e.Members[0], "/a/d", "e"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("put into a full etcd: %v", err)
	}
	holds(t, e, map[string]string{"/a/b": "c"})
	must(t, e.Free(t.Context()), put(t, e.Members[0], "/a/d", "e"))
	holds(t, e, map[string]string{"/a/b": "c", "/a/d": "e"})
}

func TestEtcdGoesBackInTime(t *testing.T) {
	e := newLab(t, Options{}).Etcd
	clusterID := func() uint64 {
		status, err := e.Members[0].Status(t.Context())
		must(t, err)
		return status.Header.ClusterId
	}
	at := func() int64 {
		client, err := e.Client()
		must(t, err)
		res, err := client.Get(t.Context(), "/a/", clientv3.WithPrefix())
		must(t, err)
		return res.Header.Revision
	}
	must(t, put(t, e.Members[0], "/a/b", "c"))
	backup, err := e.Backup(t.Context())
	must(t, err)
	then, id := at(), clusterID()
	must(t, put(t, e.Members[0], "/a/d", "e"))

	must(t, e.Restore(t.Context(), backup))
	holds(t, e, map[string]string{"/a/b": "c"})
	if now := at(); now != then || clusterID() != id {
		t.Errorf("restored: revision %d, cluster %x; want %d, %x", now, clusterID(), then, id)
	}
	must(t, e.Wipe(t.Context()))
	holds(t, e, map[string]string{})
	if clusterID() != id {
		t.Error("wiped: the cluster has another id")
	}
	must(t, e.Replace(t.Context()))
	holds(t, e, map[string]string{})
	if clusterID() == id {
		t.Error("replaced: the cluster has the same id")
	}
}
