#!/usr/bin/env bash
# Fails if the generated code that is checked in is not what its sources make.
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
