#!/usr/bin/env bash
# Builds what is released into dist/: for each architecture of ARCHS the static
# programs, a .deb and an archive, with units, settings and documentation in both,
# and their checksums. VERSION says
# which release; one that is no version, such as a commit's, becomes 0.1.0-dev+it.
# DIST is another directory than dist/.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${VERSION:?which release}
version=${version#v}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || version=0.1.0-dev+$version
dist=${DIST:-dist}
archs=${ARCHS:-amd64 arm64}

# The same commit makes the same programs and archives, wherever it is built.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
flags="-s -w -X github.com/overspan/overspan.Version=$version"

mkdir -p "$dist"
rm -f "$dist"/*.deb "$dist"/*.tar.gz "$dist/SHA256SUMS"
for arch in $archs; do
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -ldflags "$flags" -o "$dist/linux-$arch/" ./agent ./ctl
done
# A program of this machine writes what shells want to know.
CGO_ENABLED=0 go run -trimpath ./ctl completion bash >"$dist/ctl.bash"

# What an operator copies or reads, in /usr/share of the package: etcd's files,
# Docker's, alarms, the compose file; and the pages, which lead to each other.
share=$dist/share
doc=$dist/doc
rm -rf "$share" "$doc"
mkdir -p "$share" "$doc"
cp -R deploy/etcd deploy/docker deploy/prometheus "$share/"
install -D -m 0644 deploy/container/compose.yaml "$share/container/compose.yaml"
install -m 0644 ./*.md "$doc/"
cp -R docs "$doc/"
# A page that leads to what is not among them leads to the repository instead.
find "$doc" -name '*.md' | while read -r page; do
	at=$(dirname "$page")
	{ grep -oP '\]\(\K[^)#:\s]+(?=[)#])' "$page" || true; } | sort -u | while read -r link; do
		[ ! -e "$at/$link" ] || continue
		path=$(realpath -m --relative-to="$doc" "$at/$link")
		sed -i "s|](${link//./\\.}\\([)#]\\)|](https://github.com/overspan/overspan/blob/main/$path\\1|g" "$page"
	done
done
find "$share" "$doc" -type f -exec chmod u=rwX,go=rX {} + -o -type d -exec chmod 0755 {} +

for arch in $archs; do
	VERSION=$version ARCH=$arch DIST=$dist go tool -modfile=tools/go.mod nfpm package \
		--config deploy/nfpm.yaml --packager deb --target "$dist/"
	# For other systems the same, and what the package puts into place.
	tree=$dist/overspan_${version}_linux_$arch
	rm -rf "$tree"
	mkdir -p "$tree"
	cp "$dist/linux-$arch/agent" "$dist/linux-$arch/ctl" LICENSE deploy/agent.yaml "$tree/"
	cp "$dist/ctl.bash" "$tree/ctl.bash"
	cp -R deploy/systemd deploy/network "$share" "$doc" "$tree/"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$dist" -cf - "${tree##*/}" |
		gzip -n >"$tree.tar.gz"
	rm -rf "$tree"
done
(cd "$dist" && sha256sum -- *.deb *.tar.gz >SHA256SUMS && cat SHA256SUMS)
