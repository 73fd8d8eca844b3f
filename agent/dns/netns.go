package dns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// settle has files be as they are wanted. Unless all is to be looked at, what is
// known to stand there is not read again, and only what is known to is removed.
func (f *netnsFiles) settle(want map[string]wish, all bool) error {
	var errs []error
	for name, w := range want {
		if w == (wish{}) {
			errs = append(errs, f.forget(name, all))
		} else {
			errs = append(errs, f.fulfil(name, w, all))
		}
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

// forget removes a file that is not wanted.
func (f *netnsFiles) forget(name string, all bool) error {
	if _, known := f.written[name]; !known && !all {
		return nil
	}
	err := f.remove(name)
	if err == nil {
		delete(f.written, name)
	}
	return err
}

// there lists the namespaces that may have a file of ours: those known to, and all
// that have any.
func (f *netnsFiles) there(all bool) []string {
	names := slices.Collect(maps.Keys(f.written))
	if all {
		// That there is no directory means that there is no file.
		entries, _ := os.ReadDir(f.dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
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
	want := map[string]wish{}
	for _, name := range f.there(true) {
		want[name] = wish{}
	}
	return f.settle(want, true)
}

func isOurs(text []byte) bool { return bytes.HasPrefix(text, []byte(strings.TrimSpace(netnsMark))) }
