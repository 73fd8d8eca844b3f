package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// reference is the page that this test writes and compares.
const reference = "../docs/reference/ctl.md"

// TestReferenceIsCurrent compares the command reference with the commands. With
// -update, as "make generate" calls it, it writes the page.
func TestReferenceIsCurrent(t *testing.T) {
	for _, name := range []string{"OVERSPAN_TLS_CA", "OVERSPAN_TLS_CERT", "OVERSPAN_TLS_KEY"} {
		t.Setenv(name, "") // they are defaults of flags
	}
	a := &app{stdout: io.Discard, stderr: io.Discard}
	var page strings.Builder
	page.WriteString("# ctl\n\nWritten by `make generate` from the commands themselves: `ctl COMMAND --help` says the same.\n")
	describe(&page, a.rootCommand())
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
		t.Errorf("%s is not what the commands say; run: make generate (-page +commands):\n%s", reference, diff)
	}
}

// describe writes of a command what its help says, and then of those below it.
func describe(page *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden {
		return
	}
	if cmd.HasParent() {
		fmt.Fprintf(page, "\n## %s\n", cmd.CommandPath())
	}
	long := cmd.Long
	if long == "" {
		long = cmd.Short
	}
	fmt.Fprintf(page, "\n%s\n", strings.TrimSpace(long))
	if cmd.HasSubCommands() {
		page.WriteString("\n| command | |\n| --- | --- |\n")
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				fmt.Fprintf(page, "| [%s](#%s) | %s |\n", sub.CommandPath(), strings.ReplaceAll(sub.CommandPath(), " ", "-"), sub.Short)
			}
		}
	} else {
		fmt.Fprintf(page, "\n    %s\n", cmd.UseLine())
	}
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(page, "\nAlso called `%s`.\n", strings.Join(cmd.Aliases, "`, `"))
	}
	if cmd.HasParent() {
		describeFlags(page, cmd.LocalFlags())
	} else {
		cmd.InitDefaultVersionFlag()
		page.WriteString("\nIn front of a command:\n")
		describeFlags(page, cmd.LocalNonPersistentFlags())
		page.WriteString("\nOf every command:\n")
		describeFlags(page, cmd.PersistentFlags())
	}
	for _, sub := range cmd.Commands() {
		describe(page, sub)
	}
}

func describeFlags(page *strings.Builder, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	page.WriteString("\n")
	for line := range strings.Lines(flags.FlagUsages()) {
		page.WriteString("    " + strings.TrimRight(line, " \n") + "\n")
	}
}
