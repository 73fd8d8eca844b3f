package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// eth0 is the interface that a sandbox's first endpoint gets.
const eth0 = "eth0"

// settleWithin bounds how long what is promised for "at once, but not before
// the command returns" may take.
const settleWithin = 5 * time.Second

// startWithin bounds the start of a lab's agents.
const startWithin = 30 * time.Second

// A cluster is a lab in a test: whatever goes wrong ends the test, and its end
// checks that nothing is left.
type cluster struct {
	*lab.Lab
	t      *testing.T
	before map[*lab.Node]lab.Footprint
	plugs  []plug
	boxes  []*lab.Sandbox
}

// A plug is a sandbox's place in a network.
type plug struct {
	box     *lab.Sandbox
	network string
}

// build makes a lab whose agents do not run yet.
func build(t *testing.T, opts lab.Options) *cluster {
	t.Helper()
	if opts.Bin == (lab.Binaries{}) {
		bin, err := checkedBinaries()
		if err != nil {
			t.Fatal(err)
		}
		opts.Bin = bin
	}
	l, err := lab.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Lab: l, t: t}
	t.Cleanup(c.close)
	return c
}

// start makes a lab with running agents.
func start(t *testing.T, opts lab.Options) *cluster {
	t.Helper()
	c := build(t, opts)
	c.start()
	return c
}

// three starts a lab of three nodes, as most scenarios want it.
func three(t *testing.T) *cluster {
	t.Helper()
	return start(t, lab.Options{Nodes: 3})
}

// start starts the agents and remembers what the nodes hold before anything
// happens.
func (c *cluster) start() {
	c.t.Helper()
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	c.must(c.Start(ctx))
	before, err := c.Footprints(ctx)
	c.must(err)
	c.before = before
}

// in has the cluster report to a part of the test until that ends.
func (c *cluster) in(t *testing.T) *cluster {
	whole := c.t
	c.t = t
	t.Cleanup(func() { c.t = whole })
	return c
}

// must ends the test on an error.
func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// eventually waits for a condition.
func (c *cluster) eventually(within time.Duration, cond func(context.Context) error) {
	c.t.Helper()
	c.must(lab.Eventually(c.t.Context(), within, cond))
}

// ctl runs a command that must succeed, and returns what it prints.
func (c *cluster) ctl(n *lab.Node, args ...string) string {
	c.t.Helper()
	out, err := n.MustCtl(c.t.Context(), args...)
	c.must(err)
	return out
}

// refused runs a command that must fail with status 1 and say all of the words.
func (c *cluster) refused(n *lab.Node, words []string, args ...string) {
	c.t.Helper()
	c.refusedWith(n, 1, words, args...)
}

func (c *cluster) refusedWith(n *lab.Node, code int, words []string, args ...string) {
	c.t.Helper()
	res, err := n.Ctl(c.t.Context(), args...)
	c.must(err)
	if res.Code != code || res.Stdout != "" {
		c.t.Errorf("%s: exit status %d, standard output %q; want status %d and none\n%s", res.Command, res.Code, res.Stdout, code, res.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(res.Stderr, word) {
			c.t.Errorf("%s: %q does not say %q", res.Command, res.Stderr, word)
		}
	}
}

// create makes an overlay network and returns its id.
func (c *cluster) create(n *lab.Node, args ...string) string {
	c.t.Helper()
	return c.createOf(n, "overlay", args...)
}

// createOf makes a network of a driver and returns its id.
func (c *cluster) createOf(n *lab.Node, driver string, args ...string) string {
	c.t.Helper()
	id := c.ctl(n, append([]string{"network", "create", "-d", driver}, args...)...)
	if !idSyntax.MatchString(id) {
		c.t.Fatalf("network create printed %q; want an id alone", id)
	}
	return id
}

var idSyntax = regexp.MustCompile(`^[0-9a-f]{64}$`)

// netns makes a sandbox as ip-netns(8) does.
func (c *cluster) netns(n *lab.Node, name string) *lab.Sandbox {
	c.t.Helper()
	box, err := n.AddNetns(c.t.Context(), name)
	c.must(err)
	c.boxes = append(c.boxes, box)
	return box
}

// connect plugs a sandbox into a network.
func (c *cluster) connect(network string, box *lab.Sandbox, flags ...string) {
	c.t.Helper()
	args := append([]string{"network", "connect"}, flags...)
	res, err := box.Node.Ctl(c.t.Context(), append(args, network, box.Name)...)
	c.must(err)
	c.must(res.Err())
	if res.Stdout+res.Stderr != "" {
		// Such as a warning of peers that did not confirm in time.
		c.t.Errorf("%s: %s%s", res.Command, res.Stdout, res.Stderr)
	}
	c.plugs = append(c.plugs, plug{box, network})
}

// attach makes a sandbox and plugs it into a network.
func (c *cluster) attach(n *lab.Node, network, name string, flags ...string) *lab.Sandbox {
	c.t.Helper()
	box := c.netns(n, name)
	c.connect(network, box, flags...)
	return box
}

// disconnect unplugs a sandbox.
func (c *cluster) disconnect(network string, box *lab.Sandbox) {
	c.t.Helper()
	c.ctl(box.Node, "network", "disconnect", network, box.Name)
	c.plugs = slices.DeleteFunc(c.plugs, func(p plug) bool { return p == plug{box, network} })
}

// addr returns the sandbox's only address on its first interface.
func (c *cluster) addr(box *lab.Sandbox) netip.Addr {
	c.t.Helper()
	addrs, err := box.Addrs(eth0)
	c.must(err)
	if len(addrs) != 1 {
		c.t.Fatalf("%s on %s has the addresses %v; want one", box.Name, box.Node.Name, addrs)
	}
	return addrs[0]
}

// mesh sends one packet for every pair of addresses; none may be lost.
func (c *cluster) mesh(boxes ...*lab.Sandbox) {
	c.t.Helper()
	sent, lost, err := lab.Mesh(boxes, eth0)
	c.must(err)
	if len(lost) > 0 || sent < len(boxes)*(len(boxes)-1) {
		c.t.Errorf("of %d first packets these were lost: %v", sent, lost)
	}
}

// reaches sends one packet; it must be answered.
func (c *cluster) reaches(from *lab.Sandbox, to ...netip.Addr) {
	c.t.Helper()
	lost, err := from.PingOnce(to...)
	c.must(err)
	if len(lost) > 0 {
		c.t.Errorf("%s on %s had no answer from %v", from.Name, from.Node.Name, lost)
	}
}

// misses sends one packet to each; none may be answered.
func (c *cluster) misses(from *lab.Sandbox, to ...netip.Addr) {
	c.t.Helper()
	lost, err := from.PingOnce(to...)
	c.must(err)
	if len(lost) != len(to) {
		c.t.Errorf("%s on %s: of %v only %v did not answer", from.Name, from.Node.Name, to, lost)
	}
}

// An inspected network is what network inspect prints, as far as the tests
// want it.
type inspected struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Scope      string
	Internal   bool
	EnableIPv6 bool
	IPAM       struct {
		Config []struct{ Subnet, Gateway, IPRange string }
	}
	Options map[string]string
}

func (c *cluster) inspect(n *lab.Node, network string) inspected {
	c.t.Helper()
	var out []inspected
	c.must(n.CtlJSON(c.t.Context(), &out, "network", "inspect", network))
	if len(out) != 1 {
		c.t.Fatalf("network inspect %s printed %d networks", network, len(out))
	}
	return out[0]
}

// subnet returns the first subnet of a network.
func (c *cluster) subnet(n *lab.Node, network string) netip.Prefix {
	c.t.Helper()
	configs := c.inspect(n, network).IPAM.Config
	if len(configs) == 0 {
		c.t.Fatalf("network %s has no subnet", network)
	}
	prefix, err := netip.ParsePrefix(configs[0].Subnet)
	c.must(err)
	return prefix
}

// A listed network is a line of network ls.
type listed struct{ id, name, driver, scope string }

// networks lists the networks of a node, without the predefined ones.
func networks(ctx context.Context, n *lab.Node) ([]listed, error) {
	out, err := n.MustCtl(ctx, "network", "ls")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(out, "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "NETWORK ID NAME DRIVER SCOPE" {
		return nil, fmt.Errorf("network ls has the columns %q", got)
	}
	var all []listed
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("network ls prints %q", line)
		}
		if f[1] != "host" && f[1] != "none" && f[1] != "bridge" {
			all = append(all, listed{f[0], f[1], f[2], f[3]})
		}
	}
	return all, nil
}

// settled are the keys whose values nothing but a user's command changes:
// presence, flights and acknowledgements move by themselves.
var settled = []string{"meta", "nodes/", "networks/", "names/", "vnis/", "subnets/", "net/"}

// keys returns the settled keys in etcd and their values.
func (c *cluster) keys(ctx context.Context, prefixes ...string) (map[string]string, error) {
	if len(prefixes) == 0 {
		prefixes = settled
	}
	all := map[string]string{}
	for _, p := range prefixes {
		found, err := c.Etcd.Dump(ctx, lab.Prefix+p)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, found)
	}
	return all, nil
}

// remnants are the prefixes below which no key is left once every network is
// removed, but for the version of the subnets.
var remnants = []string{"networks/", "names/", "vnis/", "subnets/", "net/", "acks/"}

// clean reports what is left of networks in etcd and on the nodes.
func (c *cluster) clean(ctx context.Context) error {
	left, err := c.keys(ctx, remnants...)
	if err != nil {
		return err
	}
	delete(left, lab.Prefix+"subnets/version")
	defaults, err := c.defaultNetworks(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(left, func(key, value string) bool {
		return slices.ContainsFunc(defaults, func(id string) bool {
			return !strings.HasPrefix(key, lab.Prefix+"net/") && (strings.Contains(key, id) || strings.Contains(value, id))
		})
	})
	if len(left) > 0 {
		return fmt.Errorf("etcd holds %v", slices.Sorted(maps.Keys(left)))
	}
	return c.onEach(func(n *lab.Node) error {
		now, err := n.Footprint(ctx)
		if err != nil {
			return err
		}
		if diff := c.before[n].Diff(now); len(diff) > 0 {
			return fmt.Errorf("%s is not as before (-before +now):\n%s", n.Name, strings.Join(diff, "\n"))
		}
		return nil
	})
}

// onEach does something on every node, on as many at once as there are processors,
// and returns all errors.
func (c *cluster) onEach(do func(*lab.Node) error) error {
	errs := make([]error, len(c.Nodes))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i, n := range c.Nodes {
		all.Go(func() error {
			errs[i] = do(n)
			return nil
		})
	}
	return errors.Join(all.Wait(), errors.Join(errs...))
}

// verified checks that kernel and plan agree on every node.
func (c *cluster) verified(ctx context.Context) error {
	return c.onEach(func(n *lab.Node) error {
		if !n.Running() {
			return nil
		}
		_, err := n.MustCtl(ctx, "verify")
		return err
	})
}

// finish verifies every node, removes all that the test made, and checks that
// nothing is left.
func (c *cluster) finish(ctx context.Context) error {
	if err := c.verified(ctx); err != nil {
		return err
	}
	if err := c.onEach(func(n *lab.Node) error { return c.vacate(ctx, n) }); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := removeNetworks(ctx, n); err != nil {
			return err
		}
	}
	if err := c.emptyDefaults(ctx); err != nil {
		return err
	}
	if err := lab.Eventually(ctx, settleWithin, c.clean); err != nil {
		return err
	}
	return c.verified(ctx)
}

// vacate takes away the sandboxes of a node.
func (c *cluster) vacate(ctx context.Context, n *lab.Node) error {
	for _, p := range c.plugs {
		if p.box.Node != n {
			continue
		}
		if _, err := n.MustCtl(ctx, "network", "disconnect", p.network, p.box.Name); err != nil {
			return err
		}
	}
	for _, box := range c.boxes {
		if box.Node != n {
			continue
		}
		if err := box.DelNetns(ctx); err != nil {
			return err
		}
	}
	return nil
}

// removeNetworks removes all networks that a node lists.
func removeNetworks(ctx context.Context, n *lab.Node) error {
	all, err := networks(ctx, n)
	if err != nil {
		return err
	}
	for _, net := range all {
		if _, err := n.MustCtl(ctx, "network", "rm", net.name); err != nil {
			return err
		}
	}
	return nil
}

// finishWithin bounds the end of a test.
const finishWithin = 2 * time.Minute

// close ends the lab. Of a test that has failed it shows the logs instead of
// looking for remains.
func (c *cluster) close() {
	ctx, cancel := lab.WithTimeout(context.Background(), finishWithin)
	defer cancel()
	if !c.t.Failed() && len(c.before) > 0 {
		if err := c.finish(ctx); err != nil {
			c.t.Errorf("at the end: %v", err)
		}
	}
	if c.t.Failed() {
		c.show()
	}
	if err := c.Lab.Close(ctx); err != nil {
		c.t.Errorf("close the lab: %v", err)
	}
}

// logDirVar names a directory where the agents' whole logs of failed tests go.
const logDirVar = "OVERSPAN_E2E_LOGS"

// show tells what a failed test's agents said.
func (c *cluster) show() {
	for _, n := range c.Nodes {
		c.t.Logf("log of the agent of %s ends:\n%s", n.Name, n.LogTail(20))
		dir := os.Getenv(logDirVar)
		if dir == "" {
			continue
		}
		name := fmt.Sprintf("%s/%s-%s.log", dir, strings.ReplaceAll(c.t.Name(), "/", "-"), n.Name)
		if raw, err := os.ReadFile(n.LogPath()); err != nil || os.WriteFile(name, raw, 0o644) != nil {
			c.t.Logf("cannot keep the log of %s in %s", n.Name, name)
		}
	}
}
