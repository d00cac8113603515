#!/bin/sh
# Makes sure that zstd is on this Debian or Ubuntu system, with which tests read
# backups as an operator without this program would.
set -eu

say() { printf 'install-stock-tools: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

if command -v zstd >/dev/null 2>&1 && command -v tar >/dev/null 2>&1; then
	say "tar and zstd are here; nothing to do"
	exit 0
fi
[ "$(id -u)" -eq 0 ] || fail "zstd is missing; install it as root: apt-get install zstd tar"
command -v apt-get >/dev/null 2>&1 || fail "zstd is missing, and there is no apt-get: install it with this system's package manager"
export DEBIAN_FRONTEND=noninteractive
say "apt-get update"
apt-get -q update
apt-get -q -y --no-upgrade --no-install-recommends install zstd tar
command -v zstd >/dev/null 2>&1 || fail "the package zstd was installed, but zstd is still missing"
say "installed"
