# What people run is at the top of the README. Everything is built into bin/.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
KUBE    := v1.37.2
STATIC  := $(GO) build
STRIP   := -s -w

# What upstream's code in our programs says that it is, to probed pods, webhooks and users of kubectl.
UPSTREAM = $(foreach of,k8s.io/component-base/version k8s.io/client-go/pkg/version,-X $(of).gitVersion=$(1) -X $(of).gitMajor=1 -X $(of).gitMinor=$(word 2,$(subst ., ,$(KUBE))) -X $(of).gitTreeState=clean -X $(of).gitCommit=unknown)

# What a node never uses is left out. Without grpcnotrace the linker keeps every method of every type, 20 MB of them.
TAGS := grpcnotrace,no_btrfs,no_devmapper,no_zfs,no_tracing

# The same for builds and tests, so that nothing is compiled twice.
export CGO_ENABLED := 0
export GOFLAGS     := $(GOFLAGS) -trimpath -tags=$(TAGS)

# runc has a module of its own, C in it, and libseccomp; it needs nothing of the machine that it runs on.
RUNC_TAGS := seccomp urfave_cli_no_docs netgo osusergo

CNI := $(addprefix github.com/containernetworking/plugins/plugins/,main/bridge main/loopback ipam/host-local meta/portmap)

.PHONY: build up down test e2e older roll bin/older bench lint fuzz sim deps conformance vagrant-check clean

build:
	@mkdir -p bin/cni
	$(STATIC) -ldflags '$(STRIP) -X main.version=$(VERSION) $(call UPSTREAM,$(KUBE)+murmur)' -o bin/ ./cmd/murmur ./cmd/murmur-lab ./cmd/murmur-runc ./cmd/pause
	$(STATIC) -ldflags '$(STRIP)' -o bin/ github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	$(STATIC) -ldflags '$(STRIP)' -o bin/cni/ $(CNI)
	cd contrib/runc && CGO_ENABLED=1 GOFLAGS=-trimpath $(STATIC) -buildmode pie -tags '$(RUNC_TAGS)' \
	  -ldflags '$(STRIP) -linkmode external -extldflags -static-pie' -o $(CURDIR)/bin/runc github.com/opencontainers/runc
	$(STATIC) -ldflags '$(STRIP) $(call UPSTREAM,$(KUBE))' -o bin/kubectl k8s.io/kubernetes/cmd/kubectl

# deps installs what the host lacks: the programs a node uses, and those the tests use.
deps:
	@scripts/deps.sh

# up starts a cluster of three nodes on this machine with an example on it; down removes all of it.
up: deps build
	@scripts/up.sh

down:
	@bin/murmur-lab down

test: deps build lint
	$(GO) test -timeout 20m ./...

# e2e runs the scenarios on real nodes alone.
e2e: deps build
	$(GO) test -count=1 -v -timeout 30m ./test/e2e

# older has a node run the daemon of an earlier commit beside those of this one.
OLD ?= HEAD~1
older: bin/older
	$(GO) test -count=1 -v -timeout 10m -run TestBesideAnOlderNode ./test/e2e -older $(CURDIR)/bin/older/murmur

# roll brings a whole fleet of an earlier commit up to date, a node at a time, under load.
roll: bin/older
	$(GO) test -count=1 -v -timeout 10m -run TestRoll ./test/e2e -older $(CURDIR)/bin/older/murmur

bin/older: deps build
	@rm -rf bin/older && git worktree prune && git worktree add --detach --force bin/older/source $(OLD)
	cd bin/older/source && $(STATIC) -ldflags '$(STRIP)' -o ../ ./cmd/murmur
	git worktree remove --force bin/older/source

# bench measures on real nodes what murmur promises, and prints a table: RUNS times all, or that whose name ONLY finds.
# Building upstream's programs, which stand beside, takes minutes the first time. ONLY=grow fills three nodes up to each of SIZES pods, in half an hour.
# AGAINST=DIR has another build's programs: ONLY=creates-against measures both in turns.
ONLY  ?=
RUNS  ?= 3
SIZES ?= 100,1000,5000,20000
bench: deps build
	$(GO) run ./test/bench -only '$(ONLY)' -runs $(RUNS) -sizes '$(SIZES)' -against '$(AGAINST)'

# conformance runs upstream's end-to-end suite on a lab: all conformance specs, or those that FOCUS finds and SKIP does not.
# Building the suite takes ten minutes the first time.
FOCUS ?=
SKIP  ?=
NODES ?= 3
PROCS ?= 4
conformance: deps build
	@scripts/deps.sh conformance
	@mkdir -p test/conformance/.cache && cd test/conformance && $(GO) build -o .cache/conformance . && \
	  .cache/conformance run -focus='$(FOCUS)' -skip='$(SKIP)' -nodes=$(NODES) -procs=$(PROCS)

# lint is what every change must pass: gofmt, go vet, and staticcheck and errcheck at the versions that contrib/lint pins. The first run on a
# machine looks at all dependencies, for some minutes; later ones at what has changed.
LINT := $(CURDIR)/contrib/lint/.cache/lint
lint:
	@out=$$(gofmt -l cmd contrib crdt durable examples gossip httpapi node rendezvous sched test wire); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	cd contrib/lint && $(GO) build -o $(LINT) . && $(GO) vet -vettool=$(LINT) . && $(GO) test .
	$(GO) vet -vettool=$(LINT) ./...

# vagrant-check validates the Vagrantfile; no VM is started.
vagrant-check:
	@command -v vagrant >/dev/null || apt-get install -y -qq --no-install-recommends vagrant >/dev/null
	$(GO) test -count=1 -run Vagrantfile ./test/vagrant

# fuzz runs every fuzz target for FUZZTIME, one after the other.
FUZZTIME ?= 30s
fuzz:
	@grep -rn --include='*_test.go' -o 'func Fuzz[A-Za-z]*' . | sed 's|^./\(.*\)/[^/]*:[0-9]*:func |\1 |' | sort | while read -r package target; do \
	  echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "./$$package" || exit 1; done

# sim plays many histories of a cluster in virtual time, each with faults of its own. A failing one prints the line that replays it.
SEEDS ?= 10000
sim:
	$(GO) test -count=1 -v -timeout 0 -run TestSeeds ./test/sim -seeds $(SEEDS)

clean:
	rm -rf bin
