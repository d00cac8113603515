#!/usr/bin/env bash
# Coverage of every package by all tests together.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_go
need_postgres
scripts/install-backup-servers.sh
scripts/install-stock-tools.sh
mkdir -p bin
"$GO" test -count=1 -timeout 15m -coverpkg=./... -coverprofile=bin/cover.out ./...
"$GO" tool cover -html=bin/cover.out -o bin/cover.html
# A statement that several test programs reached counts once.
awk 'NR > 1 {
	split($1, at, ":"); pkg = at[1]; sub("/[^/]*$", "", pkg)
	size[$1] = $2; of[$1] = pkg
	if ($3 > 0) hit[$1] = 1
} END {
	for (b in size) { all[of[b]] += size[b]; total += size[b]; if (b in hit) { got[of[b]] += size[b]; done += size[b] } }
	for (p in all) printf "%5.1f %%  %s\n", 100 * got[p] / all[p], p | "sort -k3"
	close("sort -k3")
	printf "%5.1f %%  all\n", 100 * done / total
}' bin/cover.out
