package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// judged is the table of what is held against something.
func judged(found []series) (string, error) {
	rows := [][]string{{"what", "ours", "reference", "ratio", "min–max", "goal", "met"}}
	for _, s := range found {
		j, held, err := judge(s.unit)
		if err != nil {
			return "", err
		}
		if !held {
			continue
		}
		row := []string{s.benchmark, figure(s.median(), j.ours), "", "", spread(s), "", ""}
		if j.reference != "" {
			row[1] = of(found, s.benchmark, j.ours)
			row[2] = of(found, s.benchmark, j.reference)
			row[3] = number(s.median())
		}
		if j.limit != "" {
			row[5], row[6] = j.limit+" "+number(j.goal), "no"
			if j.met(s.median()) {
				row[6] = "yes"
			}
		}
		rows = append(rows, row)
	}
	return table(rows), nil
}

// others is the table of everything else.
func others(found []series) (string, error) {
	rows := [][]string{{"benchmark", "median", "min–max"}}
	for _, s := range found {
		_, held, err := judge(s.unit)
		if err != nil {
			return "", err
		}
		if !held {
			rows = append(rows, []string{s.benchmark, figure(s.median(), s.unit), spread(s)})
		}
	}
	return table(rows), nil
}

// of returns the median of a benchmark's metric; "" if it did not report it.
func of(found []series, benchmark, unit string) string {
	i := slices.IndexFunc(found, func(s series) bool { return s.benchmark == benchmark && s.unit == unit })
	if i < 0 {
		return ""
	}
	return figure(found[i].median(), unit)
}

// nanoseconds is the unit of what Go measures by itself.
const nanoseconds = "ns/op"

func spread(s series) string {
	if len(s.runs) < 2 {
		return ""
	}
	if s.unit == nanoseconds {
		return figure(s.least(), s.unit) + "–" + figure(s.largest(), s.unit)
	}
	return number(s.least()) + "–" + number(s.largest())
}

// figure writes a number with its unit.
func figure(v float64, unit string) string {
	if unit == nanoseconds {
		digits := max(0, int(math.Log10(max(v, 1)))-3) // four are enough
		return time.Duration(v).Round(time.Duration(math.Pow10(digits))).String()
	}
	return number(v) + " " + unit
}

// number writes four digits, or more where they stand before the point.
func number(v float64) string {
	if math.Abs(v) >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// table writes rows, the first of them headings, as Markdown that also reads
// well as it is.
func table(rows [][]string) string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %-*s ", width[i], cell)
		}
		b.WriteString("|\n")
		if n == 0 {
			for i := range row {
				b.WriteString("| " + strings.Repeat("-", width[i]) + " ")
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
