# Helpers of the scripts beside this file; sourced, not run.

GO=${GO:-go}

fail() {
	printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
	exit 1
}

need_go() {
	command -v "$GO" >/dev/null 2>&1 || fail "Go is not installed; see go.mod for the version and https://go.dev/dl for the download"
}

# The packages by what their tests need: tests_cluster start daemons,
# tests_postgres only PostgreSQL servers, tests_plain neither. test/arch is in
# none of them.
tests_cluster() { packages | awk '/ understudy\/test\/cluster /{print $1}'; }
tests_postgres() { packages | awk '/ understudy\/test\/pgtest / && !/ understudy\/test\/cluster /{print $1}'; }
tests_plain() { packages | awk '!/ understudy\/test\/(pgtest|cluster) / && $1 != "understudy/test/arch"{print $1}'; }

# packages prints each package with what its tests import.
packages() {
	"$GO" list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}} ' ./...
}

# need_postgres installs the server binaries when they are missing.
need_postgres() {
	scripts/install-postgres.sh
	[ "$(id -u)" -ne 0 ] || id postgres >/dev/null 2>&1 ||
		fail "tests run as root start PostgreSQL as user postgres, and there is no such user"
}

# need_all installs what any test of the ladder needs.
need_all() {
	need_postgres && scripts/install-netlab.sh && scripts/install-backup-servers.sh && scripts/install-stock-tools.sh && need_newer
}

# need_newer puts a PostgreSQL beside this system's that offers what older ones
# do not, such as incremental backups. Where it cannot be had, the tests that need
# it are skipped.
need_newer() {
	scripts/install-postgres-major.sh 17 || printf 'without PostgreSQL 17 the tests that need it are skipped\n'
}
