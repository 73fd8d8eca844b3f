#!/usr/bin/env bash
# Two virtual machines, made by vagrant up on a host of their own, become nodes;
# verify.sh looks at them; nothing is left. They are emulated, unless
# OVERSPAN_DRIVER=kvm; OVERSPAN_ETCD=pair gives each a member of etcd. Root.
#
# "test.sh kernel [PACKAGE...]" has one machine run tests of this tree instead: with
# a kernel that is not this host's. SCENARIOS are those of e2e.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")"

# up makes machines and tells what Vagrant has told only if that fails.
up() {
	vagrant up "$@" >"$work/up.log" 2>&1 || { tr '\r' '\n' <"$work/up.log" >&2 && return 1; }
	echo "== $* up after $SECONDS s"
}

# agents prints the process of each node's agent, once it serves.
agents() {
	local node
	for node in node1 node2; do
		vagrant ssh "$node" -c 'sudo systemctl start overspan-agent && systemctl show -p MainPID --value overspan-agent' | tr -d '\r'
	done
}

# again provisions once more, which changes nothing: the agents run on.
again() {
	local before after
	before=$(agents)
	vagrant provision >"$work/again.log" 2>&1 || { tr '\r' '\n' <"$work/again.log" >&2 && return 1; }
	after=$(agents)
	[[ $before =~ ^[1-9][0-9]*$'\n'[1-9][0-9]*$ && $before = "$after" ]] || {
		echo "FAIL: agents before and after a second provisioning: $before, $after" >&2
		return 1
	}
	echo "== provisioned again after $SECONDS s: the agents run on"
}

if [ "${1-}" = --within ]; then
	work=$2
	what=$3
	shift 3
	case $what in
	verify)
		up node1 node2
		again
		vagrant ssh node1 -c 'sudo /overspan/vagrant/verify.sh'
		;;
	kernel)
		up node1
		vagrant ssh node1 -c "sudo systemctl stop overspan-agent && sudo SCENARIOS='${SCENARIOS-}' TIMEOUT='${TIMEOUT-}' /overspan/vagrant/kernel.sh $*"
		;;
	esac
	vagrant destroy --force >/dev/null
	exit
fi

export OVERSPAN_DRIVER=${OVERSPAN_DRIVER:-qemu} OVERSPAN_BOX=overspan/debian-12 OVERSPAN_BOX_URL
OVERSPAN_BOX_URL=file://$(./box.sh)
[ $# -gt 0 ] || set -- verify
rm -rf programs
./programs.sh
if [ "$1" = kernel ]; then
	export OVERSPAN_MEMORY=${OVERSPAN_MEMORY:-1536} OVERSPAN_CPUS=${OVERSPAN_CPUS:-2}
	./programs.sh tests
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SECONDS=0
./host.sh "$work" "$self" --within "$work" "$@"
echo "== done after $SECONDS s, nothing is left"
