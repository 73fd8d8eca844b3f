#!/usr/bin/env bash
# Builds the box for plain emulation, where no public one can be fetched: a
# Debian 12 that already has whatever provisioning and tests call, since its
# machines reach nothing but each other. It is kept below the user's cache under
# the hash of this file, which is its recipe; printed is what Vagrant asks for,
# a file that tells where the box is. Root, and a loop device.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
hash=$(sha256sum "$self" | cut -c 1-16)
box=${XDG_CACHE_HOME:-$HOME/.cache}/overspan/vagrant/$hash

# What boots, what Vagrant wants of a machine, what nodes and tests call.
packages=(
	linux-image-cloud-amd64 initramfs-tools systemd-sysv udev dbus
	openssh-server sudo rsync ca-certificates
	iptables iproute2 iputils-ping nftables kmod procps curl busybox-static tcpdump conntrack ipset ebtables
	iperf3 wireguard-tools
)

# Whoever comes second waits, and finds it built.
mkdir -p "${box%/*}"
exec 9>"$box.lock"
flock 9
if [ -e "$box/box.json" ]; then
	echo "$box/box.json"
	exit
fi

work=$box.part
loop=
finish() {
	! mountpoint -q "$work/mnt" || umount "$work/mnt"
	[ -z "$loop" ] || losetup -d "$loop"
	rm -rf "$work"
}
trap finish EXIT
rm -rf "$work"
mkdir -p "$work/mnt" "$work/box"
echo "building the box" >&2

# From wherever this machine has its own packages.
# shellcheck disable=SC2016 # apt-get's words
site=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' |
	awk '$2 == "bookworm" && $3 == "Packages" { print $1; exit }')
root=$work/root
# Without documentation, and with an initramfs of nothing but what finds the disk.
# shellcheck disable=SC2016 # $1 is the root, for mmdebstrap
mmdebstrap --quiet --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
	--essential-hook='echo MODULES=list >"$1/etc/initramfs-tools/conf.d/modules"' \
	--essential-hook='printf "%s\n" virtio_pci virtio_blk ext4 >"$1/etc/initramfs-tools/modules"' \
	bookworm "$root" "${site:?this machine has no packages of Debian 12}" >&2

# The user that Vagrant logs in as, with the key that it has for this.
chroot "$root" useradd --create-home --home-dir /var/lib/vagrant --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
install -d -m 0700 "$root/var/lib/vagrant/.ssh"
ruby -r rubygems -e 'puts File.read(File.join(Gem::Specification.find_by_name("vagrant").full_gem_path, "keys", "vagrant.pub"))' \
	>"$root/var/lib/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /var/lib/vagrant

# No names are asked for whoever logs in: nobody would answer.
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/vagrant.conf"
echo debian >"$root/etc/hostname"
: >"$root/etc/resolv.conf" # not this machine's
echo '/dev/vda1 / ext4 defaults 0 0' >"$root/etc/fstab"
: >"$root/etc/machine-id"
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/20-eth0.network"
chroot "$root" systemctl --quiet enable systemd-networkd ssh
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
	dpkg-db-backup.timer e2scrub_reap.service systemd-networkd-wait-online.service systemd-logind.service
cat >"$root/extlinux.conf" <<END
DEFAULT linux
LABEL linux
	KERNEL /vmlinuz
	INITRD /initrd.img
	APPEND root=/dev/vda1 ro net.ifnames=0 console=ttyS0 mitigations=off quiet
END
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

# A disk of one partition, which extlinux makes bootable; what it cannot read
# ext4 does without. Its mount is all that needs a loop device.
size=4 # GiB
image=$work/image
truncate -s "${size}G" "$image"
echo '2048,,L,*' | sfdisk -q "$image"
dd if=/usr/lib/EXTLINUX/mbr.bin of="$image" bs=440 count=1 conv=notrunc status=none
mke2fs -q -t ext4 -O '^64bit,^metadata_csum' -d "$root" -E offset=$((2048 * 512)) "$image" $((size * 1024 * 1024 - 1024))k
loop=$(losetup --find --show --offset $((2048 * 512)) "$image")
mount "$loop" "$work/mnt"
extlinux --install "$work/mnt" >/dev/null 2>&1
umount "$work/mnt"
losetup -d "$loop"
loop=

qemu-img convert -c -O qcow2 -o compression_type=zstd "$image" "$work/box/box.img"
echo "{\"provider\": \"libvirt\", \"format\": \"qcow2\", \"virtual_size\": $size}" >"$work/box/metadata.json"
echo 'Vagrant.configure("2") { |config| }' >"$work/box/Vagrantfile"
mkdir -p "$box"
tar -C "$work/box" -cf "$box/overspan.box" metadata.json Vagrantfile box.img
cat >"$work/box.json" <<END
{"name": "overspan/debian-12", "versions": [{"version": "12.0.0",
  "providers": [{"name": "libvirt", "url": "file://$box/overspan.box"}]}]}
END
mv "$work/box.json" "$box/box.json"
echo "$box/box.json"
