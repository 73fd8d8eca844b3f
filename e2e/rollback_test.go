package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overspan/overspan/e2e/lab"
)

// frozenWithin bounds how long it takes until every node knows that etcd has lost
// its past, and has published again what it holds.
const frozenWithin = time.Minute

// Scenario 21: "etcd restored from a backup of before the last ten endpoints
// (also while another node attaches), and etcd replaced by an empty one: no
// endpoint loses connectivity, no address is given twice, status shows the
// freeze, what each node published again, and how to accept."
func TestScenario21_EtcdForgets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		forget func(c *cluster, backup lab.Backup)
		signs  []string // what whoever notices first can see
	}{
		{
			"restored from a backup", func(c *cluster, backup lab.Backup) { c.must(c.Etcd.Restore(c.t.Context(), backup)) },
			[]string{"etcd was rolled back: it is at revision", "is gone from etcd"},
		},
		{
			"replaced by an empty one", func(c *cluster, _ lab.Backup) { c.must(c.Etcd.Replace(c.t.Context())) },
			[]string{"etcd was replaced: it is cluster"},
		},
		{
			"wiped", func(c *cluster, _ lab.Backup) { c.must(c.Etcd.Wipe(c.t.Context())) },
			[]string{"etcd was rolled back: it is at revision"},
		},
		{
			"prefix deleted", func(c *cluster, _ lab.Backup) {
				_, err := c.etcd().Delete(c.t.Context(), lab.Prefix, clientv3.WithPrefix())
				c.must(err)
			},
			[]string{"etcd was emptied: the cluster's settings are gone"},
		},
		{
			"restored with a higher revision", (*cluster).restoreAhead,
			// Of what was written since the backup, an endpoint's record, a claim or a flight.
			[]string{"etcd was rolled back: what node", "and nobody took it", "its last claim is of revision", "is gone from etcd"},
		},
		{
			"one record gone", func(c *cluster, _ lab.Backup) { c.forgets("late3") },
			[]string{"the record of late3 ("},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := forgetful(t)
			s := newAmnesia(c)
			s.signs = tt.signs
			s.attachInALoop(c.Nodes[1])
			tt.forget(c, s.backup)
			s.frozen()
			s.refused()
			s.accept()
			s.whole()
		})
	}
}

// A node whose agent is down all the while, one that is restarted during the
// freeze, and one whose agent is down as etcd forgets.
func TestScenario21_AgentsAwayWhileEtcdForgets(t *testing.T) {
	t.Parallel()
	c := forgetful(t)
	s := newAmnesia(c)
	s.signs = []string{"etcd was rolled back: it is at revision", "is gone from etcd"}
	h2, h3 := c.Nodes[1], c.Nodes[2]
	c.must(h3.Stop(t.Context()))
	c.must(h2.Kill(t.Context()))
	c.must(c.Etcd.Restore(t.Context(), s.backup))
	c.must(h2.Start(t.Context()))
	s.frozen(c.Nodes[0], h2)
	c.must(h2.Kill(t.Context()))
	c.must(h2.Start(t.Context()))
	s.frozen(c.Nodes[0], h2)
	s.accept()
	c.must(h3.Start(t.Context()))
	s.whole()
}

// forgetful starts a lab in which the presence that a backup holds of a node does
// not stand in the way of an acceptance for long.
func forgetful(t *testing.T) *cluster {
	t.Helper()
	return start(t, lab.Options{Nodes: 3, Flags: []string{"--presence-ttl", "5s"}})
}

// etcd returns a client of the lab's etcd.
func (c *cluster) etcd() *clientv3.Client {
	c.t.Helper()
	client, err := c.Etcd.Client()
	c.must(err)
	return client
}

// restoreAhead restores a backup whose revision is set above all that the agents
// have seen, with the past compacted, as etcdutl does with --bump-revision and
// --mark-compacted: no revision tells that anything is lost.
func (c *cluster) restoreAhead(backup lab.Backup) {
	c.t.Helper()
	ctx := c.t.Context()
	now, err := c.etcd().Get(ctx, "x")
	c.must(err)
	c.must(c.Etcd.Cut(ctx))
	c.must(c.Etcd.Restore(ctx, backup))
	for {
		res, err := c.etcd().Put(ctx, "/elsewhere", "")
		c.must(err)
		if res.Header.Revision > now.Header.Revision+10 {
			break
		}
	}
	c.must(c.Etcd.Compact(ctx))
	c.must(c.Etcd.Heal(ctx))
}

// forgets takes an endpoint's record out of etcd, and nothing else.
func (c *cluster) forgets(endpoint string) {
	c.t.Helper()
	all, err := c.Etcd.Dump(c.t.Context(), lab.Prefix+"net/")
	c.must(err)
	for key, value := range all {
		if strings.Contains(key, "/endpoints/") && strings.Contains(value, `"name":"`+endpoint+`"`) {
			_, err := c.etcd().Delete(c.t.Context(), key)
			c.must(err)
			return
		}
	}
	c.t.Fatalf("etcd has no record of %s", endpoint)
}

// amnesia is a cluster of which etcd is about to forget the last ten endpoints
// and a network, and the traffic that must not notice.
type amnesia struct {
	c       *cluster
	backup  lab.Backup
	signs   []string // any of them tells that etcd has forgotten
	boxes   []*lab.Sandbox
	traffic *traffic
	end     context.CancelFunc
	meshing sync.WaitGroup

	attacher sync.WaitGroup
	late     []*lab.Sandbox // attached as etcd forgot
}

func newAmnesia(c *cluster) *amnesia {
	s := &amnesia{c: c}
	c.create(c.Nodes[0], "demo")
	for i, n := range c.Nodes {
		s.boxes = append(s.boxes, c.attach(n, "demo", fmt.Sprint("early", i)))
	}
	var err error
	s.backup, err = c.Etcd.Backup(c.t.Context())
	c.must(err)
	c.create(c.Nodes[0], "two")
	for i := range 10 {
		s.boxes = append(s.boxes, c.attach(c.Nodes[i%3], "demo", fmt.Sprint("late", i)))
	}
	for i, n := range c.Nodes {
		c.attach(n, "two", fmt.Sprint("other", i))
	}
	s.traffic = c.traffic(s.boxes[3], s.boxes[4])
	ctx, cancel := context.WithCancel(c.t.Context())
	s.end = cancel
	s.meshing.Go(func() { s.mesh(ctx) })
	c.t.Cleanup(func() {
		cancel()
		s.meshing.Wait()
		s.attacher.Wait()
	})
	return s
}

// meshEvery is how often packets are sent among all endpoints: there is other work
// to be done meanwhile.
const meshEvery = 100 * time.Millisecond

// mesh sends packets among all endpoints both ways until ctx ends.
func (s *amnesia) mesh(ctx context.Context) {
	again := time.NewTicker(meshEvery)
	defer again.Stop()
	for ctx.Err() == nil {
		_, lost, err := lab.Mesh(s.boxes, eth0)
		if err != nil || len(lost) > 0 {
			s.c.t.Errorf("lost while etcd forgot: %v, %v", lost, err)
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// attachInALoop attaches sandboxes on a node until that is refused because the
// cluster is frozen.
func (s *amnesia) attachInALoop(n *lab.Node) {
	ctx := s.c.t.Context()
	first := make(chan struct{})
	s.attacher.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			box, err := n.AddNetns(ctx, fmt.Sprint("loop", i))
			if err != nil {
				s.c.t.Error(err)
				return
			}
			s.c.boxes = append(s.c.boxes, box)
			res, err := n.Ctl(ctx, "network", "connect", "demo", box.Name)
			switch {
			case err != nil:
				s.c.t.Error(err)
				return
			case res.Code == 0:
				s.late = append(s.late, box)
				s.c.plugs = append(s.c.plugs, plug{box, "demo"})
			case strings.Contains(res.Stderr, "the cluster is frozen"):
				return
			}
			if i == 2 {
				close(first)
			}
		}
	})
	<-first
}

// A told status is what status prints of a freeze.
type told struct {
	Freeze *struct {
		Reason, Node string
		Reports      []toldReport
	}
}

type toldReport struct {
	Name     string
	Reported bool
	Failures []string
}

// reported tells of nodes that have not published again all that they hold.
func (st told) reported(nodes []*lab.Node) error {
	for _, n := range nodes {
		at := slices.IndexFunc(st.Freeze.Reports, func(r toldReport) bool { return r.Name == n.Name })
		if at < 0 || !st.Freeze.Reports[at].Reported || len(st.Freeze.Reports[at].Failures) > 0 {
			return fmt.Errorf("%s has not published again all that it holds: %+v", n.Name, st.Freeze.Reports)
		}
	}
	return nil
}

// frozen waits until nodes tell of the freeze, and that they have published again
// all that they hold.
func (s *amnesia) frozen(nodes ...*lab.Node) {
	s.c.t.Helper()
	if len(nodes) == 0 {
		nodes = s.c.Nodes
	}
	s.attacher.Wait()
	for _, n := range nodes {
		var reason string
		s.c.eventually(frozenWithin, func(ctx context.Context) error {
			var st told
			if err := n.CtlJSON(ctx, &st, "status", "-o", "json"); err != nil {
				return err
			}
			if st.Freeze == nil || st.Freeze.Node == "" {
				return fmt.Errorf("%s tells nothing of a freeze", n.Name)
			}
			reason = st.Freeze.Reason
			return st.reported(nodes)
		})
		if !slices.ContainsFunc(s.signs, func(sign string) bool { return strings.Contains(reason, sign) }) {
			s.c.t.Errorf("%s tells of a freeze because %q; want any of %q", n.Name, reason, s.signs)
		}
		text := s.c.ctl(n, "status")
		for _, words := range []string{"Frozen", "has published again what etcd had lost", "ctl cluster accept"} {
			if !strings.Contains(text, words) {
				s.c.t.Errorf("status on %s does not say %q:\n%s", n.Name, words, text)
			}
		}
	}
}

// refused checks that nothing is lent or changed while the cluster is frozen.
func (s *amnesia) refused() {
	s.c.t.Helper()
	words := []string{"the cluster is frozen", "ctl cluster accept"}
	for i, n := range s.c.Nodes {
		box := s.c.netns(n, fmt.Sprint("refused", i))
		s.c.refused(n, words, "network", "connect", "demo", box.Name)
		s.c.refused(n, words, "network", "create", "-d", "overlay", "three")
		s.c.refused(n, words, "network", "rm", "two")
	}
	s.traffic.flows(500)
}

// accept ends the freeze. A node that the backup has as present is waited for
// until its presence expires.
func (s *amnesia) accept() {
	s.c.t.Helper()
	s.c.eventually(frozenWithin, func(ctx context.Context) error {
		_, err := s.c.Nodes[0].MustCtl(ctx, "cluster", "accept")
		return err
	})
}

// whole checks that all is as if etcd had forgotten nothing.
func (s *amnesia) whole() {
	s.c.t.Helper()
	c := s.c
	for _, n := range c.Nodes {
		c.eventually(settleWithin, func(ctx context.Context) error {
			var st told
			if err := n.CtlJSON(ctx, &st, "status", "-o", "json"); err != nil {
				return err
			}
			if st.Freeze != nil {
				return errors.New("frozen still, or again")
			}
			return nil
		})
	}
	c.eventually(frozenWithin, s.unique)
	c.eventually(settleWithin, c.verified)
	s.traffic.flows(500)
	s.end()
	s.meshing.Wait()
	s.traffic.stop()
	for i, n := range c.Nodes {
		s.boxes = append(s.boxes, c.attach(n, "demo", fmt.Sprint("after", i)))
		c.attach(n, "two", fmt.Sprint("afterwards", i))
	}
	c.mesh(append(s.boxes, s.late...)...)
	c.must(s.unique(c.t.Context()))
	left, err := c.keys(c.t.Context(), "meta/frozen", "reports/")
	c.must(err)
	if len(left) > 0 {
		c.t.Errorf("etcd still holds %v", slices.Sorted(maps.Keys(left)))
	}
}

// unique checks that etcd has every endpoint of every sandbox with the address
// that it has, no other, and no address twice.
func (s *amnesia) unique(ctx context.Context) error {
	dump, err := s.c.Etcd.Dump(ctx, lab.Prefix+"net/")
	if err != nil {
		return err
	}
	stored := map[string]string{} // by address
	for key, value := range dump {
		if !strings.Contains(key, "/endpoints/") {
			continue
		}
		var e struct{ Name, Network, Ipv4 string }
		if err := json.Unmarshal([]byte(value), &e); err != nil {
			return fmt.Errorf("key %s: %w", key, err)
		}
		if other, twice := stored[e.Ipv4]; twice {
			s.c.t.Errorf("address %s is %s's and %s's", e.Ipv4, other, e.Name)
		}
		stored[e.Ipv4] = e.Name
	}
	served := map[string]string{}
	for _, p := range s.c.plugs {
		addrs, err := p.box.Addrs(eth0)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if other, twice := served[a.String()]; twice {
				s.c.t.Errorf("address %s is on %s and on %s", a, other, p.box.Name)
			}
			served[a.String()] = p.box.Name
		}
	}
	if !maps.Equal(stored, served) {
		return fmt.Errorf("etcd has %v, the sandboxes have %v", stored, served)
	}
	return nil
}
