package overspan_test

import (
	"cmp"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
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
	"agent/daemon/status.go":      {"Status", "report", "snapshotWarnings"},
	"agent/daemon/setup.go":       {"setupWarnings"},
	"agent/reconcile/plan.go":     {"global", "shortcut"},
	"agent/daemon/publisher.go":   {"failures"},
	"agent/daemon/router.go":      {"routerWarnings", "becameRouter"},
	"agent/reconcile/conflict.go": {"fail"},
	"agent/daemon/evict.go":       {"takeOff"},
	"agent/daemon/register.go":    {"session"},
	"agent/dns/settle.go":         {"settle", "settleNetwork"},
	"agent/ports/ledger.go":       {"Retry"},
	"kernel/host_guard.go":        {"lacksGuard", "tryGuards"},
	"kernel/host_support.go":      {"CheckSupport", "tryLinks", "trySets", "tryRules"},
	"kernel/obstacles.go":         nil,
	"kernel/shortcut.go":          {"Shortcut"},
	"overlay/plan.go":             {"local", "holders", "exception"},
	"overlay/shortcut.go":         {"Shortcut"},
	"store/freeze.go":             {"Reports"}, // of what etcd has lost
}

// TestEveryEventIsExplained finds each type and action in the code, and no other
// on the page.
func TestEveryEventIsExplained(t *testing.T) {
	found := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || !within(f.path, "agent/daemon") {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || eventMakers[fn.Name.Name] != "" {
				continue // a maker's action is its callers'
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				event, made := eventMade(n)
				if made && (strings.HasPrefix(event, " ") || strings.HasSuffix(event, " ")) {
					t.Errorf("%s: which event is made here, %q? Say its type and action as literals, or add its maker to this test", f.fset.Position(n.Pos()), event)
				}
				if made {
					found[event] = true
				}
				return true
			})
		}
	}
	if len(found) < 15 {
		t.Fatalf("the code seems to make only these events: %v", found)
	}
	agrees(t, "events", found, rows(t, "Every event", regexp.MustCompile("`([a-z]+ [a-z]+)`")))
}

// eventConstants are names that stand for a type of events.
var eventConstants = map[string]string{"TypeEvents": "events"}

// eventMade returns type and action of the event that an expression makes; what
// cannot be told of them is empty.
func eventMade(n ast.Node) (event string, made bool) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if kind := eventMakers[calledName(n)]; kind != "" && len(n.Args) > 0 {
			return kind + " " + text(n.Args[0]), true
		}
	case *ast.CompositeLit:
		fields := map[string]string{}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok {
					fields[key.Name] = text(kv.Value)
					if name, ok := kv.Value.(*ast.Ident); ok {
						fields[key.Name] = eventConstants[name.Name]
					}
				}
			}
		}
		_, action := fields["Action"]
		named, _ := n.Type.(*ast.Ident)
		if action || named != nil && named.Name == "Event" && len(n.Elts) > 0 {
			return fields["Type"] + " " + fields["Action"], true
		}
	}
	return "", false
}

// rows returns what a pattern finds in the first column of the tables of a section
// of the page.
func rows(t *testing.T, section string, pattern *regexp.Regexp) map[string]bool {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, operations), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", operations, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	out := map[string]bool{}
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range pattern.FindAllStringSubmatch(strings.SplitN(line, "|", 3)[1], -1) {
			out[m[1]] = true
		}
	}
	return out
}

// agrees compares what the code has with what the page explains.
func agrees(t *testing.T, what string, code, page map[string]bool) {
	t.Helper()
	for name := range code {
		if !page[name] {
			t.Errorf("%s does not explain %q, one of the %s", operations, name, what)
		}
	}
	for name := range page {
		if !code[name] {
			t.Errorf("%s explains %q, but the code has no such thing any more among the %s", operations, name, what)
		}
	}
}

// TestEveryStatusLineIsExplained finds each label of ctl status, and no other on
// the page; and the words with which a line says how something is.
func TestEveryStatusLineIsExplained(t *testing.T) {
	labels := map[string]bool{}
	for _, f := range sources(t) {
		if f.path != "ctl/status.go" && f.path != "ctl/cluster.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && calledName(call) == "line" && text(call.Args[0]) != "" {
				labels[text(call.Args[0])] = true
			}
			return true
		})
	}
	if len(labels) < 10 {
		t.Errorf("ctl status seems to have %d labels only", len(labels))
	}
	agrees(t, "lines of ctl status", labels, rows(t, "Every line of ctl status", regexp.MustCompile("`([^`]+)`")))

	page := read(t, operations)
	for file, words := range map[string][]string{
		"ctl/status.go": {"stale since", "unreachable", "unhealthy", "no member known", "not known yet", "none"},
		"ctl/node.go":   {"(draining)", "removing"},
	} {
		source := read(t, file)
		for _, word := range words {
			if !strings.Contains(source, word) {
				t.Errorf("%s does not say %q any more: see to %s and to this test", file, word, operations)
			}
			if !strings.Contains(page, "*"+word+"*") {
				t.Errorf("%s does not explain *%s* in a line of ctl status", operations, word)
			}
		}
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
var warners = []string{"CheckSupport", "Retry", "Warnings", "all", "failures", "report", "routerWarnings", "setupWarnings", "snapshotWarnings"}

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

// TestEveryMetricIsExplained finds each name of a metric, and no other on the page
// or among the alarms.
func TestEveryMetricIsExplained(t *testing.T) {
	name := regexp.MustCompile(`^overspan_[a-z_]+$`)
	code := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || !within(f.path, "agent") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if expr, ok := n.(ast.Expr); ok && name.MatchString(text(expr)) {
				code[text(expr)] = true
			}
			return true
		})
	}
	named := regexp.MustCompile(`\boverspan_[a-z_]+`)
	page := map[string]bool{}
	for _, m := range named.FindAllString(read(t, operations), -1) {
		page[m] = true
	}
	agrees(t, "metrics", code, page)
	for _, m := range named.FindAllString(read(t, alarms), -1) {
		if !code[m] {
			t.Errorf("%s asks for %s, which no agent has", alarms, m)
		}
	}
}

// alarms are what the page has under "Watching", for Prometheus.
const alarms = "deploy/prometheus/overspan.rules.yaml"

// TestEveryAlarmIsARule: each metric that the page calls worth an alarm has one, and
// the file has what Prometheus reads.
func TestEveryAlarmIsARule(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr string
				For         string
				Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(read(t, alarms)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatalf("%s: %v", alarms, err)
	}
	asked := map[string]bool{}
	metric := regexp.MustCompile(`\b(overspan_[a-z_]+|up)\b`)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s: an alarm without a name or a summary: %+v", alarms, r)
			}
			if _, err := time.ParseDuration(cmp.Or(r.For, "0s")); err != nil {
				t.Errorf("%s: %s: %v", alarms, r.Alert, err)
			}
			asked[metric.FindString(r.Expr)] = true
		}
	}
	agrees(t, "alarms", asked, rows(t, "Watching", regexp.MustCompile("`([a-z_]+)`")))
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
