package history

import "github.com/overspan/overspan"

// A Knowledge is what a node knows of its cluster at one moment. It is immutable, and
// so are the snapshots in it; each is nil where there is none. Which of them to go
// by depends on what it is for.
type Knowledge struct {
	// Shown is what this node serves, plans and lists: what etcd tells, beside what
	// is remembered where etcd may have lost its past; or else the journal's
	// snapshot, once etcd has had its chance.
	Shown *overspan.Snapshot

	// Told is Shown without the journal's: etcd has told something, or was doubted.
	// News and the journal follow from it.
	Told *overspan.Snapshot

	// Names is what names are answered from: Shown, and the journal's earlier.
	Names *overspan.Snapshot

	// Etcd is what etcd alone tells, for those who write there; nil while it is
	// doubted.
	Etcd *overspan.Snapshot

	// Memory is what etcd told last before it lost its past; nil while it is taken
	// at its word.
	Memory *overspan.Snapshot

	// Held says that there is a newer snapshot that lacks what this node has written:
	// etcd is being asked why before any of the above shows it.
	Held bool

	// Anew says that etcd may have gone back to a registration that this node does
	// not know, and which it may take up.
	Anew bool

	Accepted uint64          // acceptances that this node knows
	Doubted  <-chan struct{} // closes when etcd is taken at its word no more
}

// Writable reports whether this node may register in etcd, and write there: it is
// taken at its word, or what it lost is known to all.
func (k Knowledge) Writable() bool { return k.Etcd != nil && !k.Held }
