package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/overspan/overspan/internal/steps"
)

// inFreezeAlone are flights of a frozen cluster, where no node can be removed
// and nothing can be given to another.
var inFreezeAlone = []steps.Flight{steps.Restore, steps.Reshape, steps.Discard}

// TestEveryMomentIsTried: an agent is stopped at each moment that its source
// has, and its source has each moment that there is a name for.
func TestEveryMomentIsTried(t *testing.T) {
	tried := map[steps.Moment]bool{}
	for _, op := range interruptible {
		for _, m := range op.moments {
			tried[m] = true
		}
	}
	used := usedSteps(t, "../store", "../agent")
	for name, step := range namedSteps(t, "../internal/steps/steps.go") {
		if !used[name] {
			t.Errorf("nothing is ever at steps.%s", name)
		}
		for _, m := range step {
			if !tried[m] {
				t.Errorf("no operation is interrupted at %q", m)
			}
		}
	}
}

// namedSteps returns the moments of each constant of package steps: itself, or
// for a flight those around it.
func namedSteps(t *testing.T, path string) map[string][]steps.Moment {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string][]steps.Moment{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, is := n.(*ast.ValueSpec)
		if !is || len(spec.Values) != 1 {
			return true
		}
		kind, isNamed := spec.Type.(*ast.Ident)
		literal, isLiteral := spec.Values[0].(*ast.BasicLit)
		if !isNamed || !isLiteral {
			t.Fatalf("%s: constant %s has no type or no literal value", path, spec.Names[0])
		}
		value, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		f := steps.Flight(value)
		switch {
		case kind.Name == "Moment":
			named[spec.Names[0].Name] = []steps.Moment{steps.Moment(value)}
		case slices.Contains(inFreezeAlone, f):
			named[spec.Names[0].Name] = nil
		default:
			named[spec.Names[0].Name] = []steps.Moment{f.Sending(), f.Answered()}
		}
		return true
	})
	return named
}

// usedSteps returns the names of package steps that the sources below some
// directories use.
func usedSteps(t *testing.T, dirs ...string) map[string]bool {
	t.Helper()
	used := map[string]bool{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if sel, is := n.(*ast.SelectorExpr); is {
					if pkg, is := sel.X.(*ast.Ident); is && pkg.Name == "steps" {
						used[sel.Sel.Name] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return used
}
