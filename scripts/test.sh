#!/usr/bin/env bash
# The whole test ladder. Every part runs even when one before it failed; the
# last lines are the time of each part and, if there are any, the failures.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_go

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
times=() failed=() began=$SECONDS

# part NAME COMMAND... runs one part and notes how long it took.
part() {
	local name=$1 start=$SECONDS rc=0
	shift
	printf '\n== %s\n' "$name"
	"$@" 2>&1 | tee "$logs/$name" || rc=${PIPESTATUS[0]}
	local line
	line=$(printf '%-12s %4d s  %s' "$name" $((SECONDS - start)) "$([ "$rc" -eq 0 ] && echo ok || echo FAILED)")
	times+=("$line")
	[ "$rc" -eq 0 ] || failed+=("$name")
	printf '== %s\n' "$line"
	return "$rc"
}

gotest() { "$GO" test -count=1 "$@"; }

part setup need_all || exit 1
part vet "$GO" vet ./...
# Arch comes before what takes long. Property tests are among the unit tests.
part arch gotest -timeout 2m ./test/arch
part unit gotest -timeout 5m $(tests_plain)
part integration gotest -timeout 6m $(tests_postgres)
cluster=$(tests_cluster)
# One at a time: these measure how fast a group reacts.
[ -z "$cluster" ] || part cluster gotest -p 1 -timeout 12m $cluster
# What only a newer server has, and a failover on it; make test-major runs everything.
newer=$(scripts/install-postgres-major.sh 17 2>/dev/null | tail -n 1) || newer=
[ ! -x "$newer/postgres" ] || part postgres-17 env UNDERSTUDY_PG_BINDIR="$newer" "$GO" test -count=1 -timeout 6m ./test/integration -run 'TestBackup_Incremental$|TestMajor_|TestRoles_Failover'

printf '\n== times\n'
printf '%s\n' "${times[@]}"
printf '%-12s %4d s\n' total $((SECONDS - began))
if [ ${#failed[@]} -gt 0 ]; then
	printf '\n== failures\n'
	for name in "${failed[@]}"; do
		grep -hE '^(\s*--- FAIL|FAIL|panic:|vet:|# )|\.go:[0-9]+' "$logs/$name" | grep -vE '^FAIL$|\[rapid\] draw' | cut -c1-240 | head -60
	done
	echo FAIL
	exit 1
fi
echo PASS
