#!/usr/bin/env bash
# Runs every benchmark and writes docs/benchmarks.md: benchstat's tables, with
# the machine and the date. COUNT is how often each one runs.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${COUNT:-3}
out=docs/benchmarks.md
raw=$(mktemp)
trap 'rm -f "$raw"' EXIT

# One package at a time: two would share the processors. What whole nodes do
# takes a second a benchmark, the rest less: some set up far more than they time.
bench() { go test -run '^$' -bench . -count "$count" -p 1 -timeout 60m "$@" | tee -a "$raw"; }
bench -benchtime 1s ./e2e
bench -benchmem -benchtime 100ms $(go list ./... | grep -v /e2e)

{
	echo "# Benchmarks"
	echo
	echo "Written by \`make bench\`; each benchmark ran $count times. Compare only within one run: the"
	echo "reference that a number is held against is measured beside it."
	echo
	echo "- date: $(date -u +%Y-%m-%d)"
	echo "- commit: $(git rev-parse --short HEAD)"
	echo "- processor: $(nproc) × $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
	echo "- memory: $(awk '/^MemTotal/{printf "%.0f GiB", $2/1048576}' /proc/meminfo)"
	echo "- kernel: $(uname -r)"
	echo "- Go: $(go env GOVERSION)"
	echo
	echo '```'
	go tool -modfile=tools/go.mod benchstat overspan="$raw"
	echo '```'
} >"$out"
echo "wrote $out"
