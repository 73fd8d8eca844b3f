package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// A Footprint is what a host holds that Overspan could leave behind, as sorted
// lines: links, addresses, routes, permanent neighbours, forwarding entries,
// iptables chains and rules, ipsets, mounts, named namespaces and processes.
type Footprint []string

// footprintCommands print what a Footprint is made of.
var footprintCommands = [][]string{
	{"ip", "-o", "link", "show"},
	{"ip", "-o", "addr", "show"},
	{"ip", "route", "show", "table", "all"},
	{"ip", "-6", "route", "show", "table", "all"},
	{"ip", "rule", "show"},
	{"ip", "neigh", "show", "nud", "permanent"},
	{"bridge", "fdb", "show"},
	{"iptables-save"},
	{"ip6tables-save"},
	{"ipset", "save"},
	{"ip", "netns", "list"},
}

// volatile are parts of the commands' output that change by themselves:
// comments with the time, counters, lifetimes, and the numbers that a namespace
// gives to others once a link has led there. A table that lets all pass is as
// good as none: iptables makes it with the first rule and keeps it. Forwarding
// stays on, and with it the addresses at which the kernel listens as a router.
var volatile = regexp.MustCompile(`^#.*|^anycast .*|^33:33:(?:00:00:00:02|ff:00:00:00) .*|^\*\w+|^COMMIT|^:[A-Z]+ ACCEPT \S+|\(id: \d+\)|\[\d+:\d+\]|expires \d+sec|_lft \d+sec|\bqlen \d+|linkdown ?`)

// footprintScript runs them in one shell, which is much faster than one by one, and
// prints each one's first word before it.
var footprintScript = func() string {
	var script strings.Builder
	for _, words := range footprintCommands {
		fmt.Fprintf(&script, "echo %s%s; %s\n", footprintMark, words[0], shown(words...))
	}
	return script.String()
}()

// footprintMark begins no line of the commands.
const footprintMark = "@"

// Footprint reads what the host holds now.
func (h *Host) Footprint(ctx context.Context) (Footprint, error) {
	var out Footprint
	text, err := h.Exec(ctx, "sh", "-ec", footprintScript)
	if err != nil {
		return nil, err
	}
	command := ""
	for line := range strings.Lines(text) {
		if marked, is := strings.CutPrefix(line, footprintMark); is {
			command = strings.TrimSpace(marked)
			continue
		}
		line = strings.Join(strings.Fields(volatile.ReplaceAllString(line, "")), " ")
		if line != "" {
			out = append(out, command+": "+line)
		}
	}
	mounts, err := h.newMounts()
	if err != nil {
		return nil, err
	}
	processes, err := h.processes()
	if err != nil {
		return nil, err
	}
	out = append(append(out, mounts...), processes...)
	slices.Sort(out)
	return out, nil
}

// A mount is a place where something is mounted. Ids of mounts that are gone
// are given again, so the id alone does not tell two apart.
type mount struct{ id, at string }

// mounts returns what is mounted on the host.
func (h *Host) mounts() (map[mount]struct{}, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.first.PID()))
	if err != nil {
		return nil, err
	}
	out := map[mount]struct{}{}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 { // proc_pid_mountinfo(5)
			out[mount{f[0], f[4]}] = struct{}{}
		}
	}
	return out, nil
}

// newMounts returns what was mounted since the host was booted. The host was
// born with the machine's mounts, and loses those that the machine unmounts.
func (h *Host) newMounts() ([]string, error) {
	mounts, err := h.mounts()
	if err != nil {
		return nil, err
	}
	var out []string
	for m := range mounts {
		// ip-netns(8) makes a mount of its directory when it is first used.
		if _, inborn := h.inborn[m]; !inborn && m.at != netnsDir {
			out = append(out, "mount: "+m.at)
		}
	}
	return out, nil
}

// processes returns the names of the host's processes, by the program that
// they run; those that have ended are none, and those that are called now and
// then, and end by themselves, do not count.
func (h *Host) processes() ([]string, error) {
	dirs, err := filepath.Glob(h.Path("/proc/[0-9]*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, dir := range dirs {
		// No such file: it has ended, or is a thread of the kernel.
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err == nil && !strings.HasPrefix(filepath.Base(exe), "xtables-") {
			out = append(out, "process: "+filepath.Base(exe))
		}
	}
	return out, nil
}

// Diff returns what is in g and not in f with a plus, what is in f and not in
// g with a minus.
func (f Footprint) Diff(g Footprint) []string {
	count := map[string]int{}
	for _, line := range f {
		count[line]--
	}
	for _, line := range g {
		count[line]++
	}
	var out []string
	for line, n := range count {
		for ; n > 0; n-- {
			out = append(out, "+ "+line)
		}
		for ; n < 0; n++ {
			out = append(out, "- "+line)
		}
	}
	slices.Sort(out)
	return out
}

// Footprints returns what every node holds once the agents are in line with
// each other: each sees all others up, its kernel agrees with its plan, and
// what it holds stands still.
func (l *Lab) Footprints(ctx context.Context) (map[*Node]Footprint, error) {
	prints := make([]Footprint, len(l.Nodes))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i, n := range l.Nodes {
		all.Go(func() error {
			return Eventually(ctx, closeWithin, func(ctx context.Context) (err error) {
				if err := n.SeesAll(ctx); err != nil {
					return err
				}
				first, err := n.Footprint(ctx)
				if err != nil {
					return err
				}
				if prints[i], err = n.Footprint(ctx); err != nil {
					return err
				}
				if diff := first.Diff(prints[i]); len(diff) > 0 {
					return fmt.Errorf("%s is still changing: %v", n.Name, diff)
				}
				return nil
			})
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	out := map[*Node]Footprint{}
	for i, n := range l.Nodes {
		out[n] = prints[i]
	}
	return out, nil
}

// SeesAll reports whether the node's agent hears from etcd, sees every node of the lab
// up, and finds nothing to do.
func (n *Node) SeesAll(ctx context.Context) error {
	res, err := n.Ctl(ctx, "node", "ls")
	if err != nil {
		return err
	}
	if err := res.Err(); err != nil {
		return err
	}
	if strings.Contains(res.Stderr, "stale since") {
		return fmt.Errorf("%s hears nothing from etcd: %s", n.Name, res.Stderr)
	}
	list := res.Stdout
	up := map[string]bool{}
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		for _, other := range n.lab.Nodes {
			up[other.Name] = up[other.Name] || slices.Contains(words, other.Name) && slices.Contains(words, "up")
		}
	}
	for name, seen := range up {
		if !seen {
			return fmt.Errorf("%s does not see %s up:\n%s", n.Name, name, list)
		}
	}
	_, err = n.MustCtl(ctx, "verify")
	return err
}
