package history

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/internal/twonodes"
	"github.com/overspan/overspan/store"
)

// Which acceptances are known is noted only when the journal says of each
// endpoint that its record is to be looked for: else the next run would take what
// is gone for another loss.
func TestAcceptancesAreNotedAfterWhatTheyChange(t *testing.T) {
	journal, err := store.OpenJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := store.NewKeys("test")
	if err != nil {
		t.Fatal(err)
	}
	kv := store.NewMemory(1)
	mirror := store.NewMirror(kv, keys, store.MirrorConfig{})
	go mirror.Run(t.Context())
	web := twonodes.Attachment()
	web.Registration = 3
	h := New(Config{
		Log: slog.New(slog.DiscardHandler), KV: kv, Keys: keys, Journal: journal, Mirror: mirror,
		Local: local.New(nil, []overspan.Attachment{web}), Self: twonodes.Self, Name: "h1",
	})
	nothing := store.Identity{}
	deadline := time.After(20 * time.Second)
	for h.NoteSeen(nothing) == nothing {
		select {
		case <-mirror.Changed():
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("which etcd is followed is never noted")
		}
	}
	if err := journal.Close(); err != nil { // from now on nothing can be written
		t.Fatal(err)
	}
	h.mu.Lock()
	h.turn(h.outlook.disown())
	h.outlook.accepted++
	h.mu.Unlock()
	h.persist()
	if now, noted := h.seen(); noted {
		t.Errorf("%+v would be noted", now)
	}
	if left := len(h.disowned); left != 1 {
		t.Errorf("%d endpoints are still to be noted, want 1", left)
	}
}
