package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPagesAreUnderstood: whoever types what a page shows gets no error of usage.
// It looks at indented lines, which are to be typed; the reference is generated.
func TestPagesAreUnderstood(t *testing.T) {
	agentFlags, err := os.ReadFile("../docs/reference/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	err = filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || slices.Contains([]string{"reference", "dist", "bin"}, d.Name())) {
			return fs.SkipDir
		}
		if filepath.Ext(p) != ".md" {
			return nil
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, line := range shown(string(raw)) {
			for _, command := range commandsIn(line) {
				program := path.Base(command[0])
				switch program {
				case "ctl":
					if err := understood(command[1:]); err != nil {
						t.Errorf("%s: %s\n%v", p, line, err)
					}
				case "agent":
					for _, word := range command[1:] {
						flag, _, _ := strings.Cut(word, "=")
						if strings.HasPrefix(flag, "--") && !strings.Contains(string(agentFlags), " "+flag+" ") {
							t.Errorf("%s: %s\nthe agent has no flag %s", p, line, flag)
						}
					}
				}
				seen[program]++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen["ctl"] < 40 || seen["agent"] < 3 {
		t.Errorf("the pages seem to show only %d commands of ctl and %d of agent", seen["ctl"], seen["agent"])
	}
}

// understood has ctl parse a command without carrying it out.
func understood(args []string) error {
	root := (&app{stdout: io.Discard, stderr: io.Discard}).rootCommand()
	cmd, rest, err := root.Traverse(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if cmd.HasSubCommands() {
		return errors.New("that is no whole command")
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// shown returns the indented lines of a page, without prompts; one that is broken
// by a backslash is whole.
func shown(page string) []string {
	prompt := regexp.MustCompile(`^([a-z0-9]+# |\$ )`)
	var out []string
	whole := ""
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "    ") {
			whole = ""
			continue
		}
		line = strings.TrimSpace(line)
		if before, broken := strings.CutSuffix(line, `\`); broken {
			whole += before
			continue
		}
		out = append(out, prompt.ReplaceAllString(whole+line, ""))
		whole = ""
	}
	return out
}

// commandsIn splits a line as a shell does, as far as pages go: words, quotes,
// comments, lists, pipes and substitutions. Drawings are none, and what holds an
// ellipsis is no whole command.
func commandsIn(line string) [][]string {
	if strings.ContainsAny(line, "▶→") {
		return nil
	}
	const separators = "&|;()\n"
	var out [][]string
	var command []string
	word, begun, quote := "", false, rune(0)
	endWord := func() {
		// An assignment, a redirection and a word of the shell's come before or
		// beside the command.
		outer := len(command) == 0 && (regexp.MustCompile(`^[A-Z_]+=`).MatchString(word) || slices.Contains([]string{"do", "!", "sudo"}, word))
		if begun && !outer && !strings.HasPrefix(strings.TrimLeft(word, "2"), ">") {
			command = append(command, word)
		}
		word, begun = "", false
	}
	endCommand := func() {
		endWord()
		if len(command) > 0 && !strings.Contains(strings.Join(command, " "), "…") {
			out = append(out, command)
		}
		command = nil
	}
	for i, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == '#' && !begun && i > 0:
			endCommand()
			return out
		case r == ' ':
			endWord()
		case strings.ContainsRune(separators, r):
			endCommand()
		default:
			word, begun = word+string(r), true
		}
	}
	endCommand()
	return out
}
