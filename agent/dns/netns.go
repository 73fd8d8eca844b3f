package dns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// netnsMark begins a file that is ours, and tells whoever finds it.
const netnsMark = "# Written by Overspan while this namespace is connected. Without this line it is yours.\n"

// freshSuffix ends the name of a file that is still being written.
const freshSuffix = ".overspan"

// netnsDirs are where ip-netns(8) keeps its named namespaces.
var netnsDirs = []string{"/run/netns", "/var/run/netns"}

// netnsFiles are the resolv.conf files that ip-netns(8) shows to what it runs in
// a namespace. A file without our mark is somebody's own and left alone.
type netnsFiles struct {
	dir     string            // "/etc/netns"
	written map[string]string // what stands there, by namespace, as far as that is known
}

// A wish is what a namespace's resolv.conf should say.
type wish struct {
	text   string // "": there should be none
	unsure bool   // text lacks what cannot be read: a file that is there may be right
}

// netnsWanted returns what namespaces want, by name. Host is what the host's own
// resolv.conf says.
func netnsWanted(snapshot *overspan.Snapshot, sandboxes []*overspan.Sandbox, attachments []*overspan.Attachment, host overspan.Resolver) map[string]wish {
	networks, unsure := map[overspan.SandboxID][]*overspan.Network{}, map[overspan.SandboxID]bool{}
	for _, a := range attachments {
		if n := snapshot.Networks[a.Endpoint.Network]; n != nil {
			networks[a.Sandbox] = append(networks[a.Sandbox], n)
		} else if unread(snapshot, a.Endpoint.Network) {
			unsure[a.Sandbox] = true
		}
	}
	out := map[string]wish{}
	for _, sb := range sandboxes {
		dir, name := filepath.Split(sb.Netns)
		if sb.Kind != overspan.SandboxNetns || !slices.Contains(netnsDirs, filepath.Clean(dir)) {
			continue
		}
		w := out[name]
		if gateways := overspan.Nameservers(networks[sb.ID]...); len(gateways) > 0 {
			w.text = netnsMark + host.Within(gateways, sb.Resolver).String()
		}
		w.unsure = w.unsure || unsure[sb.ID]
		if w != (wish{}) {
			out[name] = w
		}
	}
	return out
}

// settle writes the files that are wanted and removes ours that are not. Unless
// all is to be looked at, what is known to stand there is not read again.
func (f *netnsFiles) settle(want map[string]wish, all bool) error {
	var errs []error
	for name, w := range want {
		errs = append(errs, f.fulfil(name, w, all))
	}
	for _, name := range f.ours(want, all) {
		err := f.remove(name)
		if err == nil {
			delete(f.written, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fulfil writes a file that is wanted. One that nobody is sure of is written only
// where there is none.
func (f *netnsFiles) fulfil(name string, w wish, all bool) error {
	if w.text == "" || !all && f.written[name] == w.text {
		return nil
	}
	if w.unsure {
		if _, err := os.Lstat(f.path(name)); err == nil {
			return nil
		}
	}
	err := f.write(name, w.text)
	if err == nil {
		f.written[name] = w.text
	}
	return err
}

// ours lists the namespaces that may have a file of ours that is not wanted.
func (f *netnsFiles) ours(want map[string]wish, all bool) []string {
	var out []string
	consider := func(name string) {
		if _, wanted := want[name]; !wanted {
			out = append(out, name)
		}
	}
	if !all {
		for name := range f.written {
			consider(name)
		}
		return out
	}
	// That there is no directory means that there is no file.
	entries, _ := os.ReadDir(f.dir)
	for _, e := range entries {
		consider(e.Name())
	}
	return out
}

// write has a file say text, unless it is somebody's own.
func (f *netnsFiles) write(name, text string) error {
	path := f.path(name)
	if isLink(path) {
		return nil
	}
	now, err := os.ReadFile(path)
	switch {
	case err == nil && (string(now) == text || !isOurs(now)):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Whoever reads meanwhile has the old file or the new one.
	fresh := path + freshSuffix
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("%w; %w", err, os.Remove(fresh))
	}
	return nil
}

// remove takes a file of ours away, and its directory if nothing else is in it.
func (f *netnsFiles) remove(name string) error {
	path := f.path(name)
	if isLink(path) {
		return nil
	}
	now, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !isOurs(now) {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	// What a killed agent has left, if anything; and the directory, unless somebody
	// else uses it.
	_ = os.Remove(path + freshSuffix)
	_ = os.Remove(filepath.Dir(path))
	return nil
}

func (f *netnsFiles) path(name string) string { return filepath.Join(f.dir, name, "resolv.conf") }

// isLink reports whether there is no file but a link to one: somebody's own, also
// while it leads nowhere.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// RemoveNetnsFiles takes all files of ours below a directory such as /etc/netns
// away.
func RemoveNetnsFiles(dir string) error {
	f := netnsFiles{dir: dir, written: map[string]string{}}
	return f.settle(nil, true)
}

func isOurs(text []byte) bool { return bytes.HasPrefix(text, []byte(strings.TrimSpace(netnsMark))) }
