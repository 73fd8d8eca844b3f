package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/overspan/overspan"
)

func TestCheckOfDirectory(t *testing.T) {
	for dir, want := range map[string]error{
		"/var/lib/overspan-lab": nil,
		"/tmp/runs":             nil,
		"/runs":                 nil,
		"":                      overspan.ErrInvalid,
		"lab":                   overspan.ErrInvalid,
		"./lab":                 overspan.ErrInvalid,
		"/run":                  overspan.ErrInvalid,
		"/run/lab":              overspan.ErrInvalid,
		"/tmp/../etc/lab":       overspan.ErrInvalid,
	} {
		if err := check(dir); !errors.Is(err, want) {
			t.Errorf("directory %q: %v, want %v", dir, err, want)
		}
	}
}

// TestOneClaim: while one command makes or ends a lab no other does, and a claim
// on a directory that was deleted since is none on the one that has its name.
func TestOneClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	if _, err := claim(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("claim what is not there: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	release, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("claim what another has: %v", err)
	}
	if err := Down(t.Context(), dir); !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("end what is being made: %v", err)
	}
	opened, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := errors.Join(same(opened, dir), os.Remove(dir), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := same(opened, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory made anew is taken for the old one: %v", err)
	}
	release()
	again, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// TestForeignFilesStay: a directory that holds anything but a lab is left alone.
func TestForeignFilesStay(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := clear(dir); !errors.Is(err, overspan.ErrExists) {
		t.Errorf("make room: %v", err)
	}
	if err := Down(t.Context(), dir); err != nil {
		t.Errorf("end a lab that is not there: %v", err)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q: %v", text, err)
	}
}

// TestRemainsAreCleared: of a lab that ended without ctl, as by a reboot, a new one
// finds nothing, in the directory that is claimed.
func TestRemainsAreCleared(t *testing.T) {
	dir := t.TempDir()
	l := &Lab{Dir: dir, Nodes: []Node{{Host: Host{Name: "h1"}}}}
	if err := errors.Join(l.save(), os.MkdirAll(filepath.Join(dir, "h1", "state"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := clear(dir); err != nil {
		t.Fatal(err)
	}
	if err := vacant(dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, record), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), dir); !errors.Is(err, overspan.ErrCorrupt) {
		t.Errorf("end a lab whose record is torn: %v", err)
	}
}
