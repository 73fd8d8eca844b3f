#!/usr/bin/env bash
# Builds what the machines are given, into vagrant/programs: agent and ctl, and
# etcd, from the very version that the agent embeds. ARCH is that of the box.
# "programs.sh tests" builds what kernel.sh runs.
set -euo pipefail
cd "$(dirname "$0")/.."

# v1 is what every emulated processor has.
export CGO_ENABLED=0 GOOS=linux GOARCH=${ARCH:-amd64} GOAMD64=v1
if [ "${1-}" = tests ]; then
	for package in kernel bridge overlay e2e; do
		go test -c -trimpath -ldflags '-s -w' -o "vagrant/programs/$package.test" "./$package"
	done
	# The agents that end-to-end tests build elsewhere: e2e/main_test.go names them.
	mkdir -p vagrant/programs/fast
	ln -f vagrant/programs/agent vagrant/programs/fast/agent
	go build -trimpath -ldflags '-s -w' -tags steps -o vagrant/programs/stepped/agent ./agent
	go build -trimpath -ldflags '-s -w -X github.com/overspan/overspan.Version=9.9.9-other' -o vagrant/programs/other/agent ./agent
	exit
fi
version=$(git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
go build -trimpath -ldflags "-s -w -X github.com/overspan/overspan.Version=$version" -o vagrant/programs/ ./agent ./ctl
go build -trimpath -ldflags '-s -w' -o vagrant/programs/etcd go.etcd.io/etcd/server/v3
