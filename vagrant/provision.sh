#!/bin/sh
# Makes this machine a node: programs, unit, settings, and the etcd that is asked
# for. It may run again: what is in place stays, and the agent is restarted only
# if something has changed. It waits for no other node, which may come up later.
#
#     provision.sh ADDRESS embedded|pair ADDRESS-OF-NODE1 ADDRESS-OF-NODE2
set -eu
address=$1
etcd=$2
first=$3
second=$4
tree=/overspan
case $etcd in embedded | pair) ;; *)
	echo "which etcd: embedded or pair, not $etcd" >&2
	exit 2
	;;
esac

changed=
# put installs a file with a mode, if it differs from what is there.
put() {
	if ! cmp -s "$2" "$3"; then
		mkdir -p "${3%/*}"
		# Beside it first: a program that runs cannot be written to.
		install -m "$1" "$2" "$3.new"
		mv "$3.new" "$3"
		changed=yes
	fi
}

# A box of ours has them all and reaches no mirror; a public one lacks some.
missing=
for entry in iptables:iptables ping:iputils-ping curl:curl busybox:busybox-static; do
	command -v "${entry%:*}" >/dev/null || missing="$missing ${entry#*:}"
done
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# Words.
	# shellcheck disable=SC2086
	apt-get install -qq -y --no-install-recommends $missing
fi

put 0755 "$tree/vagrant/programs/agent" /usr/sbin/agent
put 0755 "$tree/vagrant/programs/ctl" /usr/bin/ctl
put 0644 "$tree/deploy/systemd/overspan-agent.service" /etc/systemd/system/overspan-agent.service
put 0644 "$tree/deploy/network/01-overspan.network" /etc/systemd/network/01-overspan.network
put 0644 "$tree/deploy/network/01-overspan.link" /etc/systemd/network/01-overspan.link

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
	cat "$tree/deploy/agent.yaml"
	echo "advertise-address: $address"
	if [ "$etcd" = pair ]; then
		echo "etcd-endpoints: http://$first:2379,http://$second:2379"
	elif [ "$address" = "$first" ]; then
		echo "embedded-etcd: true"
	else
		echo "etcd-endpoints: http://$first:2379"
	fi
} >"$work/agent.yaml"
put 0644 "$work/agent.yaml" /etc/overspan/agent.yaml
agent=$changed

# From a member on each node to an etcd in the first agent: the member makes room.
# What it holds stays, should it be wanted again.
if [ "$etcd" = embedded ] && [ -e /etc/etcd/etcd.yaml ]; then
	systemctl --quiet disable --now etcd
	rm /etc/etcd/etcd.yaml /etc/systemd/system/etcd.service
fi

# Without TLS: the network between the machines is theirs alone. Never so elsewhere.
if [ "$etcd" = pair ]; then
	changed=
	cat >"$work/etcd.yaml" <<END
name: $(hostname)
data-dir: /var/lib/etcd
listen-client-urls: http://$address:2379,http://127.0.0.1:2379
advertise-client-urls: http://$address:2379
listen-peer-urls: http://$address:2380
initial-advertise-peer-urls: http://$address:2380
initial-cluster: node1=http://$first:2380,node2=http://$second:2380
initial-cluster-state: new
END
	put 0755 "$tree/vagrant/programs/etcd" /usr/local/bin/etcd
	put 0644 "$work/etcd.yaml" /etc/etcd/etcd.yaml
	put 0644 "$tree/deploy/etcd/etcd.service" /etc/systemd/system/etcd.service
	getent passwd etcd >/dev/null || useradd --system --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd
	systemctl daemon-reload
	systemctl --quiet enable etcd
	# The two wait for each other, and a machine may be made before the other.
	[ -z "$changed" ] || systemctl --no-block restart etcd
	systemctl --no-block start etcd
fi

systemctl daemon-reload
! systemctl is-active --quiet systemd-networkd || networkctl reload
systemctl --quiet enable overspan-agent
[ -z "$agent" ] || systemctl --no-block restart overspan-agent
systemctl --no-block start overspan-agent

# For verify.sh, which runs on the first node and asks the second.
if [ -e /tmp/vagrant.key ]; then
	install -d -m 0700 /etc/overspan/verify
	install -m 0600 /tmp/vagrant.key /etc/overspan/verify/key
	rm /tmp/vagrant.key
fi
