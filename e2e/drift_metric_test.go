package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// counts compares by how much the metric of repairs has grown, by kind and change,
// with what was told since.
func (s *site) counts(ctx context.Context, seen int, before map[[2]string]float64) error {
	told := map[[2]string]float64{}
	for _, e := range s.events.Seen()[seen:] {
		if e.Type == "kernel" && e.Action == "repair" {
			key, n := counted(e.Name)
			told[key] += n
		}
	}
	grown, err := repaired(ctx, s.node)
	if err != nil {
		return err
	}
	for key, n := range before {
		if grown[key] -= n; grown[key] == 0 {
			delete(grown, key)
		}
	}
	if diff := cmp.Diff(told, grown); diff != "" {
		return fmt.Errorf("the metric of repairs has not grown by what was told (-told +grown):\n%s", diff)
	}
	return nil
}

// repaired returns how many repairs a node's agent counts, by kind and change.
func repaired(ctx context.Context, n *lab.Node) (map[[2]string]float64, error) {
	all, err := n.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	out := map[[2]string]float64{}
	for name, value := range all {
		if f := repairLabels.FindStringSubmatch(name); f != nil {
			out[[2]string{f[2], f[1]}] += value
		}
	}
	return out, nil
}

var repairLabels = regexp.MustCompile(`^overspan_kernel_repairs_total\{cause="\w+",change="(\w+)",kind="([\w ]+)"\}$`)

// repairKinds are the kinds of repair by what their events say; others are of links.
var repairKinds = []struct {
	words *regexp.Regexp
	kind  string
}{
	{regexp.MustCompile(`\(osv-\w+\) `), "inside"},
	{regexp.MustCompile(`^(entry of the )?program on `), "program"},
	{regexp.MustCompile(`^sysctl `), "sysctl"},
	{regexp.MustCompile(`^address `), "address"},
	{regexp.MustCompile(`^(\d+ forwarding entries|fdb \S+) on `), "fdb"},
	{regexp.MustCompile(`^(\d+ static bridge entries|static bridge entry \S+) on `), "static"},
	{regexp.MustCompile(`^(\d+ neighbours|neighbour \S+) on `), "neighbour"},
	{regexp.MustCompile(`^(\d+ entries of (ipset|map) |(ipset|map) \S+ entry )`), "set entry"},
	{regexp.MustCompile(`^(ipset|map) `), "set"},
	{regexp.MustCompile(`^chain `), "chain"},
	{regexp.MustCompile(`^jump `), "jump"},
	{regexp.MustCompile(`^conntrack `), "flow"},
	{regexp.MustCompile(`^table `), "table"},
}

var (
	addedTold   = regexp.MustCompile(`missing → (added|made)$`)
	deletedTold = regexp.MustCompile(`not wanted → deleted$`)
)

// counted returns as what, and how often, the metric counts a repair that is told
// in these words.
func counted(told string) (key [2]string, n float64) {
	kind, change := "link", "set"
	for _, k := range repairKinds {
		if k.words.MatchString(told) {
			kind = k.kind
			break
		}
	}
	switch {
	case kind == "inside":
	case addedTold.MatchString(told):
		change = "added"
	case deletedTold.MatchString(told):
		change = "deleted"
	}
	n = 1
	first, _, _ := strings.Cut(told, " ")
	if many, err := strconv.ParseFloat(first, 64); err == nil { // "62 neighbours on …"
		n = many
	}
	return [2]string{kind, change}, n
}
