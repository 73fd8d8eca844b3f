package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

const (
	network   = "demo"
	inside    = "eth0" // of a sandbox
	perHost   = 2
	pingPause = 500 // packets before and after the restart
)

// A story is the demo under way.
type story struct {
	*lab.Lab
	out     io.Writer
	step    int
	packets uint64 // sent so far
	boxes   []*lab.Sandbox
	before  map[*lab.Node]lab.Footprint // before the network was made
}

// tell goes through all steps; the first that fails ends it.
func (s *story) tell(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.hosts, s.network, s.sandboxes, s.mesh, s.kernel, s.restart, s.verify, s.remove,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// title begins a step.
func (s *story) title(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.out, "\n\033[1m%d. %s\033[0m\n", s.step, fmt.Sprintf(format, args...))
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "   %s\n", fmt.Sprintf(format, args...))
}

// typed shows a command behind the prompt of its host.
func (s *story) typed(n *lab.Node, words ...string) {
	fmt.Fprintf(s.out, "   %s# %s\n", n.Name, strings.Join(words, " "))
}

// printed shows what a command printed.
func (s *story) printed(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.out, "   %s\n", strings.TrimRight(line, " \n"))
	}
}

// ctl types a command of ctl, and shows and returns what it prints.
func (s *story) ctl(ctx context.Context, n *lab.Node, args ...string) (string, error) {
	s.typed(n, append([]string{"ctl"}, args...)...)
	out, err := n.MustCtl(ctx, args...)
	s.printed(out)
	return out, err
}

// glance is how many lines are shown of a listing that goes on alike.
const glance = 18

// exec types a command of the system and shows the beginning of its output.
func (s *story) exec(ctx context.Context, n *lab.Node, words ...string) error {
	s.typed(n, words...)
	out, err := n.Exec(ctx, words[0], words[1:]...)
	lines := slices.Collect(strings.Lines(out))
	s.printed(strings.Join(lines[:min(glance, len(lines))], ""))
	if more := len(lines) - glance; more > 0 {
		s.say("… and %d more like these", more)
	}
	return err
}

func (s *story) hosts(ctx context.Context) error {
	s.title("Three hosts on one underlay segment, an agent on each; etcd runs inside the first")
	for _, n := range s.Nodes {
		s.say("%s has %s on the underlay", n.Name, n.Addrs[0])
	}
	for _, n := range s.Nodes {
		s.typed(n, shortArgs(n.AgentArgs())...)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		return err
	}
	var err error
	if s.before, err = s.Footprints(ctx); err != nil {
		return err
	}
	_, err = s.ctl(ctx, s.Nodes[0], "node", "ls")
	return err
}

// shortArgs leaves out the flags that only the lab needs.
func shortArgs(args []string) []string {
	var out []string
	keep := []string{"agent", "--node-name", "--advertise-address", "--embedded-etcd", "--etcd-endpoints"}
	for i, arg := range args {
		isFlag := strings.HasPrefix(arg, "--")
		if slices.Contains(keep, arg) || !isFlag && i > 0 && slices.Contains(keep, args[i-1]) {
			out = append(out, arg)
		}
	}
	return out
}

func (s *story) network(ctx context.Context) error {
	s.title("A network is made on one host and is there on all")
	if _, err := s.ctl(ctx, s.Nodes[0], "network", "create", "-d", "overlay", network); err != nil {
		return err
	}
	for _, n := range s.Nodes {
		out, err := s.ctl(ctx, n, "network", "ls")
		if err != nil {
			return err
		}
		if !strings.Contains(out, network) {
			return fmt.Errorf("%s does not list network %s", n.Name, network)
		}
	}
	return nil
}

func (s *story) sandboxes(ctx context.Context) error {
	s.title("Sandboxes on each host are plugged in; containers and processes are as good")
	for i := range perHost * len(s.Nodes) {
		n := s.Nodes[i/perHost]
		name := fmt.Sprintf("web%d", i+1)
		if _, err := s.ctl(ctx, n, "sandbox", "create", name); err != nil {
			return err
		}
		if _, err := s.ctl(ctx, n, "network", "connect", network, name); err != nil {
			return err
		}
		path, err := n.MustCtl(ctx, "sandbox", "inspect", "--format", "{{.Netns}}", name)
		if err != nil {
			return err
		}
		box, err := n.OpenSandbox(name, path)
		if err != nil {
			return err
		}
		s.boxes = append(s.boxes, box)
	}
	if _, err := s.ctl(ctx, s.Nodes[2], "endpoint", "ls"); err != nil {
		return err
	}
	_, err := s.ctl(ctx, s.Nodes[2], "ipam", "ls")
	return err
}

func (s *story) mesh(ctx context.Context) error {
	s.title("Every sandbox reaches every other one, from the first packet on")
	last := s.boxes[len(s.boxes)-1]
	addr, err := onlyAddr(last)
	if err != nil {
		return err
	}
	if _, err := s.ctl(ctx, s.Nodes[0], "exec", s.boxes[0].Name, "--", "ping", "-c", "1", addr.String()); err != nil {
		return err
	}
	s.packets++
	sent, lost, err := lab.Mesh(s.boxes, inside)
	if err != nil {
		return err
	}
	s.packets += uint64(sent)
	s.say("then one packet for each pair, all at once: %d sent, %d lost", sent, len(lost))
	if len(lost) > 0 {
		return fmt.Errorf("these packets were lost: %v", lost)
	}
	return nil
}

// onlyAddr returns a sandbox's address.
func onlyAddr(box *lab.Sandbox) (netip.Addr, error) {
	addrs, err := box.Addrs(inside)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) != 1 {
		return netip.Addr{}, fmt.Errorf("sandbox %s has the addresses %v; want one", box.Name, addrs)
	}
	return addrs[0], nil
}

func (s *story) kernel(ctx context.Context) error {
	s.title("What the kernel of h1 holds: whole blocks of the other hosts, nothing learned")
	n := s.Nodes[0]
	out, err := n.Exec(ctx, "ip", "-o", "link", "show", "type", "vxlan")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(out, ": ")
	dev, _, found := strings.Cut(rest, ":")
	if !found {
		return fmt.Errorf("%s has no VXLAN device", n.Name)
	}
	for _, words := range [][]string{
		{"ip", "-4", "neigh", "show", "dev", dev},
		{"bridge", "fdb", "show", "dev", dev},
	} {
		if err := s.exec(ctx, n, words...); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) restart(ctx context.Context) error {
	s.title("An agent is killed and started again under a 1 kHz ping in both directions")
	n := s.Nodes[1]
	near, far := s.boxes[0], s.boxes[perHost]
	var pingers []*lab.Pinger
	for _, way := range [][2]*lab.Sandbox{{near, far}, {far, near}} {
		to, err := onlyAddr(way[1])
		if err != nil {
			return err
		}
		p, err := way[0].StartPing(to)
		if err != nil {
			return err
		}
		pingers = append(pingers, p)
	}
	err := s.killUnderPing(ctx, n, pingers[0])
	for i, p := range pingers {
		sent, lost, pingErr := p.Stop(ctx)
		err = errors.Join(err, pingErr)
		s.packets += sent
		s.say("%s: %d packets sent, %d lost", []string{near.Name + " to " + far.Name, far.Name + " to " + near.Name}[i], sent, lost)
		if lost > 0 {
			err = errors.Join(err, fmt.Errorf("%d packets were lost during the restart", lost))
		}
	}
	return err
}

// killUnderPing kills an agent and starts it again while a ping goes on.
func (s *story) killUnderPing(ctx context.Context, n *lab.Node, p *lab.Pinger) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	flows := func() error {
		goal := p.Sent() + pingPause
		return lab.Eventually(ctx, 10*time.Second, func(context.Context) error {
			if p.Sent() < goal {
				return errors.New("the ping stands still")
			}
			return nil
		})
	}
	if err := flows(); err != nil {
		return err
	}
	s.typed(n, "kill", "-KILL", "$(pidof agent)")
	if err := n.Kill(ctx); err != nil {
		return err
	}
	if err := flows(); err != nil {
		return err
	}
	s.typed(n, shortArgs(n.AgentArgs())...)
	if err := n.Start(ctx); err != nil {
		return err
	}
	return flows()
}

func (s *story) verify(ctx context.Context) error {
	s.title("On every host the kernel holds what the cluster says")
	for _, n := range s.Nodes {
		if _, err := s.ctl(ctx, n, "verify"); err != nil {
			return err
		}
	}
	_, err := s.ctl(ctx, s.Nodes[1], "status")
	return err
}

func (s *story) remove(ctx context.Context) error {
	s.title("All is taken down again")
	for i, n := range s.Nodes {
		names := []string{"sandbox", "rm"}
		for _, box := range s.boxes[i*perHost : (i+1)*perHost] {
			box.Close()
			names = append(names, box.Name)
		}
		if _, err := s.ctl(ctx, n, names...); err != nil {
			return err
		}
	}
	if _, err := s.ctl(ctx, s.Nodes[2], "network", "rm", network); err != nil {
		return err
	}
	if err := lab.Eventually(ctx, 5*time.Second, s.nothingLeft); err != nil {
		return err
	}
	s.say("nothing left: no key of a network in etcd; links, addresses, routes, rules, mounts and")
	s.say("processes of every host are as they were before")
	for _, n := range s.Nodes {
		s.typed(n, "kill", "$(pidof agent)")
	}
	return nil
}

// nothingLeft compares hosts and etcd with what they held before the network
// was made.
func (s *story) nothingLeft(ctx context.Context) error {
	for _, prefix := range []string{"networks/", "names/", "vnis/", "net/", "acks/"} {
		keys, err := s.Etcd.Dump(ctx, lab.Prefix+prefix)
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			return fmt.Errorf("etcd still holds %v", keys)
		}
	}
	for _, n := range s.Nodes {
		now, err := n.Footprint(ctx)
		if err != nil {
			return err
		}
		if diff := s.before[n].Diff(now); len(diff) > 0 {
			return fmt.Errorf("%s is not as before:\n%s", n.Name, strings.Join(diff, "\n"))
		}
	}
	return nil
}
