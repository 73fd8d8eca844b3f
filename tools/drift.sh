#!/usr/bin/env bash
# Fails if what is generated and checked in, code and command reference, is not
# what its sources make.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

go tool -modfile=tools/go.mod buf generate -o "$fresh"
generated() { (cd "$1" && find . -name '*.pb.go' -exec sha256sum {} + | sort -k 2); }
if ! diff <(generated proto) <(generated "$fresh/proto"); then
	echo "generated code differs from its sources (left: checked in); run: make generate" >&2
	exit 1
fi

go test ./ctl ./agent -run TestReferenceIsCurrent >"$fresh/reference" || { cat "$fresh/reference" >&2; exit 1; }

# Only this version of clang makes the very same object. Where tests must pass it
# is there (tools/deps.sh), elsewhere it need not be.
if command -v clang-14 >/dev/null && command -v llvm-strip-14 >/dev/null; then
	for program in port underlay; do
		kernel/bpf/compile.sh "$fresh/$program.o"
		if ! cmp "kernel/bpf/$program.o" "$fresh/$program.o"; then
			echo "kernel/bpf/$program.o differs from what $program.c makes; run: make generate" >&2
			exit 1
		fi
	done
elif [ -n "${CI-}" ]; then
	echo "kernel/bpf/*.o cannot be compared with their sources: clang-14 or llvm-14 is missing" >&2
	exit 1
fi
