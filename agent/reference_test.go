package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the reference")

// reference is the page that this test writes and compares.
const reference = "../docs/reference/agent.md"

// TestReferenceIsCurrent compares the reference with the flags. With -update, as
// "make generate" calls it, it writes the page.
func TestReferenceIsCurrent(t *testing.T) {
	f := (&config{}).flags()
	f.Lookup("node-name").DefValue = "" // this host's
	var page strings.Builder
	page.WriteString("# agent\n\nWritten by `make generate` from the flags themselves: `agent --help` says the same. Each flag is also a variable\n" +
		"`OVERSPAN_…` in the environment, in capitals with `_` for `-`, and a key in `/etc/overspan/agent.yaml`. A flag outweighs\n" +
		"the environment, which outweighs the file. The node's name is the host's where none is given.\n\n    agent [flags]\n\n")
	for line := range strings.Lines(f.FlagUsages()) {
		page.WriteString("    " + strings.TrimRight(line, " \n") + "\n")
	}
	if *update {
		if err := os.WriteFile(reference, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	checkedIn, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(checkedIn), page.String()); diff != "" {
		t.Errorf("%s is not what the flags say; run: make generate (-page +flags):\n%s", reference, diff)
	}
}
