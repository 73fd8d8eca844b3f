#!/bin/sh
# Looks at two nodes, from the first, as root: that they are a cluster, that an
# overlay carries packets, names, streams and published ports between them, that
# restarts lose none, and that what a dead node held is freed. It makes what it
# needs and takes it away again, and leaves the second node switched off.
set -eu
other=192.168.56.12
work=$(mktemp -d)
ping=
catchall=/etc/systemd/network/10-all.network
finish() {
	[ -z "$ping" ] || kill "$ping" 2>/dev/null || true
	ssh -q -o "ControlPath=$work/ssh" -O exit "$other" 2>/dev/null || true
	rm -rf "$work"
	if [ -e "$catchall" ]; then
		rm "$catchall"
		networkctl reload || true
	fi
}
trap finish EXIT

say() { echo "== $*"; }
fail() {
	echo "FAIL: $*" >&2
	ctl status >&2 || true
	journalctl -u overspan-agent --no-pager -n 20 >&2
	there journalctl -u overspan-agent --no-pager -n 20 >&2 || true
	exit 1
}
# there runs lines of sh on the second node, as root. One that is off is given up
# after a minute, not after TCP's quarter of an hour.
there() {
	echo "$*" | ssh -q -i /etc/overspan/verify/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
		-o ConnectTimeout=60 -o ServerAliveInterval=20 -o ServerAliveCountMax=3 \
		-o ControlMaster=auto -o "ControlPath=$work/ssh" -o ControlPersist=yes "vagrant@$other" sudo sh -eu
}
# within waits as many seconds for a command to succeed.
within() {
	end=$(($(date +%s) + $1))
	shift
	until "$@" >"$work/within" 2>&1; do
		[ "$(date +%s)" -lt "$end" ] || fail "not in time: $*: $(cat "$work/within")"
		sleep 0.2
	done
}
same() { [ "$1" = "$2" ] || fail "$3: $1, not $2"; }
# pings runs a ping, here or there, which loses nothing.
pings() {
	out=$("$@" 2>&1) || true
	case $out in
	*", 0% packet loss"*) echo "$out" | grep transmitted ;;
	*) fail "$*: $out" ;;
	esac
}
address() { ctl endpoint ls --filter "name=^$1\$" --format '{{.IPv4Address}}' demo | cut -d / -f 1; }
nodes() { ctl node ls --filter status=up --format '{{.Name}}' | sort | tr '\n' ' '; }
both_up() { [ "$(nodes)" = "node1 node2 " ]; }
# What a node knows of etcd: whether each member answers, and whether all that is
# old.
etcd="ctl status --format '{{range .Etcd}}{{.Healthy}} {{end}}{{if .Stale}}stale{{end}}'"
members=1
[ ! -e /etc/etcd/etcd.yaml ] || members=2
healthy() {
	case $1 in *false* | *stale*) return 1 ;; esac
	[ "$(echo "$1" | wc -w)" -ge "$members" ]
}
healthy_here() { healthy "$(eval "$etcd")"; }
healthy_there() { healthy "$(there "$etcd")"; }

say "two nodes, one cluster"
within 120 both_up
there systemctl is-active --quiet overspan-agent || fail "no agent runs on the other node"
within 60 healthy_here
within 60 healthy_there
ctl status
ctl node ls
# What is left of a run that failed.
ctl sandbox rm web1 late 2>/dev/null || true
there 'systemctl stop demo || true; ctl sandbox rm web2 || true' 2>/dev/null
ctl network rm demo 2>/dev/null || true

# As with whoever has systemd-networkd configure all links there are; but for this
# machine's own, which it would lose.
if systemctl is-active --quiet systemd-networkd; then
	printf '[Match]\nName=os*\n\n[Network]\nLinkLocalAddressing=no\n' >"$catchall"
	networkctl reload
fi

say "a network made on one is there on the other"
ctl network create -d overlay demo >/dev/null
listed() { there "ctl network ls --filter name=^demo\$ --format '{{.Name}} {{.Driver}} {{.Scope}}'"; }
same "$(listed)" "demo overlay global" "what the other node lists"
there ctl network ls

say "containers on both"
ctl sandbox create web1 >/dev/null
ctl network connect demo web1
there 'ctl sandbox create web2 >/dev/null; ctl network connect --publish 8080:80 demo web2'
one=$(address web1)
two=$(address web2)
ctl endpoint ls demo

if [ -e "$catchall" ]; then
	say "systemd-networkd keeps its hands off our links"
	ours() { networkctl list --no-legend --no-pager | awk '$2 ~ /^os[bvx]-/ { print substr($2, 1, 3), $5 }' | sort -u; }
	# Until udev has seen a link, it is pending.
	settled() { ! ours | grep -E 'pending|initialized'; }
	within 60 settled
	networkctl list --no-legend --no-pager | grep ' os[bvx]-' || true
	same "$(ours | tr '\n' ';')" "osb unmanaged;osv unmanaged;osx unmanaged;" "what networkd does with our links"
fi

say "ping by address and by name, both ways"
pings ctl exec web1 -- ping -q -c 3 "$two"
pings ctl exec web1 -- ping -q -c 3 web2
pings there "ctl exec web2 -- ping -q -c 3 $one"
pings there "ctl exec web2 -- ping -q -c 3 web1"

say "100 MB over TCP"
there 'mkdir -p /srv/demo; echo ready >/srv/demo/index.html; head -c 100000000 /dev/urandom >/srv/demo/data
	systemd-run --quiet --collect --unit demo ctl exec web2 -- busybox httpd -f -p 80 -h /srv/demo'
served() { ctl exec web1 -- curl -fsS --max-time 5 http://web2/; }
within 30 served
got=$(ctl exec web1 -- curl -fsS -w '%{stderr}%{size_download} bytes in %{time_total} s\n' http://web2/data | sha256sum)
same "$got" "$(there sha256sum '</srv/demo/data')" "what has arrived"

say "a published port, from the other machine"
got=$(curl -fsS --max-time 120 "http://$other:8080/data" | sha256sum)
same "$got" "$(there sha256sum '</srv/demo/data')" "what has arrived"

say "both agents restarted under ping"
ctl exec web1 -- ping -i 0.02 "$two" >"$work/ping" &
ping=$!
# Those that were answered, each once.
answered() { sed -n 's/^[0-9]* bytes from .*icmp_seq=\([0-9]*\) .*/\1/p' "$work/ping" | sort -un; }
answers() { answered | wc -l; }
more() { [ "$(answers)" -gt "$seen" ]; }
seen=0
within 10 more
systemctl restart overspan-agent
there systemctl restart overspan-agent
seen=$(answers)
within 10 more
kill "$ping"
{ wait "$ping" || true; } 2>/dev/null
ping=
# Up to the last that was answered, all were: the one that was under way is not meant.
last=$(answered | tail -n 1)
echo "$(answers) of $last answered"
same "$(answers)" "$last" "packets answered"
within 60 both_up
ctl verify
there ctl verify

if [ -e /etc/etcd/etcd.yaml ]; then
	say "the other node's member leaves etcd, in which one of two is no majority"
	# member talks to etcd's gateway of gRPC.
	member() { curl -fsS --max-time 30 -d "$2" "http://127.0.0.1:2379/v3/cluster/member/$1"; }
	id=$(member list '{}' | tr '{' '\n' | sed -n 's/.*"ID":"\([0-9]*\)","name":"node2".*/\1/p')
	member remove "{\"ID\": \"$id\"}" >/dev/null
	within 60 ctl status
fi

say "the other node is switched off, and what it held is freed"
# As if its plug were pulled: its agent gives nothing back.
there 'sync; systemd-run --quiet --on-active=1s --timer-property=AccuracySec=100ms systemctl poweroff -ff'
down() { [ "$(ctl node ls --filter status=down --format '{{.Name}}')" = node2 ]; }
within 120 down
[ -n "$(ctl ipam ls --filter node=node2 --format '{{.First}}')" ] || fail "a node that is down has lost its addresses"
ctl sandbox create late >/dev/null
! ctl network connect --ip "$two" demo late 2>"$work/refused" || fail "$two was lent twice"
cat "$work/refused"
ctl node rm node2
ctl network connect --ip "$two" demo late
pings ctl exec web1 -- ping -q -c 3 "$two"
pings ctl exec web1 -- ping -q -c 3 late
ctl ipam ls demo
holders=$(ctl ipam ls --format '{{.Node}}' demo)
same "$(echo "$holders" | sort -u)" node1 "who holds addresses"
same "$(ctl node ls --format '{{.Name}}')" node1 "the nodes"
same "$(ctl endpoint ls --format '{{.Name}}' demo | sort | tr '\n' ' ')" "late web1 " "the endpoints"

say "nothing is left"
ctl sandbox rm web1 late
ctl network rm demo
ctl verify
