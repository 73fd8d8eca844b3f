#!/bin/sh
# Puts what the agent calls, iptables, into an otherwise empty directory: its
# programs with the libraries that they are linked to, and its extensions.
# usage: rootfs.sh DIRECTORY [nft|legacy]
set -eu

dir=$1
flavour=${2:-nft}

put() {
	[ -e "$dir$1" ] || { mkdir -p "$dir$(dirname "$1")" && cp -L "$1" "$dir$1"; }
}

for multi in nft legacy; do
	put /usr/sbin/xtables-$multi-multi
	for name in iptables ip6tables; do
		for tool in "" -save -restore; do
			ln -sf xtables-$multi-multi "$dir/usr/sbin/$name-$multi$tool"
			[ $multi != "$flavour" ] || ln -sf xtables-$multi-multi "$dir/usr/sbin/$name$tool"
		done
	done
done
extensions=$(dirname "$(find /usr/lib -name libxt_conntrack.so | head -n 1)")
for file in "$extensions"/*.so; do
	put "$file"
done
for file in "$dir"/usr/sbin/xtables-*-multi "$dir$extensions"/*.so; do
	# "name => path (address)", and the loader as "path (address)".
	ldd "$file" | sed -n 's/.*[[:space:]]\(\/[^ ]*\) (.*/\1/p'
done | sort -u | while read -r file; do
	put "$file"
done
# Docker's socket is looked for below /var/run, which is the host's /run.
mkdir -p "$dir/run" "$dir/var/lib/overspan" "$dir/etc/overspan" "$dir/etc/netns" "$dir/tmp"
ln -sfn ../run "$dir/var/run"
