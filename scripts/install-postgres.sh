#!/bin/sh
# Makes sure that the PostgreSQL server binaries (14 or newer) are on this
# Debian or Ubuntu system. Binaries that are there are left as they are: nothing
# is ever upgraded. No database is created and no server is started.
set -eu

say() { printf 'install-postgres: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# major PATH prints the major version of a postgres binary, nothing if it has none.
major() {
	"$1" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9][0-9]*\).*/\1/p'
}

# find_server prints the first usable postgres binary.
find_server() {
	for p in "${UNDERSTUDY_PG_BINDIR:+$UNDERSTUDY_PG_BINDIR/postgres}" \
		/usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres "$(command -v postgres || true)"; do
		[ -n "$p" ] && [ -x "$p" ] || continue
		v=$(major "$p")
		if [ -n "$v" ] && [ "$v" -ge 14 ]; then
			printf '%s\n' "$p"
			return 0
		fi
	done
	return 1
}

if p=$(find_server); then
	say "found $("$p" --version) in $(dirname "$p"); nothing to do"
	exit 0
fi

[ "$(id -u)" -eq 0 ] || fail "no PostgreSQL server binaries (14 or newer) here and this user cannot install them: run this script as root, or set bin_dir to where they are"
command -v apt-get >/dev/null 2>&1 || fail "no PostgreSQL server binaries (14 or newer) here and no apt-get: install the PostgreSQL server with this system's package manager"

# The distribution's package creates and starts a cluster on port 5432 unless
# it is told not to before it is installed.
conf=/etc/postgresql-common/createcluster.conf
if [ -e "$conf" ] && grep -Eq '^[[:space:]]*create_main_cluster[[:space:]]*=' "$conf"; then
	if ! grep -Eq "^[[:space:]]*create_main_cluster[[:space:]]*=[[:space:]]*'?(false|off|no|0)" "$conf"; then
		say "setting create_main_cluster = false in $conf"
		sed -i 's/^[[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/' "$conf"
	fi
else
	say "writing create_main_cluster = false to $conf, so that no server is started"
	mkdir -p "$(dirname "$conf")"
	printf '%s\n' 'create_main_cluster = false' >>"$conf"
fi

export DEBIAN_FRONTEND=noninteractive
say "apt-get update"
apt-get -q update
# postgresql-contrib is a part of the server package on current releases.
packages=postgresql
if apt-cache show postgresql-contrib >/dev/null 2>&1; then
	packages="$packages postgresql-contrib"
fi
say "installing: $packages"
# shellcheck disable=SC2086 # a list
apt-get -q -y --no-upgrade --no-install-recommends \
	-o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef install $packages

p=$(find_server) || fail "the packages were installed, but no PostgreSQL server of version 14 or newer is there"
say "installed $("$p" --version) in $(dirname "$p"); no database was created and no server was started"
