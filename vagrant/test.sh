#!/usr/bin/env bash
# Two virtual machines, made by vagrant up on a host of their own, become nodes;
# verify.sh looks at them; nothing is left. They are emulated, unless
# OVERSPAN_DRIVER=kvm. Root.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")"

if [ "${1-}" = --within ]; then
	work=$2
	vagrant up >"$work/up.log" 2>&1 || { tr '\r' '\n' <"$work/up.log" >&2 && exit 1; }
	echo "== up after $SECONDS s"
	vagrant ssh node1 -c 'sudo /overspan/vagrant/verify.sh'
	vagrant destroy --force >/dev/null
	exit
fi

export OVERSPAN_DRIVER=${OVERSPAN_DRIVER:-qemu} OVERSPAN_BOX=overspan/debian-12 OVERSPAN_BOX_URL
OVERSPAN_BOX_URL=file://$(./box.sh)
./programs.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SECONDS=0
./host.sh "$work" "$self" --within "$work"
echo "== done after $SECONDS s, nothing is left"
