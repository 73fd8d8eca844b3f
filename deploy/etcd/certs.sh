#!/usr/bin/env bash
# Makes the certificates of an etcd and its agents with openssl, below DIRECTORY:
# a CA, one certificate for each member (NAME=ADDRESS), which it shows to clients
# and to the other members, and one for the agents. What is there is kept, so
# that a member can be added later.
#
# usage: certs.sh DIRECTORY NAME=ADDRESS…
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
dir=$1
shift
days=3650
umask 077
mkdir -p "$dir"
cd "$dir"

if [ ! -e ca.key ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" \
		-subj "/CN=overspan etcd CA" -keyout ca.key -out ca.crt \
		-addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
fi

# sign NAME USAGE SAN…: a key and a certificate of NAME.
sign() {
	local name=$1 usage=$2 san=$3
	[ ! -e "$name.crt" ] || return 0
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
	openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out "$name.crt" \
		-extfile <(echo "basicConstraints=critical,CA:FALSE"; echo "keyUsage=critical,digitalSignature"; echo "extendedKeyUsage=$usage"; [ -z "$san" ] || echo "subjectAltName=$san")
	rm "$name.csr"
}

for member in "$@"; do
	name=${member%%=*}
	address=${member#*=}
	if [ "$name" = "$member" ]; then
		echo "certs.sh: $member: want NAME=ADDRESS" >&2
		exit 2
	fi
	# A member is a client of the others, and etcdctl on its host of itself.
	sign "$name" serverAuth,clientAuth "IP:$address,IP:127.0.0.1,IP:::1,DNS:$name,DNS:localhost"
done
sign agent clientAuth ""
