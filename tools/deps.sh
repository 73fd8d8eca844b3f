#!/usr/bin/env bash
# Installs the Debian packages whose programs the agent, the tests and the demo
# call; only those that are missing.
set -euo pipefail

# program:package
needed=(
	iptables:iptables
	ipset:ipset
	ip:iproute2
	sysctl:procps
	ping:iputils-ping
	tcpdump:tcpdump
	conntrack:conntrack
	nft:nftables
	ebtables:ebtables
	etcdctl:etcd-client
	git:git
	gcc:gcc # the race detector
)

PATH=$PATH:/usr/sbin:/sbin
missing=()
for entry in "${needed[@]}"; do
	command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
done
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]} (Debian's names); install what your system calls them" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}
# A machine that was never updated knows no packages, an old list names files
# that are gone: either way a fresh list helps.
install || { apt-get update -qq && install; }
