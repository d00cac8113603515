#!/usr/bin/env bash
# Runs the tests under the race detector.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_go
cc=$("$GO" env CC)
command -v "${cc%% *}" >/dev/null 2>&1 || fail "the race detector needs cgo and a C compiler, and $cc is not installed (Debian: apt-get install gcc libc6-dev)"
need_postgres
scripts/install-backup-servers.sh
scripts/install-stock-tools.sh
# The pure packages start no goroutine; test/arch only reads files.
pkgs=$("$GO" list ./... | grep -vE '/(test/arch|shipper/(pos|frame|flow|walfmt)|primary/quorum|ledger/facts|failover/(decide|role)|cmd/internal/view)$')
# Groups of real daemons are built with the detector too.
export UNDERSTUDY_TEST_RACE=1
CGO_ENABLED=1 "$GO" test -race -count=1 -timeout 15m $pkgs
