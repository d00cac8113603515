#!/usr/bin/env bash
# Finds every fuzz target and runs it for FUZZTIME (60s unless told another).
# An input that fails is kept by go test under testdata/fuzz and is then a
# plain test case.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_go
n=0 failed=()
while read -r pkg; do
	while read -r target; do
		n=$((n + 1))
		printf '\n== %s %s for %s\n' "$pkg" "$target" "${FUZZTIME:=60s}"
		"$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$pkg" || failed+=("$pkg $target")
	done < <("$GO" test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true)
done < <(grep -rlE --include='*_test.go' '^func Fuzz[A-Z]' . | xargs -r -n1 dirname | sort -u)
printf '\n== %d fuzz targets, %d failed\n' "$n" "${#failed[@]}"
[ "$n" -gt 0 ] || fail "no fuzz target was found"
if [ ${#failed[@]} -gt 0 ]; then
	printf '%s\n' "${failed[@]}"
	exit 1
fi
