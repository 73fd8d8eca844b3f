// Command figures turns what "go test -bench" prints, read from its standard
// input, into tables: every measurement that is held against a reference or a
// goal, and with -all the others too.
//
// The unit of a metric (testing.B.ReportMetric) says what it is held against:
//
//	attach-µs                  a measurement
//	lost≤0                     one with a goal
//	attach-µs:floor-µs         the ratio of two others of the same benchmark: ours, and the reference of the same run
//	attach-µs:floor-µs≤5       a ratio with a goal
//
// Where a benchmark ran more than once, the median is shown, and the least and
// the largest beside it.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	all := flag.Bool("all", false, "also show what has neither a reference nor a goal")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *all); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, all bool) error {
	found, err := parse(in)
	if err != nil {
		return err
	}
	text, err := judged(found)
	if err == nil && all {
		var rest string
		rest, err = others(found)
		text += "\n" + rest
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}
