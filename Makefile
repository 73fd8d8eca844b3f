# The commands of this repository; "make" alone lists them.

GO        ?= go
TOOL      := $(GO) tool -modfile=tools/go.mod
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
LDFLAGS   := -X github.com/overspan/overspan.Version=$(VERSION)

# How many packages are tested at once, and how long one may take.
P       ?= 3
TIMEOUT ?= 45m

# How often each benchmark runs, and which: a regular expression; empty: all,
# and docs/benchmarks.md is written.
COUNT ?= 3
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench generate build release trial vagrant-test vagrant-kernel deps

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: build ## three hosts, an overlay, a full mesh of pings; gone afterwards (root)
	@tools/deps.sh demo
	$(GO) run ./e2e/demo

# A program with the race detector waits before it ends, for races that its other
# goroutines may still have: a second, unless it is told otherwise, and tests end
# thousands of programs. Vet is a part of lint.
test: export GORACE ?= atexit_sleep_ms=10
test: deps lint ## everything that a change must pass (root)
	@# Those that take longest are begun first: the others run beside them.
	$(GO) test -vet=off -race -p $(P) -parallel 3 -timeout $(TIMEOUT) ./store ./kernel ./agent/daemon $$($(GO) list ./... | grep -v /e2e$$)
	@# By themselves: agents have bounds to keep, and no other package takes the processors.
	$(GO) test -vet=off -race -parallel 3 -timeout $(TIMEOUT) ./e2e
	@# Each benchmark once and small, so that none rots; nobody reads the times.
	$(GO) test -vet=off -short -run '^$$' -bench . -benchtime 1x -p $(P) -timeout $(TIMEOUT) ./...

lint: ## format, vet, staticcheck, and generated code against its sources
	@unformatted=$$($(TOOL) gofumpt -l .); if [ -n "$$unformatted" ]; then \
		echo "not gofumpt's format; run: $(TOOL) gofumpt -w ."; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags steps ./internal/steps
	$(TOOL) staticcheck ./...
	$(TOOL) buf lint
	tools/drift.sh

bench: deps ## measure, print a table, and write docs/benchmarks.md (root; a quiet machine; COUNT=3, BENCH=name)
	@COUNT='$(COUNT)' BENCH='$(BENCH)' tools/bench.sh

generate: ## generate Go from proto/ and docs/reference/ from the commands, and compile kernel/bpf/ (clang-14, llvm-14)
	$(TOOL) buf generate
	$(GO) generate ./kernel
	$(GO) test ./ctl ./agent -run TestReferenceIsCurrent -update

build: ## bin/agent and bin/ctl
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./agent ./ctl

release: ## dist/: static programs, .deb packages and archives for amd64 and arm64, checksums (VERSION=, ARCHS=)
	@VERSION='$(VERSION)' tools/release.sh

trial: ## what is in dist/ installed, used, upgraded under ping and purged on a Debian 12 of its own, with its systemd (root)
	@tools/deps.sh trial
	@deploy/trial/run.sh

vagrant-test: ## two virtual machines by vagrant up, emulated, looked at and gone afterwards (root; OVERSPAN_ETCD=pair)
	@tools/deps.sh vagrant
	@vagrant/test.sh

vagrant-kernel: ## the tests that meet the kernel, in a virtual machine with that of Debian 12 (root)
	@tools/deps.sh vagrant
	@vagrant/test.sh kernel

deps: ## install the system packages that the tests and the demo call, where missing (root)
	@tools/deps.sh test
