package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVariables(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("\ufeff# of the file\r\n\n  A=from file\r\nB= \"as it is\" # all of it\nHOME\nEMPTY="), 0o600); err != nil {
		t.Fatal(err)
	}
	s := surroundings{files: []string{file}, env: []string{"A=from flag", "PATH", "C=x=y"}}
	got, err := s.variables()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=from file", `B= "as it is" # all of it`, "EMPTY=", "A=from flag", "C=x=y"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

func TestVariablesRefused(t *testing.T) {
	for text, want := range map[string]string{
		"A=1\n=x\n":       "line 2: it has no name",
		"export A=1\n":    `line 1: variable "export A" contains whitespace`,
		"A=1\n\nB=\xff\n": "line 3: it is not UTF-8",
		"A=\x00\n":        "line 1: a variable cannot hold",
	} {
		if _, err := parseEnvFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want: %s", text, err, want)
		}
	}
	for _, s := range []surroundings{{env: []string{"=x"}}, {env: []string{""}}, {files: []string{"/no/such/file"}}} {
		if got, err := s.variables(); err == nil {
			t.Errorf("%+v is taken, as %q", s, got)
		}
	}
}
