package dns

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

func TestNetnsWish(t *testing.T) {
	place := newTown()
	for i, sb := range place.sandboxes {
		switch sb.Name {
		case "client":
			place.sandboxes[i].Kind, place.sandboxes[i].Netns = overspan.SandboxNetns, "/run/netns/client"
			place.sandboxes[i].Resolver = overspan.Resolver{Search: []string{"example.org"}}
		case "both":
			place.sandboxes[i].Kind, place.sandboxes[i].Netns = overspan.SandboxNetns, "/var/run/netns/two"
		case "web": // of somebody who keeps his namespaces elsewhere
			place.sandboxes[i].Kind, place.sandboxes[i].Netns = overspan.SandboxNetns, "/run/engine/netns/web"
		default:
			place.sandboxes[i].Kind, place.sandboxes[i].Netns = overspan.SandboxMade, "/run/netns/"+sb.Name
		}
	}
	host := overspan.Resolver{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Search: []string{"lan"}}
	now := sight{plugged: pluggedOf(place.sandboxes, place.attachments), networks: place.snapshot.Networks}
	got := map[string]string{}
	for _, sb := range place.sandboxes {
		if name := netnsName(sb); name != "" {
			got[name] = now.wish([]overspan.SandboxID{sb.ID}, host).text
		}
	}
	want := map[string]string{
		"client": netnsMark + "nameserver 10.0.0.1\nsearch example.org\noptions ndots:0\n",
		"two":    netnsMark + "nameserver 10.1.0.1\nnameserver 10.0.0.1\nsearch lan\noptions ndots:0\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A file of ours is written, healed and removed, also by an agent that does not
// know that it has written it; one without our mark is never touched.
func TestNetnsFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "netns")
	want := map[string]wish{"web": {text: netnsMark + "nameserver 10.0.0.1\n"}}
	settle := func(f *netnsFiles, want map[string]wish, all bool) {
		t.Helper()
		if err := f.settle(want, all); err != nil {
			t.Fatal(err)
		}
	}
	show := func() map[string]string {
		out := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			text := "directory"
			if !d.IsDir() {
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text = string(raw)
			}
			name, err := filepath.Rel(dir, path)
			out[name] = text
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	check := func(want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, show()); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
	f := &netnsFiles{dir: dir, written: map[string]string{}}
	settle(f, want, false)
	there := map[string]string{"web": "directory", "web/resolv.conf": want["web"].text}
	check(there)

	path := filepath.Join(dir, "web", "resolv.conf")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	settle(f, want, true)
	check(there)

	const own = "nameserver 192.0.2.1\n"
	if err := os.WriteFile(path, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	settle(f, want, true)
	settle(f, map[string]wish{"web": {}}, true)
	check(map[string]string{"web": "directory", "web/resolv.conf": own})

	if err := os.WriteFile(path, []byte(want["web"].text), 0o600); err != nil {
		t.Fatal(err)
	}
	settle(&netnsFiles{dir: dir, written: map[string]string{}}, map[string]wish{"web": {}}, true)
	check(map[string]string{})
}
