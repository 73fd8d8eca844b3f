package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/overspan/overspan"
	"golang.org/x/sync/errgroup"
)

// chainPrefix begins the name of every chain of ours.
const chainPrefix = "OVERSPAN-"

// ruleTables are the tables that chains of ours may be in.
func ruleTables() []string { return []string{"filter", "nat", "raw"} }

// A ruleTool is iptables or ip6tables, legacy or nft, whichever the host's
// administrator made the default.
type ruleTool struct {
	family        overspan.Family
	tables        *iptables.IPTables
	save, restore string // programs
}

// findRuleTools probes the tools of both families. One that is missing is
// logged and left out: its family then has no rules.
func findRuleTools(log *slog.Logger) map[overspan.Family]*ruleTool {
	tools := map[overspan.Family]*ruleTool{}
	for family, proto := range map[overspan.Family]iptables.Protocol{
		overspan.IPv4: iptables.ProtocolIPv4,
		overspan.IPv6: iptables.ProtocolIPv6,
	} {
		tool, err := findRuleTool(family, proto)
		if err != nil {
			log.Warn("no packet filter rules", "family", family, "error", err)
			continue
		}
		tools[family] = tool
	}
	return tools
}

func findRuleTool(family overspan.Family, proto iptables.Protocol) (*ruleTool, error) {
	name := "iptables"
	if family == overspan.IPv6 {
		name = "ip6tables"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	// The three programs are from one package: never mix legacy and nft.
	dir := filepath.Dir(path)
	t := &ruleTool{family: family, save: filepath.Join(dir, name+"-save"), restore: filepath.Join(dir, name+"-restore")}
	for _, p := range []string{t.save, t.restore} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, err
		}
	}
	t.tables, err = iptables.New(iptables.IPFamily(proto), iptables.Path(path))
	return t, err
}

// A savedTable is what iptables-save prints of one table.
type savedTable struct {
	builtin  []string            // its built-in chains
	policies map[string]string   // of these
	chains   []string            // all others
	rules    map[string][]string // by chain, each without "-A CHAIN "
}

// readChains reads our chains of all tables and families. All tables of a family
// come by one call: naming one makes the legacy tools load it.
func (h *Host) readChains(ctx context.Context) (map[ChainKey]Chain, error) {
	chains := map[ChainKey]Chain{}
	var errs []error
	for family, tool := range h.rules {
		out, err := h.run(ctx, nil, tool.save)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s rules: %w", family, err))
			continue
		}
		tables := parseTables(string(out))
		for _, name := range ruleTables() {
			t := tables[name]
			for _, chain := range t.chains {
				if strings.HasPrefix(chain, chainPrefix) {
					chains[ChainKey{Family: family, Table: name, Name: chain}] = t.chain(chain)
				}
			}
		}
	}
	return chains, errors.Join(errs...)
}

// listedAtOnce is how many chains are listed at the same time: each takes a process.
const listedAtOnce = 4

// readSingleChains reads some chains each by itself, which takes the same time
// however many others there are.
func (h *Host) readSingleChains(keys []ChainKey) (map[ChainKey]Chain, error) {
	found, errs := make([]*Chain, len(keys)), make([]error, len(keys))
	var lists errgroup.Group
	lists.SetLimit(listedAtOnce)
	for i, key := range keys {
		lists.Go(func() error {
			errs[i] = h.withTool(key.Family, func(tool *ruleTool) (err error) {
				found[i], err = h.readSingleChain(tool, key)
				return err
			})
			return nil
		})
	}
	err := lists.Wait()
	chains := map[ChainKey]Chain{}
	for i, chain := range found {
		if chain != nil {
			chains[keys[i]] = *chain
		}
	}
	return chains, errors.Join(err, errors.Join(errs...))
}

// readSingleChain reads a chain without what jumps to it; nil if there is none.
func (h *Host) readSingleChain(tool *ruleTool, key ChainKey) (*Chain, error) {
	lines, err := h.list(tool, key)
	if lines == nil || err != nil {
		return nil, err
	}
	t := savedTable{rules: map[string][]string{}}
	for _, line := range lines {
		if spec, ok := strings.CutPrefix(line, "-A "+key.Name+" "); ok {
			t.rules[key.Name] = append(t.rules[key.Name], spec)
		}
	}
	chain := t.chain(key.Name)
	return &chain, nil
}

// list returns a chain as iptables -S prints it; nil if there is none.
func (h *Host) list(tool *ruleTool, key ChainKey) (lines []string, err error) {
	err = do(h.ns, func() error {
		lines, err = tool.tables.List(key.Table, key.Name)
		return err
	})
	var refused *iptables.Error
	// The nft variant says of a missing chain that it is incompatible. One that
	// really is, since somebody has put there what iptables cannot show, is
	// loaded anew all the same.
	if errors.As(err, &refused) && (refused.IsNotExist() || strings.Contains(refused.Error(), "is incompatible")) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read chain %s: %w", key, err)
	}
	return lines, nil
}

func (h *Host) readTable(ctx context.Context, tool *ruleTool, name string) (savedTable, error) {
	out, err := h.run(ctx, nil, tool.save, "-t", name)
	if err != nil {
		return savedTable{}, fmt.Errorf("read %s table %s: %w", tool.family, name, err)
	}
	return parseTables(string(out))[name], nil
}

// parseTables reads the output of iptables-save.
func parseTables(text string) map[string]savedTable {
	tables := map[string]savedTable{}
	current := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			current = name
			continue
		}
		t := tables[current]
		if decl, ok := strings.CutPrefix(line, ":"); ok {
			name, policy, _ := strings.Cut(decl, " ")
			if strings.HasPrefix(policy, "-") {
				t.chains = append(t.chains, name)
			} else {
				t.builtin = append(t.builtin, name)
				verdict, _, _ := strings.Cut(policy, " ")
				put(&t.policies, name, verdict)
			}
		} else if rule, ok := strings.CutPrefix(line, "-A "); ok {
			name, spec, _ := strings.Cut(rule, " ")
			put(&t.rules, name, append(t.rules[name], spec))
		}
		tables[current] = t
	}
	return tables
}

var ruleComment = regexp.MustCompile(`--comment "?` + rulePrefix + `([0-9a-f]+)"?`)

// quoted matches a comment or the like, which may hold anything.
var quoted = regexp.MustCompile(`"(?:\\.|[^"\\])*"`)

// chain returns a chain of ours. Its hook is the built-in chain that jumps to
// it before any rule of others, if that is the only jump there is from built-in
// chains. Several chains of ours may share a hook: their jumps stand together.
func (t savedTable) chain(name string) Chain {
	var c Chain
	jumps := 0
	for _, hook := range t.builtin {
		first := true
		for _, spec := range t.rules[hook] {
			if isJump(spec, name) {
				jumps++
				if first {
					c.Hook = hook
				}
			}
			first = first && strings.HasPrefix(spec, "-j "+chainPrefix)
		}
	}
	if jumps != 1 {
		c.Hook = ""
	}
	for _, spec := range t.rules[name] {
		if m := ruleComment.FindStringSubmatch(spec); m != nil {
			c.Rules = append(c.Rules, Rule{Hash: m[1], Flow: parseFlow(spec)})
		} else {
			c.Rules = append(c.Rules, Rule{Text: spec})
		}
	}
	return c
}

// isJump reports whether a rule jumps to a chain, whatever it matches.
func isJump(spec, chain string) bool {
	words := strings.Fields(quoted.ReplaceAllString(spec, "TEXT"))
	for i, w := range words[:max(0, len(words)-1)] {
		if (w == "-j" || w == "-g") && words[i+1] == chain {
			return true
		}
	}
	return false
}

// applyRules carries out the ops on chains. A family whose tools are missing
// has no rules: NewHost has said so.
func (h *Host) applyRules(ctx context.Context, op Op) error {
	switch o := op.(type) {
	case AddChain:
		return h.withTool(o.Key.Family, func(tool *ruleTool) error { return h.addChain(tool, o.Key) })
	case DelChains:
		return h.withTool(o.Family, func(tool *ruleTool) error { return h.delChains(ctx, tool, o) })
	}
	return fmt.Errorf("%T is no op on chains", op)
}

func (h *Host) withTool(family overspan.Family, f func(*ruleTool) error) error {
	if tool, ok := h.rules[family]; ok {
		return f(tool)
	}
	return nil
}

func (h *Host) addChain(tool *ruleTool, key ChainKey) error {
	return do(h.ns, func() error {
		if ok, err := tool.tables.ChainExists(key.Table, key.Name); ok || err != nil {
			return err
		}
		return tool.tables.NewChain(key.Table, key.Name)
	})
}

// setTable loads chains of one table and sets jumps to them, all in one atomic
// step. Of the chains concerned it deletes every jump from built-in chains, and
// makes those the first rules that are wanted.
func (h *Host) setTable(ctx context.Context, tool *ruleTool, name string, ops []Op) error {
	var lines []string
	if o, ok := ops[0].(LoadChains); ok {
		lines, ops = o.lines(), ops[1:]
	}
	if len(ops) == 0 {
		return h.restoreLines(ctx, tool, name, lines)
	}
	t, err := h.readTable(ctx, tool, name)
	if err != nil {
		return err
	}
	var unlink, link []string
	for _, op := range ops {
		switch o := op.(type) {
		case AddJump:
			unlink = append(unlink, t.deleteJumps(o.Key.Name, t.builtin)...)
			link = append(link, fmt.Sprintf("-I %s 1 -j %s", o.Hook, o.Key.Name))
		case DelJump:
			unlink = append(unlink, t.deleteJumps(o.Key.Name, t.builtin)...)
		}
	}
	return h.restoreLines(ctx, tool, name, slices.Concat(lines, unlink, link))
}

// delChains deletes chains of ours, and before them what still refers to them.
func (h *Host) delChains(ctx context.Context, tool *ruleTool, o DelChains) error {
	t, err := h.readTable(ctx, tool, o.Table)
	if err != nil {
		return err
	}
	var unlink, flush, remove []string
	others := slices.Concat(t.builtin, t.chains)
	others = slices.DeleteFunc(others, func(c string) bool { return slices.Contains(o.Names, c) })
	for _, name := range o.Names {
		if !slices.Contains(t.chains, name) {
			continue
		}
		unlink = append(unlink, t.deleteJumps(name, others)...)
		flush = append(flush, "-F "+name)
		remove = append(remove, "-X "+name)
	}
	return h.restoreLines(ctx, tool, o.Table, slices.Concat(unlink, flush, remove))
}

// deleteJumps returns the commands that delete all jumps to a chain from
// others.
func (t savedTable) deleteJumps(name string, from []string) []string {
	var lines []string
	for _, chain := range from {
		for _, spec := range t.rules[chain] {
			if isJump(spec, name) {
				lines = append(lines, "-D "+chain+" "+spec)
			}
		}
	}
	return lines
}

func (h *Host) restoreLines(ctx context.Context, tool *ruleTool, table string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	return h.restore(ctx, tool, renderTable(table, lines))
}

// restore changes a table in one atomic step; what the text does not name stays
// as it is. It waits for others who hold the lock of the legacy tools.
func (h *Host) restore(ctx context.Context, tool *ruleTool, text string) error {
	h.changes.begin()
	before := h.generation()
	after := before // what fails changes nothing
	_, err := h.run(ctx, []byte(text), tool.restore, "--noflush", "-w")
	if err == nil {
		after = h.generation()
	}
	h.changes.end(before, after)
	return err
}

// run executes a program in the host's namespace and returns its output.
func (h *Host) run(ctx context.Context, input []byte, program string, args ...string) ([]byte, error) {
	var out, errOut bytes.Buffer
	err := do(h.ns, func() error {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errOut
		return cmd.Run()
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.Bytes(), nil
}
