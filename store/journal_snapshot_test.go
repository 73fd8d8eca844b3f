package store

import (
	"path/filepath"
	"testing"

	"github.com/overspan/overspan"
)

// A snapshot can be older than the cluster's settings: the first agent reads
// etcd before it has set the cluster up.
func TestJournalKeepsASnapshotWithoutSettings(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal.db"))
	if err := j.SaveSnapshot(&overspan.Snapshot{Revision: 3}, j.Identity().Node); err != nil {
		t.Fatal(err)
	}
	got, err := reopen(t, j).Snapshot()
	if err != nil || got == nil || got.Revision != 3 || got.Meta != (overspan.Meta{}) {
		t.Errorf("got %+v, %v; want revision 3 without settings", got, err)
	}
}
