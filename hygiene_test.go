package overspan_test

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines = 500
	maxFuncLines = 60  // of what is not a test: more is not seen at once
	maxMainLines = 150 // of agent/main.go: it parses, builds and runs
)

func TestFilesAreShort(t *testing.T) {
	for _, f := range sources(t) {
		limit := maxFileLines
		if f.path == "agent/main.go" {
			limit = maxMainLines
		}
		if !f.generated && f.lines > limit {
			t.Errorf("%s has %d lines; at most %d", f.path, f.lines, limit)
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || f.generated {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines; at most %d", f.fset.Position(fn.Pos()), fn.Name.Name, n, maxFuncLines)
			}
		}
	}
}

// TestPackagesAreNamedForWhatTheyProvide refuses names that say nothing.
func TestPackagesAreNamedForWhatTheyProvide(t *testing.T) {
	empty := []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared", "base", "manager"}
	for _, f := range sources(t) {
		if name := strings.TrimSuffix(f.ast.Name.Name, "_test"); slices.Contains(empty, name) {
			t.Errorf("%s: package %s: name it for what it provides", f.path, name)
		}
	}
}

// TestNothingSleeps: code waits for a condition with a deadline, never for time
// to pass.
func TestNothingSleeps(t *testing.T) {
	for _, f := range sources(t) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || call.Sel.Name != "Sleep" {
				return true
			}
			if pkg, ok := call.X.(*ast.Ident); ok && pkg.Name == "time" {
				t.Errorf("%s: time.Sleep: wait for a condition", f.fset.Position(n.Pos()))
			}
			return true
		})
	}
}

// TestNothingHappensAtImport: what a program needs is built in its main.
func TestNothingHappensAtImport(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init: build it in main and pass it", f.fset.Position(fn.Pos()))
			}
		}
	}
}

// TestEveryPackageSaysWhatItIs: one file of each package begins with its story.
// A package that generated code began is told in its sources.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	told, generated := make(map[string]int), make(map[string]bool)
	for _, f := range sources(t) {
		dir := filepath.Dir(f.path)
		switch {
		case f.generated:
			generated[dir] = true
		case f.test:
		case f.ast.Doc != nil:
			told[dir]++
		default:
			told[dir] += 0
		}
	}
	for dir, n := range told {
		if n != 1 && !generated[dir] {
			t.Errorf("package %s has %d package comments; want one", dir, n)
		}
	}
}

// TestNoMachineIsNamed: the tree works wherever it is checked out.
func TestNoMachineIsNamed(t *testing.T) {
	// Put together here, so that this file does not name them itself.
	private := [][]byte{[]byte("/" + "work/"), []byte("/" + "root/"), []byte("/" + "home/")}
	for _, p := range files(t) {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range private {
			if bytes.Contains(text, word) {
				t.Errorf("%s names %s", p, word)
			}
		}
	}
}
