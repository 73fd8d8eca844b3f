package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// registerEvery is the pause between two tries to register.
const registerEvery = time.Second

// keepSession registers the node, and again whenever it has lost its
// registration, until ctx ends.
func (d *Daemon) keepSession(ctx context.Context) error {
	for ctx.Err() == nil {
		session, err := d.register(ctx)
		if err != nil {
			return err
		}
		if session == nil {
			return nil
		}
		d.session.set(session)
		d.health.changed.fire()
		wake(d.releases)
		d.log.Info("registered", "node", overspan.ShortID(d.Self()), "registration", session.Registration())
		err = session.Run(ctx)
		d.session.set(nil)
		if err != nil && !errors.Is(err, overspan.ErrFenced) {
			return fmt.Errorf("session: %w", err)
		}
		if err != nil {
			d.log.Warn("registration lost; registering anew", "error", err)
			d.events.publish(Event{Type: "node", Action: "fence", ID: string(d.Self()), Name: d.cfg.NodeName})
		}
	}
	return nil
}

// register opens a session, for as long as that takes. It returns nil if ctx
// ended first, and an error if this agent must not run at all.
func (d *Daemon) register(ctx context.Context) (*store.Session, error) {
	for {
		session, err := d.tryRegister(ctx)
		if err == nil {
			return session, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if !errors.Is(err, overspan.ErrUnavailable) && !errors.Is(err, overspan.ErrConflict) {
			return nil, fmt.Errorf("register: %w", err)
		}
		d.session.fail(err)
		d.log.Warn("cannot register; will try again", "error", err)
		if sleep(ctx, registerEvery) != nil {
			return nil, nil
		}
	}
}

func (d *Daemon) tryRegister(ctx context.Context) (*store.Session, error) {
	node, err := d.describeNode()
	if err != nil {
		// The underlay's address may come later, by DHCP.
		return nil, overspan.Errorf(overspan.ErrUnavailable, "describe this node: %w", err)
	}
	session, err := store.Open(ctx, d.kv, store.Config{
		Cluster:  d.cfg.Cluster,
		Node:     node,
		Presence: d.process,
		Known:    d.known,
		TTL:      d.cfg.TTL,
		Alive:    processAlive,
		Log:      d.log.With("part", "session"),
	})
	if err != nil {
		return nil, err
	}
	d.known = store.Identity{Node: d.Self(), Registration: session.Registration(), Instance: d.process.Instance}
	return session, d.journal.SetRegistration(session.Registration())
}

// describeNode reads what the registration says of this host.
func (d *Daemon) describeNode() (overspan.Node, error) {
	node := overspan.Node{ID: d.Self(), Name: d.cfg.NodeName, Version: overspan.Version}
	for _, spec := range d.cfg.Underlay {
		u, err := d.host.Underlay(spec)
		if err != nil {
			return node, err
		}
		addrs := u.Addrs
		if a, err := netip.ParseAddr(spec); err == nil {
			addrs = []netip.Addr{a}
		}
		for _, a := range addrs {
			if !node.VTEP(overspan.FamilyOf(a)).IsValid() {
				node.VTEPs = append(node.VTEPs, a)
			}
		}
		if node.MTU == 0 || u.MTU < node.MTU {
			node.MTU = u.MTU
		}
	}
	if len(node.VTEPs) == 0 {
		return node, overspan.Errorf(overspan.ErrUnavailable, "no address found on %s: give --advertise-address an address of this host", strings.Join(d.cfg.Underlay, ", "))
	}
	var err error
	node.Routes, err = d.host.HostRoutes()
	return node, err
}

// describeProcess says which run of which agent this is.
func describeProcess() (overspan.Presence, error) {
	p := overspan.Presence{PID: os.Getpid(), Instance: overspan.NewID()}
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return p, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p, err
	}
	p.MachineID, p.BootID = strings.TrimSpace(string(machine)), strings.TrimSpace(string(boot))
	if p.PIDSpace, err = os.Readlink("/proc/self/ns/pid"); err != nil {
		return p, err
	}
	_, p.StartTime, err = processStat(p.PID)
	return p, err
}

// processAlive reports whether the process that a presence names still runs.
// It is only asked about presences of this boot and PID namespace. A zombie does
// not run: a killed agent stays one until its parent asks for it, which may be
// long after the next agent has started.
func processAlive(p overspan.Presence) bool {
	state, start, err := processStat(p.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	return err != nil || start == p.StartTime && state != "Z" && state != "X"
}

// processStat returns a process's state and when it started, in clock ticks
// after boot: fields 3 and 22 of /proc/PID/stat, counted from behind the
// parenthesised command, which may contain anything (proc(5)).
func processStat(pid int) (state string, start uint64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	fields := strings.Fields(string(raw)[strings.LastIndexByte(string(raw), ')')+1:])
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("read /proc/%d/stat: %d fields after the command", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}

// publishNode keeps the registration true: routes, addresses and MTU change
// while the agent runs.
func (d *Daemon) publishNode(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.routes:
		}
		session, err := d.session.get()
		if err != nil {
			continue // a new session registers what is true then
		}
		node, err := d.describeNode()
		if err != nil {
			d.log.Warn("cannot read the underlay; the registration stays as it is", "error", err)
			continue
		}
		s := d.Snapshot()
		if s == nil || s.Nodes[d.Self()] == nil || sameNode(*s.Nodes[d.Self()], node) {
			continue
		}
		if err := session.Update(ctx, node); err != nil {
			d.log.Warn("cannot update the registration", "error", err)
		}
	}
}

func sameNode(a, b overspan.Node) bool {
	return a.Name == b.Name && a.MTU == b.MTU && a.Version == b.Version &&
		slices.Equal(a.VTEPs, b.VTEPs) && slices.Equal(a.Routes, b.Routes)
}
