#!/usr/bin/env bash
# What an administrator does with the package, on a machine where it never was:
# install with what it depends on, configure, start, use, upgrade under ping, purge.
# Then nothing is left.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

say() { echo "== $*"; }
fail() {
	echo "FAIL: $*" >&2
	journalctl -u overspan-agent --no-pager -n 20 >&2 || true
	exit 1
}

# host prints what Overspan could leave on this machine: links, addresses,
# namespaces, rules, sets, settings and files. Logs, dpkg's own backups and what
# systemd keeps of its work are not meant.
host() {
	ip -o link
	ip -o addr
	ip route
	ip -6 route
	ip netns
	iptables-save
	ip6tables-save
	nft list ruleset
	sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding
	find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /share -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/lib/apt \) -prune -o -print
	find /run ! -path '/run/systemd*' ! -path '/run/log*' ! -path '/run/udev*'
}
# Without times and counters, and the lifetime of addresses.
still() { sed -E 's/^#.*//; s/\[[0-9]+:[0-9]+\]//; s/[a-z]+_lft [0-9]+sec//g; s/ tentative//' | sort; }

say "install, where iptables is missing"
! command -v iptables >/dev/null || fail "this machine is no newcomer: it has iptables"
apt-get install -y -qq /share/old.deb >/tmp/apt 2>&1 || fail "apt: $(cat /tmp/apt)"
iptables -V
[ "$(systemctl is-enabled overspan-agent || true)" = disabled ] || fail "an agent without settings is enabled"
for file in etcd/certs.sh etcd/etcd.yaml etcd/etcd.service etcd/overspan-etcd-backup.timer docker/follow.sh \
	docker/overspan-docker.service prometheus/overspan.rules.yaml container/compose.yaml; do
	[ -s "/usr/share/overspan/$file" ] || fail "the package has no $file"
done
[ -x /usr/share/overspan/etcd/certs.sh ] || fail "certs.sh cannot be run"
[ -s /usr/share/doc/overspan/docs/tutorial.md ] || fail "the package has no documentation"

say "the image's iptables runs with what is in it"
sh /share/rootfs.sh /tmp/image
chroot /tmp/image iptables -V
chroot /tmp/image ip6tables-legacy -V
rm -r /tmp/image

say "purge at once"
apt-get purge -y -qq overspan >/dev/null
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /share -o -path /var/log -o -path /var/lib/dpkg \) -prune -o -name '*overspan*' -print)
[ -z "$left" ] || fail "purge leaves $left"

# Of a host that becomes a router for everybody status would warn. The other
# chains of the table are there too, as on a host with a firewall: whose an empty
# one is could not be told afterwards.
for tables in iptables ip6tables; do
	"$tables" -P FORWARD DROP
	"$tables" -P INPUT ACCEPT
	"$tables" -P OUTPUT ACCEPT
done
# ip(8) makes its directory when it is first used, and keeps it.
ip netns add first
ip netns del first
host | still >/tmp/before

say "install again"
dpkg -i /share/old.deb >/dev/null
[ "$(systemctl is-enabled overspan-agent || true)" = disabled ] || fail "an agent without settings is enabled"

say "configure and start"
printf 'advertise-address: 192.0.2.1\nembedded-etcd: true\n' >>/etc/overspan/agent.yaml
systemctl enable --quiet --now overspan-agent || fail "the agent does not start"
ctl status >/dev/null || fail "an agent that systemd calls started does not answer"

say "use: by name, by process of another user, from a private directory, made, published, by name asked"
ctl network create -d overlay --ipv6 demo >/dev/null
ip netns add a
ip netns add b
ctl network connect demo a
ctl network connect --publish 80:80 demo b
setpriv --reuid nobody --regid nogroup --clear-groups unshare -U -r -n sleep 600 &
sleeper=$!
until [ "$(readlink /proc/$sleeper/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ctl network connect --name other demo "pid:$sleeper"
install -d -o nobody -m 0700 /srv/private
touch /srv/private/ns
ip netns add c
mount --bind /run/netns/c /srv/private/ns
ctl network connect --name hidden demo netns:/srv/private/ns
ctl sandbox create made >/dev/null
ctl network connect demo made
[ "$(stat -f -c %T /run/overspan/netns/*)" = nsfs ] || fail "the host does not see the namespace that the agent has made"
for name in a b other hidden; do
	ctl exec made -- ping -c 1 -W 2 "$name" >/dev/null || fail "$name does not answer"
done
ctl verify >/dev/null || fail "the kernel is not in line"
status=$(ctl status)
case $status in *Warning*) fail "$status" ;; esac

say "upgrade under ping"
address=$(ip -n b -4 -o addr show eth0 | awk '{ sub("/.*", "", $4); print $4 }')
before=$(systemctl show -p MainPID --value overspan-agent)
ip netns exec a ping -q -i 0.002 "$address" >/tmp/ping &
ping=$!
dpkg -i /share/new.deb >/dev/null
kill -INT "$ping"
wait "$ping" || fail "ping: $(cat /tmp/ping)"
grep -q ' 0% packet loss' /tmp/ping || fail "packets were lost: $(cat /tmp/ping)"
grep transmitted /tmp/ping
systemctl is-active --quiet overspan-agent || fail "no agent runs after the upgrade"
systemctl is-enabled --quiet overspan-agent || fail "the upgrade has disabled the agent"
[ "$before" != "$(systemctl show -p MainPID --value overspan-agent)" ] || fail "the old agent still runs"
ctl verify >/dev/null || fail "the kernel is not in line after the upgrade"

say "kill"
systemctl kill --signal KILL overspan-agent
until [ "$(systemctl show -p NRestarts --value overspan-agent)" = 1 ] && systemctl is-active --quiet overspan-agent; do sleep 0.1; done
ctl verify >/dev/null || fail "the kernel is not in line after a kill"

say "the service for Docker, where there is none"
systemctl enable --quiet --now /usr/share/overspan/docker/overspan-docker.service
until systemctl is-failed --quiet overspan-docker; do sleep 0.1; done
[ "$(systemctl show -p NRestarts --value overspan-docker)" = 0 ] || fail "it tries again and again"

say "purge, with mistakes in the settings and files of an administrator's own"
# shellcheck disable=SC2016 # what a shell would execute
printf 'OVERSPAN_ETCD_PASSWORD=a&touch /tmp/executed;$(touch /tmp/executed)(b\n' >>/etc/default/overspan
printf 'advertise-address: 192.0.2.1\nembedded-etcd: true\n' >>/etc/overspan/agent.yaml # twice
install -D -m 0600 /dev/null /etc/overspan/etcd/node.key
kill "$sleeper"
wait "$sleeper" 2>/dev/null || true
umount /srv/private/ns
rm -r /srv/private
for name in a b c; do ip netns del "$name"; done
apt-get purge -y -qq overspan >/tmp/purge 2>&1 || fail "purge: $(cat /tmp/purge)"
[ ! -e /tmp/executed ] || fail "removing the package has executed a password"
grep -q '/etc/overspan is kept' /tmp/purge || fail "purge does not say that keys are kept: $(cat /tmp/purge)"
rm -r /etc/overspan
host | still >/tmp/after
diff /tmp/before /tmp/after || fail "purge leaves something (<: before, >: after)"
say "nothing is left"
