#!/usr/bin/env bash
# Builds what is released into dist/: for each architecture of ARCHS the static
# programs, a .deb and an archive, and the checksums of both. VERSION says
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
CGO_ENABLED=0 go run ./ctl completion bash >"$dist/ctl.bash"

for arch in $archs; do
	VERSION=$version ARCH=$arch DIST=$dist go tool -modfile=tools/go.mod nfpm package \
		--config deploy/nfpm.yaml --packager deb --target "$dist/"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$dist/linux-$arch" -cf - agent ctl |
		gzip -n >"$dist/overspan_${version}_linux_$arch.tar.gz"
done
(cd "$dist" && sha256sum -- *.deb *.tar.gz >SHA256SUMS && cat SHA256SUMS)
