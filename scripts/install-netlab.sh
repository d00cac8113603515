#!/bin/sh
# Makes sure that ip, tc, nft and nsenter are on this Debian or Ubuntu system,
# with which tests and benchmarks put each node into a network of its own.
# Programs that are there are left as they are.
set -eu

say() { printf 'install-netlab: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# missing prints the packages of the programs that are not there.
missing() {
	command -v ip >/dev/null 2>&1 && command -v tc >/dev/null 2>&1 || echo iproute2
	command -v nft >/dev/null 2>&1 || echo nftables
	command -v nsenter >/dev/null 2>&1 || echo util-linux
}

# Administration programs are not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
packages=$(missing | tr '\n' ' ')
if [ -z "$packages" ]; then
	say "ip, tc, nft and nsenter are here; nothing to do"
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	say "not root, so tests that need network namespaces will be skipped"
	exit 0
fi
command -v apt-get >/dev/null 2>&1 || fail "missing: $packages, and there is no apt-get: install them with this system's package manager"

export DEBIAN_FRONTEND=noninteractive
say "apt-get update"
apt-get -q update
say "installing: $packages"
# shellcheck disable=SC2086 # a list
apt-get -q -y --no-upgrade --no-install-recommends \
	-o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef install $packages
packages=$(missing | tr '\n' ' ')
[ -z "$packages" ] || fail "the packages were installed, but still missing: $packages"
say "installed"
