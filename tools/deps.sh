#!/usr/bin/env bash
# Installs the Debian packages whose programs the demo, or with "test" also the
# tests, or with "trial" that of the package, or with "vagrant" that of virtual
# machines, call: only those that are missing.
set -euo pipefail

# program:package
demo=(
	iptables:iptables
	ip:iproute2
	ping:iputils-ping
)
test=(
	bridge:iproute2
	conntrack:conntrack
	ebtables:ebtables
	etcdctl:etcd-client
	ipset:ipset
	nft:nftables
	sysctl:procps
	tcpdump:tcpdump
	unshare:util-linux
	dnsmasq:dnsmasq-base # what names are measured beside
	dockerd:docker.io # connected to as an engine of containers
	docker:docker.io
	busybox:busybox-static # what runs in them, and asks for services by name
	gcc:gcc                # the race detector
	clang-14:clang-14      # the program at ports is what its source makes
	llvm-strip-14:llvm-14
	openssl:openssl         # certificates of etcd, as the guide makes them
	shellcheck:shellcheck   # the scripts
	systemd-analyze:systemd # the units
	vagrant:vagrant         # reads the Vagrantfile
)

trial=(
	debootstrap:debootstrap
	nsenter:util-linux
	pgrep:procps
)
vagrant=(
	vagrant:vagrant
	libvirtd:libvirt-daemon-system
	dnsmasq:dnsmasq-base # gives addresses to machines
	qemu-system-x86_64:qemu-system-x86
	qemu-img:qemu-utils
	extlinux:extlinux # the box, from here on
	sfdisk:fdisk
	mmdebstrap:mmdebstrap
	ruby:ruby
	rsync:rsync
	ip:iproute2
	iptables:iptables
)

case "${1-}" in
demo) needed=("${demo[@]}") ;;
trial) needed=("${trial[@]}") ;;
vagrant) needed=("${vagrant[@]}") ;;
*) needed=("${demo[@]}" "${test[@]}") ;;
esac

PATH=$PATH:/usr/sbin:/sbin
missing=()
for entry in "${needed[@]}"; do
	command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
done
[ "${1-}" != test ] || [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
# A plugin has no program.
[ "${1-}" != vagrant ] || dpkg -s vagrant-libvirt >/dev/null 2>&1 || missing+=(vagrant-libvirt)
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
