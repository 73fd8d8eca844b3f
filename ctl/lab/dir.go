package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// onHost is there on the hosts of a lab alone, and holds the host's name. Seen
// from there, the ids of the lab's processes are those of others or of none: a
// lab that runs would be taken for one that has ended.
const onHost = "/run/overspan-lab-host"

// check says whether the lab of a directory can be dealt with from here.
func check(dir string) error {
	name, err := os.ReadFile(onHost)
	if err == nil {
		return overspan.Errorf(overspan.ErrUnsupported, "this is host %s of a lab; type ctl lab and ctl --node on the machine that it is on", name)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !filepath.IsAbs(dir) {
		return overspan.Errorf(overspan.ErrInvalid, "the lab's directory %q is no absolute path", dir)
	}
	for _, own := range []string{"/run", "/etc", "/proc", "/sys"} {
		if strings.HasPrefix(filepath.Clean(dir)+"/", own+"/") {
			return overspan.Errorf(overspan.ErrInvalid, "a lab cannot stand in %s: each of its hosts has a %s of its own", dir, own)
		}
	}
	return nil
}

// claim has this process alone make or end the lab in a directory, until it
// releases it or ends. A directory that is not there is an error of
// fs.ErrNotExist.
func claim(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = same(f, dir)
	}
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil, overspan.Errorf(overspan.ErrInUse, "another ctl is making or ending the lab in %s; try again when it is done", dir)
	}
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

// same reports, by an error of fs.ErrNotExist, that a directory was deleted after
// it was opened: by whoever had the claim before.
func same(f *os.File, dir string) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(dir)
	if err == nil && !os.SameFile(opened, now) {
		err = fs.ErrNotExist
	}
	return err
}

// empty deletes what is in a directory, and keeps the directory, which is claimed.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// vacant checks that a directory without a lab holds nothing: a lab's end deletes
// all that is in it.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return overspan.Errorf(overspan.ErrExists, "%s holds %s, which is no lab's; give OVERSPAN_LAB_DIR a directory that is empty or not there", dir, entries[0].Name())
	}
	return nil
}
