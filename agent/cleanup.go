package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/agent/dns"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// cleanupRounds bounds how often the kernel is looked at again: a table is seen
// to be empty once its chains are gone.
const cleanupRounds = 4

// netnsConfigDir is where ip-netns(8) looks for files of a namespace's own.
const netnsConfigDir = "/etc/netns"

// cleanup takes everything of ours off this host, while no agent runs: what the
// kernel holds is compared with nothing at all, and with the settings that were
// there before an agent first changed them. It prints each op.
//
// etcd is not asked: the other nodes keep what they know of this one until it
// is removed there.
func cleanup(ctx context.Context, c *config, out io.Writer, log *slog.Logger) (err error) {
	if err := checkPrivilege(); err != nil {
		return err
	}
	if err := refuseBesideAgent(c.Listen); err != nil {
		return err
	}
	dirs := daemon.Config{StateDir: c.StateDir, RunDir: c.RunDir}
	host, err := kernel.NewHost(kernel.HostConfig{NetnsDir: dirs.NetnsDir(), Leaving: true, Logger: log.With("part", "kernel")})
	if err != nil {
		return err
	}
	defer host.Close()
	journal, err := openForCleanup(dirs.JournalPath())
	if err != nil {
		return err
	}
	var found store.Found
	if journal != nil {
		defer closing(&err, journal.Close)
		if found, err = journal.Found(); err != nil {
			return err
		}
	}
	if err := clean(ctx, host, found, out); err != nil {
		return err
	}
	if err := dns.RemoveNetnsFiles(netnsConfigDir); err != nil {
		return err
	}
	removeIfEmpty(dirs.NetnsDir(), c.RunDir, netnsConfigDir)
	if journal == nil {
		return nil
	}
	if err := journal.ForgetFound(); err != nil {
		return err
	}
	if id := journal.Identity(); id.Registration != 0 {
		fmt.Fprintf(out, "etcd may still know this host as node %[1]s; on another node: ctl node rm %[1]s\n", overspan.ShortID(id.Node))
	}
	fmt.Fprintf(out, "%s is kept: an agent that starts with it serves again what it served; to forget that, delete it\n", c.StateDir)
	return nil
}

// refuseBesideAgent returns an error if an agent answers at one of the sockets:
// its journal may be elsewhere than where it is looked for.
func refuseBesideAgent(listen []string) error {
	for _, address := range listen {
		path, unix := strings.CutPrefix(address, "unix://")
		if !unix {
			continue
		}
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return overspan.Errorf(overspan.ErrInUse, "stop the agent first, and give its --state-dir: it answers at %s", path)
		}
	}
	return nil
}

// openForCleanup opens the journal, which fails while an agent runs; nil where
// there never was one.
func openForCleanup(path string) (*store.Journal, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	j, err := store.OpenJournal(path)
	if errors.Is(err, overspan.ErrInUse) {
		return nil, fmt.Errorf("stop the agent first: %w", err)
	}
	return j, err
}

// clean makes the kernel hold nothing of ours.
func clean(ctx context.Context, host *kernel.Host, found store.Found, out io.Writer) error {
	want := kernel.State{Sysctls: found.Sysctls}
	for _, text := range found.Tables {
		family, name, _ := strings.Cut(text, " ")
		want.Tables = insert(want.Tables, kernel.TableKey{Family: overspan.Family(family), Name: name})
	}
	scope := kernel.Scope{All: true, Global: true, Tables: found.Noted, Sysctls: slices.Sorted(maps.Keys(found.Sysctls))}
	for range cleanupRounds {
		have, err := host.Read(ctx, scope)
		if err != nil {
			return err
		}
		want.Sysctls = present(found.Sysctls, have.Sysctls)
		ops := kernel.Diff(have, want)
		if len(ops) == 0 && len(have.Doomed) == 0 {
			return nil
		}
		tellUserRules(out, have)
		for _, op := range ops {
			fmt.Fprintln(out, op)
		}
		if err := errors.Join(host.Apply(ctx, ops), host.Retire(ctx)); err != nil {
			return err
		}
	}
	return overspan.Errorf(overspan.ErrConflict, "something on this host makes anew what is deleted: does another agent run?")
}

func insert[K comparable](set map[K]struct{}, key K) map[K]struct{} {
	if set == nil {
		set = map[K]struct{}{}
	}
	set[key] = struct{}{}
	return set
}

// present leaves out the settings of devices that are gone.
func present(found, have map[string]string) map[string]string {
	out := maps.Clone(found)
	maps.DeleteFunc(out, func(path, _ string) bool {
		_, there := have[path]
		return !there
	})
	return out
}

// tellUserRules prints the user's own rules, which go with their chain.
func tellUserRules(out io.Writer, have kernel.State) {
	for key, chain := range have.Chains {
		for _, r := range chain.Rules {
			if r.Text != "" {
				fmt.Fprintf(out, "a rule of yours goes too: %s table %s: -A %s %s\n", key.Family, key.Table, key.Name, r.Text)
			}
		}
	}
}

// removeIfEmpty removes directories that only sockets and namespaces were in.
func removeIfEmpty(dirs ...string) {
	for _, dir := range dirs {
		// Whatever else somebody keeps there stays.
		_ = os.Remove(dir)
	}
}

// noteFound notes what this host is like before the agent first changes it.
func noteFound(ctx context.Context, host *kernel.Host, journal *store.Journal) error {
	found, err := journal.Found()
	if err != nil || found.Noted {
		return err
	}
	have, err := host.Read(ctx, kernel.Scope{Tables: true})
	if err != nil {
		return err
	}
	var tables []string
	for t := range have.Tables {
		tables = append(tables, t.String())
	}
	slices.Sort(tables)
	return journal.NoteTables(tables)
}
