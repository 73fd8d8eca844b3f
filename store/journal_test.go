package store

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// reopen closes a journal and opens it again, as an agent that restarts does.
func reopen(t *testing.T, j *Journal) *Journal {
	t.Helper()
	path := j.db.Path()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return openJournal(t, path)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestJournalRemembers(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal.db"))
	id := j.Identity()
	if !overspan.IsID(string(id.Node)) || id.Registration != 0 || id.Instances != "" {
		t.Errorf("identity of a new journal: %+v", id)
	}
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sandbox := overspan.Sandbox{
		ID: overspan.SandboxID(overspan.NewID()), Name: "web", Kind: overspan.SandboxMade, Netns: "/run/overspan/netns/web",
		Inode: overspan.NetnsID{Dev: 4, Ino: 4026532000}, Created: created,
	}
	foreign := sandbox
	foreign.ID, foreign.Name, foreign.Kind = overspan.SandboxID(overspan.NewID()), "foreign", overspan.SandboxNetns
	publishing := sandbox
	publishing.Ports = []overspan.Port{{Protocol: overspan.TCP, Port: 80, HostIP: netip.IPv4Unspecified(), HostPort: 8080}}
	attachment := func(n int) overspan.Attachment {
		slot := overspan.Slot(n)
		return overspan.Attachment{
			Endpoint: overspan.Endpoint{
				ID: testID[overspan.EndpointID]('a', n), Network: netID(1), Node: id.Node, Name: fmt.Sprintf("web%d", n), Slot: slot, Slots: []overspan.Slot{slot},
				IPv4: testNetworkAddr(slot), MAC: overspan.MAC{2, 0x42, 10, 0, 1, byte(n)}, Sandbox: "web", Interface: "eth0", Created: created,
			},
			Sandbox: sandbox.ID, Netns: sandbox.Netns, Committed: true,
		}
	}
	rewritten := attachment(2)
	rewritten.Registration = 9
	for _, err := range []error{
		j.AddInstance("run 1"), j.AddInstance("run2"), j.SetRegistration(42, "run2"), j.AddInstance("run3"), j.AddInstance("run4"), j.SetMachine("machine 1"), j.SetSeen(Identity{ClusterID: 1<<63 + 1, Revision: 77, Accepted: 3, Claimed: 70}),
		j.PutSandbox(sandbox), j.PutSandbox(overspan.Sandbox{ID: "gone", Name: "gone"}), j.DeleteSandbox("gone"),
		j.PutAttachmentIn(foreign, attachment(2)), j.PutAttachment(attachment(3)), j.PutAttachment(attachment(4)),
		j.DeleteAttachmentIn(publishing, attachment(3).Endpoint.ID), j.Defer(attachment(4).Endpoint),
		j.RewriteAttachment(rewritten), j.RewriteAttachment(attachment(3)), j.RewriteAttachment(attachment(4)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j = reopen(t, j)
	addrs := cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
	if diff := cmp.Diff(Identity{Node: id.Node, Registration: 42, Instances: "run2 run3 run4", Machine: "machine 1", ClusterID: 1<<63 + 1, Revision: 77, Accepted: 3, Claimed: 70}, j.Identity()); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	wanted := []overspan.Sandbox{publishing, foreign}
	slices.SortFunc(wanted, func(a, b overspan.Sandbox) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if diff := cmp.Diff(wanted, must(j.Sandboxes())(t), addrs); diff != "" {
		t.Errorf("sandboxes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]overspan.Attachment{rewritten}, must(j.Attachments())(t), addrs); diff != "" {
		t.Errorf("attachments (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]overspan.Endpoint{attachment(4).Endpoint}, must(j.Releases())(t), addrs); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
	if err := j.DeleteRelease(attachment(4).Endpoint.ID); err != nil {
		t.Fatal(err)
	}
	if left := must(j.Releases())(t); len(left) != 0 {
		t.Errorf("releases are left: %v", left)
	}
}

func testNetworkAddr(slot overspan.Slot) netip.Addr {
	return testNetwork(1).IPv4.Addr(slot)
}

func TestJournalIsOneAgents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	openJournal(t, path)
	_, err := OpenJournal(path)
	wantClass(t, err, overspan.ErrInUse, path, fmt.Sprintf("in use by process %d", os.Getpid()))
}

func TestJournalNamesWhatIsCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	j := openJournal(t, path)
	put := func(bucket, key, value string) {
		t.Helper()
		err := j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	put(bucketSandboxes, "one", `{"id":"`)
	_, err := j.Sandboxes()
	wantClass(t, err, overspan.ErrCorrupt, "journal key sandboxes/one")
	put(bucketAttachments, "two", `{}`)
	_, err = j.Attachments()
	wantClass(t, err, overspan.ErrCorrupt, "journal key attachments/two", "field id")
	e := overspan.Endpoint{
		ID: testID[overspan.EndpointID]('a', 1), Network: netID(1), Node: nodeID(1), Name: "web",
		Slots: []overspan.Slot{2}, IPv4: testNetworkAddr(2), MAC: overspan.MAC{2, 0x42, 10, 0, 1, 2},
	}
	put(bucketReleases, "three", string(mustMarshal(overspanv1.EndpointRecord(e))))
	_, err = j.Releases()
	wantClass(t, err, overspan.ErrCorrupt, "journal key releases/three", "contradicts")
	put(bucketSnapshot, keySnapshot, `{"revision":"1"}`)
	put(bucketSnapshot, "four", `{"record":{}}`)
	_, err = j.Snapshot()
	wantClass(t, err, overspan.ErrCorrupt, "journal key snapshot/four")
	put(bucketIdentity, keyRegistration, "many")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = OpenJournal(path)
	wantClass(t, err, overspan.ErrCorrupt, "journal key identity/registration")

	if err := os.WriteFile(path, []byte("this is no journal, though it is a file of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenJournal(path)
	wantClass(t, err, overspan.ErrCorrupt, path)
}

// TestJournalKeepsTheSnapshot saves what a mirror made of a cluster.
func TestJournalKeepsTheSnapshot(t *testing.T) {
	kv := NewMemory(1)
	a, b := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
	n := a.create(t, testNetwork(1))
	a.create(t, testNetwork(2))
	own := a.attach(t, n, a.claim(t, n, 0, 64), "own", 2)
	far := b.claim(t, n, 64, 64)
	b.attach(t, n, far, "far", 70)
	exception := b.endpoint(n, "exception", 71)
	exception.MAC = overspan.MAC{0x0a, 0, 0, 0, 0, 1}
	exception, err := b.Attach(testContext(t), AttachRequest{Endpoint: exception, Network: n, Blocks: []overspan.Block{far}})
	if err != nil {
		t.Fatal(err)
	}
	m := startMirror(t, kv, a.keys, MirrorConfig{}, 1)
	snap := waitRevision(t, m, exception.CreateRevision)

	j := openJournal(t, filepath.Join(t.TempDir(), "journal.db"))
	if got := must(j.Snapshot())(t); got != nil {
		t.Errorf("snapshot of a new journal: %v", got)
	}
	if err := j.SaveSnapshot(snap, nodeID(1)); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j)
	want := *snap
	seg := *snap.Segments.Get(n.ID)
	seg.Wants = nil
	want.Segments = overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{n.ID: &seg})
	if diff := diffSnapshots(&want, must(j.Snapshot())(t)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	j.most = 2
	if err := j.SaveSnapshot(snap, nodeID(1)); err != nil {
		t.Fatal(err)
	}
	seg.Endpoints = overspan.SlotMapOf(map[overspan.Slot]*overspan.Endpoint{2: &own, 71: &exception})
	if diff := diffSnapshots(&want, must(j.Snapshot())(t)); diff != "" {
		t.Errorf("snapshot of a network with too many endpoints (-want +got):\n%s", diff)
	}

	before := j.db.Stats()
	later := *snap
	later.Revision++
	if err := j.SaveSnapshot(&later, nodeID(1)); err != nil {
		t.Fatal(err)
	}
	after := j.db.Stats()
	if wrote := after.TxStats.GetWrite() - before.TxStats.GetWrite(); wrote != 0 {
		t.Errorf("a snapshot with nothing new took %d writes", wrote)
	}
	last := later
	last.Segments = overspan.Segments{}
	if err := j.SaveSnapshot(&last, nodeID(1)); err != nil {
		t.Fatal(err)
	}
	if got := must(j.Snapshot())(t); got.Segments.Len() != 0 || got.Revision != last.Revision {
		t.Errorf("snapshot at %d has segments %v, want none at %d", got.Revision, got.Segments, last.Revision)
	}
}

func TestJournalThatIsNoneSaysWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	if err := os.WriteFile(path, bytes.Repeat([]byte("not a journal\n"), 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenJournal(path)
	wantClass(t, err, overspan.ErrCorrupt, path, "move it away")
}
