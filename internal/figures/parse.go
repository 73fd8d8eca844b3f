package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A series is what one metric of a benchmark was in each of its runs.
type series struct {
	benchmark string // with its package's last element: "store/Commit/nodes=64"
	unit      string
	runs      []float64
}

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s.runs))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (s series) least() float64   { return slices.Min(s.runs) }
func (s series) largest() float64 { return slices.Max(s.runs) }

// procs is what Go adds to a benchmark's name: the number of processors.
var procs = regexp.MustCompile(`-\d+$`)

// parse reads benchmarks' lines, "BenchmarkName-2  10  123 ns/op  4.5 unit …",
// and skips all others.
func parse(in io.Reader) ([]series, error) {
	var found []series
	where := map[[2]string]int{} // benchmark and unit → its place in found
	lines := bufio.NewScanner(in)
	pkg := ""
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 2 && words[0] == "pkg:" {
			pkg = words[1][strings.LastIndex(words[1], "/")+1:]
		}
		if len(words) < 4 || len(words)%2 != 0 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := pkg + "/" + procs.ReplaceAllString(strings.TrimPrefix(words[0], "Benchmark"), "")
		for i := 2; i < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", words[0], err)
			}
			key := [2]string{name, words[i+1]}
			at, known := where[key]
			if !known {
				at = len(found)
				where[key] = at
				found = append(found, series{benchmark: name, unit: words[i+1]})
			}
			found[at].runs = append(found[at].runs, value)
		}
	}
	return found, lines.Err()
}

// A judgement is what a unit says that its metric is held against.
type judgement struct {
	ours, reference string // units; reference is "" where there is none
	limit           string // "≤", "≥" or "" for none
	goal            float64
}

// judge reads a unit; ok is false for one that is held against nothing.
func judge(unit string) (j judgement, ok bool, err error) {
	rest := unit
	for _, limit := range []string{"≤", "≥"} {
		if before, goal, found := strings.Cut(unit, limit); found {
			rest, j.limit = before, limit
			if j.goal, err = strconv.ParseFloat(goal, 64); err != nil {
				return j, false, fmt.Errorf("goal of %s: %w", unit, err)
			}
		}
	}
	j.ours, j.reference, _ = strings.Cut(rest, ":")
	return j, j.limit != "" || j.reference != "", nil
}

// met reports whether a figure reaches the goal.
func (j judgement) met(figure float64) bool {
	if j.limit == "≤" {
		return figure <= j.goal
	}
	return figure >= j.goal
}
