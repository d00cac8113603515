# Everything works from a bare clone on Linux with Go and make; what a target
# needs besides, it installs or asks for in one sentence.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The demo's directory: must be reachable for user postgres when run as root.
DIR ?=
# Time for each fuzz target.
FUZZTIME ?= 60s
# Runs of the simulation.
SEEDS ?= 10000
# The fault campaign: rounds, the seed (0 takes one by the clock), the first
# round, and the group's policy.
ROUNDS   ?= 200
SEED     ?= 0
FROM     ?= 1
FAILOVER ?= automatic
# The PostgreSQL of test-major.
MAJOR ?= 17
# The linter, run without being a dependency of the module.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: all build demo demo-stop test test-major sim mutations interrupt groups faults faults-backup race fuzz cover bench lint fmt clean help
.DEFAULT_GOAL := build

all: build lint test

## build: make bin/understudy, one static program
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/understudy ./cmd/understudy

## demo: build, and run three nodes with a real PostgreSQL until Ctrl-C (DIR=directory, ARGS=more flags)
demo: build
	scripts/install-postgres.sh
	bin/understudy demo --dir "$$(scripts/demo-dir.sh '$(DIR)')" $(ARGS)

## demo-stop: stop a demo that runs in the background
demo-stop:
	bin/understudy demo stop --dir "$$(scripts/demo-dir.sh '$(DIR)')"

## test: the whole ladder: vet, unit and property, arch, integration with real PostgreSQL
test:
	@GO='$(GO)' scripts/test.sh

## test-major: the tests that need PostgreSQL, on version MAJOR, which is put beside the system's own when it is missing
test-major:
	@GO='$(GO)' scripts/test-major.sh '$(MAJOR)'

## sim: SEEDS runs of the simulation of role changes, in virtual time
sim:
	$(GO) test -count=1 -timeout 3h ./test/sim -run 'TestSim$$' -args -seeds $(SEEDS)

## mutations: bugs planted into the simulation, and the seed and the check that find each
mutations:
	$(GO) test -count=1 -timeout 1h ./test/sim -run 'TestMutations$$' -v

## interrupt: interrupt every step of every change of role on real groups (make test takes a part of them)
interrupt:
	scripts/install-postgres.sh
	UNDERSTUDY_INTERRUPT=all $(GO) test -count=1 -timeout 1h ./test/interrupt

## groups: all tests of whole groups (make test leaves a few out)
groups:
	scripts/install-postgres.sh
	scripts/install-netlab.sh
	scripts/install-backup-servers.sh
	scripts/install-stock-tools.sh
	UNDERSTUDY_INTEGRATION=all $(GO) test -count=1 -timeout 40m ./test/integration

## faults: ROUNDS of random faults on a group with a network of its own (SEED and FROM repeat them; needs root)
faults:
	scripts/install-postgres.sh
	scripts/install-netlab.sh
	$(GO) test -count=1 -timeout 24h -v ./test/faults -run 'TestCampaign$$' -args -rounds $(ROUNDS) -seed $(SEED) -from $(FROM) -failover $(FAILOVER)

## faults-backup: ROUNDS of SIGKILL to what takes, stores, deletes and restores backups (SEED and FROM repeat them; needs root)
faults-backup:
	scripts/install-postgres.sh
	$(GO) test -count=1 -timeout 24h -v ./test/faults -run 'TestBackups$$' -args -rounds $(ROUNDS) -seed $(SEED) -from $(FROM)

## race: the same tests under the race detector (needs a C compiler)
race:
	@GO='$(GO)' scripts/race.sh

## fuzz: every fuzz target for FUZZTIME each
fuzz:
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz.sh

## cover: run all tests once, print coverage by package, write bin/cover.html
cover:
	@GO='$(GO)' scripts/cover.sh

## bench: compare with PostgreSQL's own replication on this machine
bench: build
	scripts/install-pgbackrest.sh
	$(GO) run ./test/bench $(ARGS)

## lint: gofmt, vet, staticcheck
lint:
	@test -z "$$(gofmt -l .)" || { echo "lint: not formatted (run make fmt):"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

## fmt: format all Go files
fmt:
	gofmt -w .

## clean: remove what make build and make cover wrote
clean:
	rm -rf bin

## help: this list
help:
	@sed -n 's/^## //p' Makefile
