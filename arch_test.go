package overspan_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/overspan/overspan"

// mayImport says which packages of the module a package may import besides its
// own subpackages: section "packages" of ARCHITECTURE.md as a table. "." is the
// root package. A package has the row of the longest path above it.
var mayImport = map[string][]string{
	".":                 nil,
	"proto/overspan/v1": {"."},
	"ipam":              {"."},
	"kernel":            {"."},
	"bridge":            {".", "kernel"},
	"overlay":           {".", "kernel", "bridge"},
	"store":             {".", "proto/overspan/v1", "internal/steps"},
	"agent/ports":       {"."},
	"agent/await":       nil,
	"agent/local":       {".", "kernel"},
	"agent/reconcile":   {".", "agent/await", "agent/local", "kernel", "bridge", "overlay"},
	"agent/publication": {".", "agent/local", "ipam"},
	"agent/history":     {".", "agent/await", "agent/local", "store"},
	"agent/daemon":      {".", "agent/await", "agent/history", "agent/local", "agent/ports", "agent/publication", "agent/reconcile", "internal/steps", "ipam", "kernel", "bridge", "overlay", "store"},
	"agent/api":         {".", "proto/overspan/v1", "ipam", "agent/daemon"},
	"agent/dns":         {"."},
	"agent":             {".", "proto/overspan/v1", "ipam", "kernel", "bridge", "overlay", "store"},
	"ctl":               {".", "proto/overspan/v1", "internal/minihost"},
	"deploy":            {"."},
	"e2e":               {".", "proto/overspan/v1", "internal/minihost", "internal/steps", "ipam", "kernel", "bridge", "overlay", "store", "agent", "agent/daemon", "ctl"},
	"internal/nstest":   {".", "kernel"},
	"internal/golden":   nil,
	"internal/twonodes": {"."},
	"internal/mutation": nil,
	"internal/figures":  nil,
	"internal/minihost": nil,
	"internal/steps":    nil,
}

// onlyIn says where packages from elsewhere may be imported, tests included:
// what reaches the kernel and etcd stays in one place.
var onlyIn = map[string][]string{
	"github.com/vishvananda/netlink": {"kernel", "e2e"},
	"github.com/vishvananda/netns":   {"kernel", "e2e"},
	"github.com/coreos/go-iptables":  {"kernel"},
	"github.com/cilium/ebpf":         {"kernel"},
	"go.etcd.io/etcd":                {"store", "e2e"},
	"go.etcd.io/bbolt":               {"store"},
	"github.com/miekg/dns":           {"agent/dns", "e2e"},
	"github.com/spf13/cobra":         {"agent", "ctl"},
	"testing/synctest":               {},                    // with the race detector it can crash the test
	module + "/internal/nstest":      {"bridge", "overlay"}, // for tests
	module + "/internal/golden":      {"bridge", "overlay"},
	module + "/internal/twonodes":    {"agent"},
	module + "/internal/mutation":    {"kernel", "e2e"},
}

// neverIn lists what pure packages do not import, tests excepted: planners and
// decisions use no clock, randomness, environment or I/O.
var neverIn = map[string][]string{
	"ipam":    {"os", "net", "os/exec", "crypto/rand"},
	"bridge":  {"os", "net", "os/exec", "time", "math/rand", "math/rand/v2", "crypto/rand", "log/slog", "context"},
	"overlay": {"os", "net", "os/exec", "time", "math/rand", "math/rand/v2", "crypto/rand", "log/slog", "context"},

	"agent/publication": {"os", "net", "os/exec", "time", "math/rand", "math/rand/v2", "crypto/rand", "log/slog", "context"},
}

func TestImports(t *testing.T) {
	for _, f := range sources(t) {
		dir := path.Dir(f.path)
		row, known := rowOf(dir)
		if !known {
			t.Errorf("%s: package %s has no row in mayImport", f.path, dir)
			continue
		}
		for _, spec := range f.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", f.path, err)
			}
			checkImport(t, f, row, imported)
		}
	}
}

func checkImport(t *testing.T, f source, row, imported string) {
	t.Helper()
	for pattern, places := range onlyIn {
		if within(imported, pattern) && !slices.ContainsFunc(places, func(p string) bool { return within(row, p) }) {
			t.Errorf("%s imports %s, which only %v may", f.path, imported, places)
		}
	}
	if f.test {
		return
	}
	if slices.Contains(neverIn[row], imported) {
		t.Errorf("%s imports %s: %s is pure", f.path, imported, row)
	}
	if row == "." && strings.Contains(strings.Split(imported, "/")[0], ".") {
		t.Errorf("%s imports %s: the root package imports the standard library only", f.path, imported)
	}
	if !within(imported, module) {
		return
	}
	target, _ := rowOf(strings.TrimPrefix(strings.TrimPrefix(imported, module), "/"))
	if target != row && !slices.Contains(mayImport[row], target) && !within(target, row) {
		t.Errorf("%s imports %s: %s may import %v", f.path, imported, row, mayImport[row])
	}
}

// rowOf returns the row of mayImport that rules over a package.
func rowOf(dir string) (string, bool) {
	if dir == "" || dir == "." {
		return ".", true
	}
	best := ""
	for row := range mayImport {
		if within(dir, row) && len(row) > len(best) {
			best = row
		}
	}
	return best, best != ""
}

// within reports whether p is root or lies below it.
func within(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

// A source is a Go file of the module.
type source struct {
	path      string // below the module's root, with slashes
	lines     int
	test      bool
	generated bool
	fset      *token.FileSet
	ast       *ast.File
}

// sources returns every Go file of the module, which nobody may change.
func sources(t *testing.T) []source {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parsed parses every Go file of the module, once for all tests.
var parsed = sync.OnceValues(func() ([]source, error) {
	all, err := walk()
	if err != nil {
		return nil, err
	}
	var out []source
	for _, p := range all {
		if !strings.HasSuffix(p, ".go") {
			continue
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		s := source{path: filepath.ToSlash(p), test: strings.HasSuffix(p, "_test.go"), fset: token.NewFileSet()}
		if s.ast, err = parser.ParseFile(s.fset, p, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		s.generated = ast.IsGenerated(s.ast)
		s.lines = strings.Count(string(text), "\n")
		out = append(out, s)
	}
	return out, nil
})

// files lists the repository's files, without what is built or kept by git.
func files(t *testing.T) []string {
	t.Helper()
	out, err := walk()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func walk() (out []string, err error) {
	err = filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (p == ".git" || p == "bin" || p == "dist"):
			return fs.SkipDir
		case d.Type().IsRegular():
			out = append(out, p)
		}
		return nil
	})
	return out, err
}
