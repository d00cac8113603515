#!/usr/bin/env bash
# The tests that need PostgreSQL, on servers of one major version:
#   scripts/test-major.sh MAJOR
# That version is put beside this system's own when it is missing; for one that
# no package has, set UNDERSTUDY_PG_BINDIR to the directory of its programs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_go
[ -n "${1:-}" ] || fail "say which major version, for example: make test-major MAJOR=17"

need_all
bin=$(scripts/install-postgres-major.sh "$1" | tee /dev/stderr | tail -n 1)
export UNDERSTUDY_PG_BINDIR=$bin
failed=0
# shellcheck disable=SC2046 # a list
"$GO" test -count=1 -timeout 20m $(tests_postgres) || failed=1
# One at a time: these measure how fast a group reacts.
UNDERSTUDY_INTEGRATION=all "$GO" test -count=1 -p 1 -timeout 40m ./test/integration || failed=1
[ "$failed" -eq 0 ] || fail "FAIL on PostgreSQL $1"
printf 'PASS on PostgreSQL %s\n' "$1"
