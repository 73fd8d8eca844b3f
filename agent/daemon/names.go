package daemon

import (
	"errors"

	"github.com/overspan/overspan"
)

// Names answers what the containers of this node ask.
type Names interface {
	// Settle is called when an attachment has come or gone, and returns once names
	// are served accordingly. It does not fail: what stands in the way is a
	// warning.
	Settle()

	// Warnings tells what keeps names from being served.
	Warnings() []string
}

// noNames is what a daemon has that serves none.
type noNames struct{}

func (noNames) Settle()            {}
func (noNames) Warnings() []string { return nil }

// ServeNames has names follow the attachments. It is called before Run.
func (d *Daemon) ServeNames(names Names) { d.names = names }

// Called returns the snapshot that names are answered from: what Snapshot does, and
// the journal's while that returns nothing yet, once etcd has had a moment.
func (d *Daemon) Called() *overspan.Snapshot { return d.knowledge().Names }

// Changed returns a channel that closes at the next change of Snapshot or Called
// after the call.
func (d *Daemon) Changed() <-chan struct{} { return d.snapshots.Wait() }

// Plugged returns this node's sandboxes and attachments of one moment.
func (d *Daemon) Plugged() overspan.Plugged { return d.local.View().Plugged() }

// namesMost bounds how many aliases and how many links an endpoint has: they
// are kept by every node of its network.
const namesMost = 64

func checkNames(aliases []string, links []overspan.Link) error {
	if len(aliases) > namesMost || len(links) > namesMost {
		return overspan.Errorf(overspan.ErrInvalid, "%d aliases and %d links: an endpoint may have at most %d of each", len(aliases), len(links), namesMost)
	}
	for _, alias := range aliases {
		if err := overspan.CheckName("alias", alias); err != nil {
			return err
		}
	}
	for _, l := range links {
		if err := errors.Join(overspan.CheckName("link", l.Name), overspan.CheckName("link", l.Alias)); err != nil {
			return err
		}
	}
	return nil
}
