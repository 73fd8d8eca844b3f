#!/usr/bin/env bash
# Becomes the first process of a machine: in fresh namespaces, run.sh starts it
# with a root, which is not written to, and a directory for what the machine needs.
set -euo pipefail
root=$1
work=$2

mount --make-rprivate /
share=$work/share
layers=$(mktemp -d)
mount -t tmpfs tmpfs "$layers"
mkdir "$layers/upper" "$layers/work" "$layers/root"
mount -t overlay -o "lowerdir=$root,upperdir=$layers/upper,workdir=$layers/work" overlay "$layers/root"
cd "$layers/root"
mkdir -p share old
mount --bind "$share" share
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp

hostname trial
ip link set lo up
ip link add underlay type veth peer name cable
ip addr add 192.0.2.1/24 dev underlay
ip link set underlay up
ip link set cable up

pivot_root . old
umount -l /old
rmdir /old
export container=trial
exec /lib/systemd/systemd --log-target=console </dev/null
