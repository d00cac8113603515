#!/bin/sh
# Makes sure that pgBackRest is on this Debian or Ubuntu system, beside which the
# benchmark of backups measures. Nothing else needs it.
set -eu

say() { printf 'install-pgbackrest: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

if command -v pgbackrest >/dev/null 2>&1; then
	say "$(pgbackrest version) is here; nothing to do"
	exit 0
fi
[ "$(id -u)" -eq 0 ] || fail "pgbackrest is missing; install it as root: apt-get install pgbackrest"
command -v apt-get >/dev/null 2>&1 || fail "pgbackrest is missing, and there is no apt-get: install it with this system's package manager"
export DEBIAN_FRONTEND=noninteractive
say "apt-get update"
apt-get -q update
apt-get -q -y --no-upgrade --no-install-recommends install pgbackrest
command -v pgbackrest >/dev/null 2>&1 || fail "the package pgbackrest was installed, but pgbackrest is still missing"
say "installed $(pgbackrest version)"
