#!/usr/bin/env bash
# Makes certificates with openssl, below DIRECTORY: a CA; for each NAME=ADDRESS
# one of a server there, which is also a client of the others, such as a member of
# etcd; and for each NAME alone one of a client, such as a node. What is there is
# kept, so that more can be made later; to renew one, delete it and its key first.
# DAYS is how long those made now are valid.
#
# usage: certs.sh DIRECTORY NAME[=ADDRESS]…
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,8s/^# \?//p' "$0" >&2; exit 2; }
dir=$1
shift
days=${DAYS:-3650}
umask 077
mkdir -p "$dir"
cd "$dir"

# One without the other would make a CA that nobody knows, or a second one.
for missing in ca.key:ca.crt ca.crt:ca.key; do
	if [ ! -e "${missing%:*}" ] && [ -e "${missing#*:}" ]; then
		echo "certs.sh: $PWD has ${missing#*:} without ${missing%:*}: put that back; or, if this CA has signed nothing, delete ${missing#*:}" >&2
		exit 1
	fi
done
# A file bears its name when it is whole.
if [ ! -e ca.key ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" \
		-subj "/CN=overspan CA" -keyout ca.key.part -out ca.crt.part \
		-addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
	mv ca.key.part ca.key
	mv ca.crt.part ca.crt
fi

# sign NAME USAGE SAN…: a key and a certificate of NAME.
sign() {
	local name=$1 usage=$2 san=$3
	[ ! -e "$name.crt" ] || return 0
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
	openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out "$name.crt.part" \
		-extfile <(echo "basicConstraints=critical,CA:FALSE"; echo "keyUsage=critical,digitalSignature"; echo "extendedKeyUsage=$usage"; [ -z "$san" ] || echo "subjectAltName=$san")
	mv "$name.crt.part" "$name.crt"
	rm "$name.csr"
}

for entry in "$@"; do
	name=${entry%%=*}
	case $name in
	"" | ca | *[!A-Za-z0-9._-]*)
		echo "certs.sh: $entry: want NAME or NAME=ADDRESS" >&2
		exit 2
		;;
	esac
	if [ "$name" = "$entry" ]; then
		sign "$name" clientAuth ""
	else
		address=${entry#*=}
		# A member is a client of the others, and whoever is on its host asks it there.
		sign "$name" serverAuth,clientAuth "IP:$address,IP:127.0.0.1,IP:::1,DNS:$name,DNS:localhost"
	fi
done
