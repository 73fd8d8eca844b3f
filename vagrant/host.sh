#!/usr/bin/env bash
# Runs a command on a host of virtual machines of its own: a libvirtd in fresh
# namespaces, with all of its state in a directory that is given. Bridges, rules
# and routes of this host stay as they are, and with the command everything that
# it has started ends. Root.
#
#     host.sh DIRECTORY COMMAND [ARG...]
set -euo pipefail

if [ "${1-}" != --within ]; then
	exec unshare -m -p -n -u -i --fork --kill-child "${BASH_SOURCE[0]}" --within "$@"
fi
work=$2
shift 2

mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
for path in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt; do
	mkdir -p "$work/$path"
	mount --bind "$work/$path" "/$path"
done
ip link set lo up
hostname vagrant

# There is no other user here, no systemd that would make cgroups, and nobody
# from whom machines would have to be confined.
cat >/etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END
cat >/etc/libvirt/libvirtd.conf <<'END'
auth_unix_rw = "none"
END
libvirtd --daemon --pid-file /run/libvirtd.pid

export VAGRANT_HOME=$work/vagrant VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_DOTFILE_PATH=$work/dotfile
# Nothing here reaches the world: nobody is asked for newer versions.
export VAGRANT_CHECKPOINT_DISABLE=1
cd "$(dirname "${BASH_SOURCE[0]}")"
"$@"
