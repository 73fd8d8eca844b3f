#!/usr/bin/env bash
# Runs the benchmarks, prints what they are held against as one table, and
# writes docs/benchmarks.md. COUNT is how often each runs, BENCH a regular
# expression for the names of those to run: then nothing is written. What the
# units mean is told in internal/figures.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${COUNT:-3}
only=${BENCH:-.}
out=docs/benchmarks.md
raw=$(mktemp)
trap 'rm -f "$raw"' EXIT

# One package at a time: two would share the processors.
bench() { go test -run '^$' -p 1 -timeout 60m "$@" | tee -a "$raw"; }

# Whole nodes: how often each is done in a run, so that the run has a median,
# and one that looks at the 99th percentile enough to have one.
nodes() {
	local times=$1 runs=$2 name=$3
	if [[ $name =~ $only ]]; then
		bench -bench "^Benchmark$name\$" -benchtime "$times" -count "$runs" ./e2e
	fi
}
nodes 300x "$count" Attach
nodes 1x 1 FirstPacket # a thousand attaches
nodes 100x "$count" CreateNetwork
nodes 5x "$count" Convergence
nodes 3x "$count" Allocate
nodes 30x "$count" Traffic
nodes 5x "$count" Repair
nodes 3x "$count" Restart
nodes 60x "$count" Publish
nodes 10x "$count" PublishedPort
nodes 10x "$count" Outbound
nodes 5x "$count" Names

# Many agents in one process; OVERSPAN_SCALE_NODES says how many.
bench -bench "$only" -benchtime 1x -count 1 ./e2e/scale

# All others take less: some set up far more than they time.
# Packages are words.
# shellcheck disable=SC2046
bench -bench "$only" -benchtime 100ms -benchmem -count "$count" $(go list ./... | grep -v /e2e)

echo
go run ./internal/figures <"$raw"
if [ "$only" != . ]; then
	exit
fi
{
	echo "# Benchmarks"
	echo
	echo "Written by \`make bench\`; each benchmark ran $count times, the median is shown. Compare only within a"
	echo "line: the reference was measured in the same run, turn and turn about."
	echo
	echo "- date: $(date -u +%Y-%m-%d)"
	echo "- commit: $(git rev-parse --short HEAD)"
	echo "- processor: $(nproc) × $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
	echo "- memory: $(awk '/^MemTotal/{printf "%.0f GiB", $2/1048576}' /proc/meminfo)"
	echo "- kernel: $(uname -r)"
	echo "- Go: $(go env GOVERSION)"
	echo
	go run ./internal/figures -all <"$raw"
} >"$out"
echo "wrote $out"
