package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// surroundings are what a command finds besides its network: docker's flags for
// variables and the directory. All else of both is ctl's own.
type surroundings struct {
	env, files []string
	dir        string
}

// register adds the flags.
func (s *surroundings) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&s.env, "env", "e", nil, "NAME=VALUE: variable of the command's environment; may be repeated")
	f.StringArrayVar(&s.files, "env-file", nil, "file with a NAME=VALUE in each line; may be repeated")
	f.StringVarP(&s.dir, "workdir", "w", "", "directory that the command starts in (default: this one)")
	cobra.CheckErr(cmd.MarkFlagDirname("workdir"))
}

// variables returns NAME=VALUE of all that is given, the last of a name in force:
// files first, as with docker.
func (s *surroundings) variables() ([]string, error) {
	var out []string
	for _, name := range s.files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, usagef("invalid --env-file: %w", err)
		}
		lines, err := parseEnvFile(raw)
		if err != nil {
			return nil, usagef("invalid --env-file %s: %w", name, err)
		}
		out = append(out, lines...)
	}
	for _, text := range s.env {
		if err := checkVariable(text); err != nil {
			return nil, usagef("invalid --env %q: %w", text, err)
		}
		out = append(out, text)
	}
	// A name alone is ctl's own variable, if there is one: the command has it anyhow.
	return slices.DeleteFunc(out, func(text string) bool { return !strings.Contains(text, "=") }), nil
}

// checkVariable refuses what is neither NAME nor NAME=VALUE.
func checkVariable(text string) error {
	name, _, _ := strings.Cut(text, "=")
	switch {
	case name == "":
		return errors.New("it has no name: want NAME=VALUE")
	case strings.ContainsRune(text, 0):
		return errors.New("a variable cannot hold a byte that is 0")
	}
	return nil
}

// parseEnvFile reads docker's files of variables: a line each, taken as it is, but
// for space before it; empty ones and those that begin with # say nothing.
func parseEnvFile(raw []byte) ([]string, error) {
	var out []string
	number := 0
	for line := range strings.Lines(string(bytes.TrimPrefix(raw, []byte("\ufeff")))) {
		number++
		line = strings.TrimLeftFunc(strings.TrimRight(line, "\r\n"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line, "=")
		err := checkVariable(line)
		switch {
		case err == nil && strings.ContainsFunc(name, unicode.IsSpace):
			err = fmt.Errorf("variable %q contains whitespace", name)
		case err == nil && !utf8.ValidString(line):
			err = errors.New("it is not UTF-8")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		out = append(out, line)
	}
	return out, nil
}

// surround gives this process, which becomes a command or only waits for one, its
// variables and its directory. A program is looked up by what they say.
func surround(variables []string, dir string) error {
	for _, text := range variables {
		name, value, _ := strings.Cut(text, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set variable %s: %w", name, err)
		}
	}
	if dir == "" {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		fmt.Fprintf(os.Stderr, "Error: working directory of the command: %v\n", err)
		return exitCode(exitCannotRun)
	}
	// What a shell says of where it is must not be where ctl was.
	return os.Setenv("PWD", dir)
}
