package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const printed = `goos: linux
pkg: github.com/overspan/overspan/e2e
cpu: some
BenchmarkAttach-2   	      60	  16670000 ns/op	      3600 attach-µs	       720.0 floor-µs	         5.0 attach-µs:floor-µs≤5
BenchmarkAttach-2   	      60	  17000000 ns/op	      3800 attach-µs	       760.0 floor-µs	         5.2 attach-µs:floor-µs≤5
BenchmarkAttach-2   	      60	  16000000 ns/op	      3500 attach-µs	       710.0 floor-µs	         4.9 attach-µs:floor-µs≤5
BenchmarkTraffic/tcp=4-2   	       1	   5000 ns/op	         0.5 a:b	         0.9 a:b≥0.98	         2.0 b
BenchmarkFirst/attaches=1000-2	 1	 12000000000 ns/op	 0 lost≤0
PASS
ok  	github.com/overspan/overspan/e2e	1.2s
pkg: github.com/overspan/overspan/ipam
BenchmarkChoose/taken=10-2 	 100	 1231 ns/op	 1578 B/op
`

func TestTables(t *testing.T) {
	const want = `| what                 | ours           | reference    | ratio | min–max | goal   | met |
| -------------------- | -------------- | ------------ | ----- | ------- | ------ | --- |
| e2e/Attach           | 3600 attach-µs | 720 floor-µs | 5     | 4.9–5.2 | ≤ 5    | yes |
| e2e/Traffic/tcp=4    |                | 2 b          | 0.5   |         |        |     |
| e2e/Traffic/tcp=4    |                | 2 b          | 0.9   |         | ≥ 0.98 | no  |
| e2e/First/attaches=1000 | 0 lost      |              |       |         | ≤ 0    | yes |

| benchmark               | median         | min–max       |
| ----------------------- | -------------- | ------------- |
| e2e/Attach              | 16.67ms        | 16ms–17ms     |
| e2e/Attach              | 3600 attach-µs | 3500–3800     |
| e2e/Attach              | 720 floor-µs   | 710–760       |
| e2e/Traffic/tcp=4       | 5µs            |               |
| e2e/Traffic/tcp=4       | 2 b            |               |
| e2e/First/attaches=1000 | 12s            |               |
| ipam/Choose/taken=10    | 1.231µs        |               |
| ipam/Choose/taken=10    | 1578 B/op      |               |
`
	var got strings.Builder
	if err := run(strings.NewReader(printed), &got, true); err != nil {
		t.Fatal(err)
	}
	// How wide the columns are is of no matter.
	if diff := cmp.Diff(squeeze(want), squeeze(got.String())); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

func squeeze(table string) string {
	var out []string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| --") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(out, "\n")
}

func TestRefusesWhatItCannotRead(t *testing.T) {
	for _, line := range []string{"BenchmarkA-2 1 x ns/op", "BenchmarkA-2 1 1 lost≤none"} {
		if err := run(strings.NewReader(line), new(strings.Builder), false); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}
