package dns

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// A settled server has doors, and files for namespaces in a directory of its own.
type settled struct {
	*testing.T
	*Server
	place *town
}

func newSettled(t *testing.T) *settled {
	t.Helper()
	place := newTown()
	for _, sb := range place.sandboxes {
		sb.Kind, sb.Netns = overspan.SandboxNetns, "/run/netns/"+sb.Name
	}
	cfg := Config{ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), NetnsDir: t.TempDir()}
	s := &settled{t, New(place, cfg, slog.New(slog.DiscardHandler)), place}
	t.Cleanup(s.close)
	return s
}

// change changes the town; each snapshot stays as it is.
func (s *settled) change(by func(place *town, snapshot *overspan.Snapshot)) {
	s.place.mu.Lock()
	defer s.place.mu.Unlock()
	next := *s.place.snapshot
	next.Networks = maps.Clone(next.Networks)
	by(s.place, &next)
	s.place.snapshot, s.place.plugged = &next, nil
}

// unplug takes a sandbox's attachments out, as a town's change.
func unplug(sandbox overspan.SandboxID) func(*town, *overspan.Snapshot) {
	return func(place *town, _ *overspan.Snapshot) {
		place.attachments = slices.DeleteFunc(slices.Clone(place.attachments), func(a *overspan.Attachment) bool { return a.Sandbox == sandbox })
	}
}

// check compares the networks that have doors, and the namespaces' gateways, with
// what is wanted once the server has settled, with a look at all files as without.
func (s *settled) check(when string, doors []string, files map[string]string) {
	s.Helper()
	for what := range lookAll + 1 {
		s.settle(what)
		open := []string{}
		for id := range s.doors {
			open = append(open, string(id))
		}
		slices.Sort(open)
		if diff := cmp.Diff(doors, open); diff != "" {
			s.Errorf("%s, look %d: doors (-want +got):\n%s", when, what, diff)
		}
		got := map[string]string{}
		paths, err := filepath.Glob(filepath.Join(s.cfg.NetnsDir, "*", "resolv.conf"))
		if err != nil {
			s.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				s.Fatal(err)
			}
			servers := ""
			for _, addr := range overspan.ParseResolver(string(text)).Servers {
				servers += " " + addr.String()
			}
			got[filepath.Base(filepath.Dir(path))] = servers
		}
		if diff := cmp.Diff(files, got); diff != "" {
			s.Errorf("%s, look %d: files (-want +got):\n%s", when, what, diff)
		}
	}
}

// TestSettleBesideWhatCannotBeRead: a record that cannot be read may be that of a
// network that is missing. What is in it stays as it is, and all else is settled.
func TestSettleBesideWhatCannotBeRead(t *testing.T) {
	s := newSettled(t)
	files := map[string]string{
		"web": " 10.0.0.1", "client": " 10.0.0.1", "both": " 10.1.0.1 10.0.0.1",
		"inside": " 10.2.0.1", "shut": " 10.2.0.1",
	}
	s.check("all is known", []string{"demo", "other", "secret"}, files)

	other := s.place.snapshot.Networks["other"]
	s.change(func(_ *town, snapshot *overspan.Snapshot) {
		delete(snapshot.Networks, "other")
		snapshot.Bad = []overspan.BadRecord{{Key: "networks/other"}}
	})
	s.check("a network cannot be read", []string{"demo", "other", "secret"}, files)
	restarted := &settled{t, New(s.place, s.cfg, s.log), s.place}
	restarted.check("an agent starts then", []string{"demo", "secret"}, files)
	restarted.close()

	s.change(unplug("client"))
	s.change(unplug("inside"))
	delete(files, "client")
	delete(files, "inside")
	s.check("two have left", []string{"demo", "other", "secret"}, files)

	s.change(unplug("shut"))
	s.change(func(place *town, _ *overspan.Snapshot) {
		for _, id := range []overspan.NetworkID{"demo", "other"} {
			late := &overspan.Attachment{Endpoint: overspan.Endpoint{ID: "late" + overspan.EndpointID(id), Network: id}, Sandbox: "late"}
			place.attachments = append(slices.Clip(place.attachments), late)
		}
		late := &overspan.Sandbox{ID: "late", Name: "late", Kind: overspan.SandboxNetns, Netns: "/run/netns/late"}
		place.sandboxes = append(slices.Clip(place.sandboxes), late)
	})
	delete(files, "shut")
	files["late"] = " 10.0.0.1"
	s.check("nobody is in a network any more, and one has come", []string{"demo", "other"}, files)

	s.change(func(_ *town, snapshot *overspan.Snapshot) { snapshot.Networks["other"], snapshot.Bad = other, nil })
	files["late"] = " 10.0.0.1 10.1.0.1"
	s.check("it can be read again", []string{"demo", "other"}, files)

	s.change(func(_ *town, snapshot *overspan.Snapshot) {
		delete(snapshot.Networks, "other")
		snapshot.Bad = []overspan.BadRecord{{Key: "networks/other"}}
	})
	s.change(unplug("both"))
	s.change(unplug("late"))
	delete(files, "both")
	delete(files, "late")
	s.check("it cannot, and nobody is in it", []string{"demo"}, files)
}

// A network that is missing while all can be read is gone.
func TestSettleWithoutANetwork(t *testing.T) {
	s := newSettled(t)
	s.settle(lookAll)
	s.change(func(_ *town, snapshot *overspan.Snapshot) { delete(snapshot.Networks, "other") })
	s.check("a network is gone", []string{"demo", "secret"}, map[string]string{
		"web": " 10.0.0.1", "client": " 10.0.0.1", "both": " 10.0.0.1", "inside": " 10.2.0.1", "shut": " 10.2.0.1",
	})
}
