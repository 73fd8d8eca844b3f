package overspan_test

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// operations is the page that tells an operator what everything means.
const operations = "docs/operations.md"

// eventMakers are functions that make an event, by its type; the action is their
// first argument.
var eventMakers = map[string]string{
	"attachmentEvent": "endpoint",
	"endpointEvent":   "endpoint",
	"networkEvent":    "network",
	"nodeEvent":       "node",
	"sandboxEvent":    "sandbox",
}

// warnings says which functions word the warnings of a status; all of a file
// where none is named. What they only pass on is worded elsewhere.
var warnings = map[string][]string{
	"agent/daemon/status.go":    {"Status", "snapshotWarnings"},
	"agent/daemon/plan.go":      {"global", "shortcut"},
	"agent/daemon/publisher.go": {"failures"},
	"agent/daemon/router.go":    {"routerWarnings", "becameRouter"},
	"agent/daemon/conflict.go":  {"fail"},
	"agent/daemon/evict.go":     {"takeOff"},
	"agent/dns/server.go":       {"settle", "settleDoors"},
	"agent/ports/ledger.go":     {"Retry"},
	"kernel/host_guard.go":      {"lacksGuard"},
	"kernel/host_support.go":    {"CheckSupport", "tryLinks", "trySets", "tryRules"},
	"kernel/obstacles.go":       nil,
	"kernel/shortcut.go":        {"Shortcut"},
	"overlay/plan.go":           {"local", "holders", "exception"},
	"overlay/shortcut.go":       {"Shortcut"},
}

// TestEveryEventIsExplained finds each type and action in the code.
func TestEveryEventIsExplained(t *testing.T) {
	page := read(t, operations)
	found := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || !within(f.path, "agent/daemon") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if event := eventMade(n); event != "" {
				found[event] = true
			}
			return true
		})
	}
	if len(found) < 15 {
		t.Fatalf("the code seems to make only these events: %v", found)
	}
	for event := range found {
		if !strings.Contains(page, "`"+event+"`") {
			t.Errorf("%s does not explain the event %q", operations, event)
		}
	}
}

// eventMade returns type and action of the event that an expression makes, or
// "". An action that is a variable is one that a function was given.
func eventMade(n ast.Node) string {
	switch n := n.(type) {
	case *ast.CallExpr:
		if kind := eventMakers[calledName(n)]; kind != "" && len(n.Args) > 0 && text(n.Args[0]) != "" {
			return kind + " " + text(n.Args[0])
		}
	case *ast.CompositeLit:
		fields := map[string]string{}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok {
					fields[key.Name] = text(kv.Value)
				}
			}
		}
		if fields["Type"] != "" && fields["Action"] != "" {
			return fields["Type"] + " " + fields["Action"]
		}
	}
	return ""
}

// TestEveryStatusLineIsExplained finds each label of ctl status.
func TestEveryStatusLineIsExplained(t *testing.T) {
	page := read(t, operations)
	labels := 0
	for _, f := range sources(t) {
		if f.path != "ctl/status.go" && f.path != "ctl/cluster.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || calledName(call) != "line" || text(call.Args[0]) == "" {
				return true
			}
			labels++
			if label := text(call.Args[0]); !strings.Contains(page, "| `"+label+"` |") {
				t.Errorf("%s does not explain the line %q of ctl status", operations, label)
			}
			return true
		})
	}
	if labels < 10 {
		t.Errorf("ctl status seems to have %d labels only", labels)
	}
}

// TestEveryWarningIsExplained finds the wording of each warning, but for the words
// that vary.
func TestEveryWarningIsExplained(t *testing.T) {
	page := read(t, operations)
	for _, f := range sources(t) {
		functions, looked := warnings[f.path]
		if !looked {
			continue
		}
		for _, name := range functions {
			if !slices.ContainsFunc(f.ast.Decls, func(d ast.Decl) bool { fn, ok := d.(*ast.FuncDecl); return ok && fn.Name.Name == name }) {
				t.Errorf("%s has no function %s any more: where are its warnings worded now?", f.path, name)
			}
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || functions != nil && !slices.Contains(functions, fn.Name.Name) {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, calledName(call)) {
					return false // for the log
				}
				if wording := worded(n); len(wording) > 0 && !slices.ContainsFunc(wording, func(w string) bool { return strings.Contains(page, w) }) {
					t.Errorf("%s does not explain %q (%s)", operations, wording, f.fset.Position(n.Pos()))
				}
				return true
			})
		}
	}
}

// warners are what a status asks for warnings; the words of each are in one of
// the functions above.
var warners = []string{"CheckSupport", "Retry", "Warnings", "all", "failures", "routerWarnings", "snapshotWarnings"}

// TestEverySourceOfWarningsIsLookedAt: who adds a source to the status says here
// where its words are.
func TestEverySourceOfWarningsIsLookedAt(t *testing.T) {
	for _, f := range sources(t) {
		if f.path != "agent/daemon/status.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || calledName(call) != "append" || !call.Ellipsis.IsValid() {
				return true
			}
			if source, ok := call.Args[1].(*ast.CallExpr); ok && !slices.Contains(warners, calledName(source)) {
				t.Errorf("%s: where are the warnings of %s worded? Add it to the tables of this test", f.fset.Position(n.Pos()), calledName(source))
			}
			return true
		})
	}
}

// verb is a place in a format where words vary.
var verb = regexp.MustCompile(`%[a-z]`)

// worded returns the pieces of a sentence that do not vary and by which it is
// found; nothing of what is no sentence, such as a rule.
func worded(n ast.Node) []string {
	expr, ok := n.(ast.Expr)
	if !ok || strings.Contains(text(expr), "-m ") || strings.Contains(text(expr), "-j ") || strings.Contains(text(expr), "-P ") {
		return nil
	}
	var out []string
	for _, piece := range verb.Split(text(expr), -1) {
		piece = strings.TrimLeft(strings.TrimRight(piece, " :;,("), " :;,)")
		if strings.Count(piece, " ") >= 2 {
			out = append(out, piece)
		}
	}
	return out
}

// TestEveryMetricIsExplained finds each name of a metric.
func TestEveryMetricIsExplained(t *testing.T) {
	page := read(t, operations)
	name := regexp.MustCompile(`^overspan_[a-z_]+$`)
	for _, f := range sources(t) {
		if f.test || !within(f.path, "agent") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if expr, ok := n.(ast.Expr); ok && name.MatchString(text(expr)) && !strings.Contains(page, "`"+text(expr)+"`") {
				t.Errorf("%s does not explain %s", operations, text(expr))
			}
			return true
		})
	}
}

// TestLinksLead: every relative link of a page leads to a file.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	for _, p := range files(t) {
		if filepath.Ext(p) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(read(t, p), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), m[1])); err != nil {
				t.Errorf("%s: a link leads to %s: %v", p, m[1], err)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// calledName returns the name of the function or method that is called.
func calledName(call *ast.CallExpr) string {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		return fn.Sel.Name
	}
	return ""
}

// text returns what a string literal says, "" of anything else.
func text(expr ast.Expr) string {
	lit, ok := expr.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}
