#!/usr/bin/env bash
# Tries the package on a Debian 12 of its own: a root made by debootstrap (kept
# below the user's cache), booted with its systemd in namespaces of this machine,
# so that nothing here is touched. Within, trial.sh does what an administrator does.
# What is upgraded to is the package in DIST, as "make release" leaves it there.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/../.."

dist=${DIST:-dist}
old=$dist/trial/overspan_0.0.1_amd64.deb
new=$(echo "$dist"/overspan_*_amd64.deb)
[ -e "$new" ] || { echo "$dist holds no package for amd64, or several; run: make release ARCHS=amd64" >&2; exit 1; }
# What the package depends on is not among them: apt fetches that before the
# machine is off the world, and installs it with the package, as a newcomer's does.
packages=dbus,iproute2,iputils-ping,nftables,procps,systemd,systemd-sysv
root=${XDG_CACHE_HOME:-$HOME/.cache}/overspan/debian-12-$(sha256sum "$self" | cut -c 1-16)

if [ ! -e "$root/sbin/init" ]; then
	# From wherever this machine has its own packages.
	# shellcheck disable=SC2016 # apt-get's words
	site=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' |
		awk '$2 == "bookworm" && $3 == "Packages" { print $1; exit }')
	rm -rf "$root.part"
	mkdir -p "$root.part"
	debootstrap --variant=minbase --include="$packages" bookworm "$root.part" "${site:?this machine has no packages of Debian 12}" >/dev/null
	: >"$root.part/etc/machine-id"
	# By this machine's apt, which knows the way to the mirror.
	apt=(-qq -o APT::Sandbox::User=root -o "Dir::State=$root.part/var/lib/apt" -o "Dir::State::status=$root.part/var/lib/dpkg/status"
		-o "Dir::Cache=$root.part/var/cache/apt" -o "Dir::Etc::SourceList=$root.part/etc/apt/sources.list" -o Dir::Etc::SourceParts=-)
	apt-get "${apt[@]}" update
	apt-get "${apt[@]}" install -y --download-only iptables >/dev/null
	mv "$root.part" "$root"
fi

# The release before: the same programs, to be told by the package's version.
mkdir -p "$dist/trial"
VERSION=0.0.1 ARCH=amd64 DIST=$dist go tool -modfile=tools/go.mod nfpm package \
	--config deploy/nfpm.yaml --packager deb --target "$old" >/dev/null

# systemd wants a cgroup of the second version of its own.
groups=$(findmnt -n -t cgroup2 -o TARGET | head -n 1) ||
	{ echo "control groups of version 2 are mounted nowhere; systemd in the machine wants one" >&2; exit 1; }
group=$groups/overspan-trial
work=$(mktemp -d)
machine=
finish() {
	[ -z "$machine" ] || { kill -KILL "$machine" && wait "$machine"; } 2>/dev/null || true # it heeds no other signal
	# What runs in the machine ends with it, but not in the same moment.
	for _ in {1..100}; do
		grep -q 'populated 0' "$group/cgroup.events" && break
		sleep 0.05
	done
	find "$group" -depth -type d -exec rmdir {} +
	rm -rf "$work"
}
trap finish EXIT
mkdir -p "$group"
mkdir "$work/share"
cp "$old" "$work/share/old.deb"
cp "$new" "$work/share/new.deb"
cp deploy/trial/trial.sh deploy/container/rootfs.sh "$work/share/"
: >"$work/log"

(
	echo "$BASHPID" >"$group/cgroup.procs"
	exec unshare -m -p -n -u -i -C --fork --kill-child deploy/trial/machine.sh "$root" "$work"
) >"$work/log" 2>&1 &
machine=$!
# within runs a command in the machine, whose first process unshare has started.
within() {
	local pid
	pid=$(pgrep -P "$machine") && nsenter -t "$pid" -m -p -n -u -i -C env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
# There is a moment before which systemd cannot even be asked; degraded is up, too.
until within systemctl is-system-running --wait 2>/dev/null | grep -qE 'running|degraded'; do
	if [ "$SECONDS" -gt 300 ] || ! kill -0 "$machine"; then
		echo "the machine does not come up:" >&2
		cat "$work/log" >&2
		exit 1
	fi
	sleep 0.1
done
within bash /share/trial.sh
