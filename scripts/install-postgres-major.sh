#!/bin/sh
# Puts the server and all tools of one major version of PostgreSQL into a
# directory of its own, beside whatever is installed, and prints the directory
# of its programs as the last line:
#
#   scripts/install-postgres-major.sh MAJOR [DIR]
#
# The packages are those of the Debian release that carries this version, from
# the mirror that this Debian system uses; they are unpacked, not installed. So
# that the programs run here as they are, each is told to use the C library and
# the other libraries that were unpacked beside it.
set -eu

say() { printf 'install-postgres-major: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

major=${1:-}
case $major in
"" | *[!0-9]*) fail "say which major version, for example: $0 17" ;;
esac

# found DIR ends the script when DIR holds the programs.
found() {
	[ -x "$1/postgres" ] && [ -x "$1/pg_rewind" ] && [ -x "$1/pg_controldata" ] || return 0
	v=$("$1/postgres" --version | sed -n 's/^postgres (PostgreSQL) \([0-9][0-9]*\).*/\1/p')
	[ "$v" = "$major" ] || return 0
	say "found $("$1/postgres" --version)"
	printf '%s\n' "$1"
	exit 0
}

# Where the tests run as root the servers run as user postgres, who does not
# reach root's home.
cache=/var/cache/understudy
[ "$(id -u)" -eq 0 ] || cache=${XDG_CACHE_HOME:-$HOME/.cache}/understudy
dir=${2:-$cache/postgresql-$major}
case $dir in
/*) ;;
*) dir=$PWD/$dir ;;
esac
bin=$dir/usr/lib/postgresql/$major/bin

[ -z "${UNDERSTUDY_PG_BINDIR:-}" ] || found "$UNDERSTUDY_PG_BINDIR"
found "/usr/lib/postgresql/$major/bin"
found "/usr/pgsql-$major/bin"
found "$bin"

# The release, and whether it is still made: then its index may be old.
case $major in
15) suite=bookworm rolling=no ;;
17) suite=trixie rolling=no ;;
18) suite=forky rolling=yes ;;
*) fail "no Debian release carries PostgreSQL $major; install it, or build it from source, and set UNDERSTUDY_PG_BINDIR to the directory of its programs" ;;
esac
{ command -v apt-get && command -v dpkg; } >/dev/null 2>&1 || fail "no apt-get here: install PostgreSQL $major with this system's package manager and set UNDERSTUDY_PG_BINDIR to the directory of its programs"

# mirror is this system's own source of Debian's packages.
mirror() {
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" && $4 !~ /-/ { print $5; exit }'
}
uri=$(mirror)
if [ -z "$uri" ] && [ "$(id -u)" -eq 0 ]; then
	say "apt-get update"
	apt-get -q update
	uri=$(mirror)
fi
[ -n "$uri" ] || fail "apt-get here has no index of a Debian mirror: run apt-get update as root; on another system install PostgreSQL $major with its package manager and set UNDERSTUDY_PG_BINDIR"

work=$(mktemp -d)
new=$dir.new.$$
trap 'rm -rf "$work" "$new"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/none" "$work/debs" "$work/tools" "$new"
: >"$work/status"
options=
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ ! -e "$keys" ] || options="signed-by=$keys"
[ "$rolling" = no ] || options="$options check-valid-until=no"
printf 'deb %s %s %s main\n' "${options:+[$options]}" "$uri" "$suite" >"$work/sources.list"

# apt is apt-get with an index and an idea of what is installed (nothing) of its
# own; proxies and the like remain the system's.
apt() {
	apt-get -q -o APT::Sandbox::User=root -o Acquire::Languages=none \
		-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/none" \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$work/none" \
		-o Dir::State="$work" -o Dir::State::status="$work/status" -o Dir::State::lists="$work/lists" \
		-o Dir::Cache="$work" "$@"
}

say "reading the index of $suite"
apt update
# Of what the packages depend on only libraries are needed, and not the compiler
# with which the server may compile long queries.
packages=$(apt -s --no-install-recommends install "postgresql-$major" "postgresql-client-$major" |
	sed -n 's/^Inst \([^ :]*\)[ :].*/\1/p' | grep -E "^(lib|zlib1g$|postgresql-(client-)?$major$)" |
	grep -Ev '^(libllvm|libz3-|libperl|.*-perl$)' | tr '\n' ' ')
[ -n "$packages" ] || fail "the release $suite of the mirror has no package postgresql-$major"
say "unpacking: $packages"
# shellcheck disable=SC2086 # a list
(cd "$work/debs" && apt download $packages)
for d in "$work"/debs/*.deb; do dpkg -x "$d" "$new"; done
mkdir -p "$work/debs/tools"
(cd "$work/debs/tools" && apt download patchelf libstdc++6 libgcc-s1)
for d in "$work"/debs/tools/*.deb; do dpkg -x "$d" "$work/tools"; done
rm -rf "$new/usr/share/doc" "$new/usr/share/man" "$new/usr/share/locale" "$new/usr/share/lintian" "$new/usr/share/bug" \
	"$new/usr/lib/postgresql/$major/lib/bitcode" "$new/usr/lib/postgresql/$major/lib/llvmjit.so"

# The loader is named by its place, which is final; libraries are looked for
# from where a program is.
loader=$(cd "$new" && find usr/lib -name 'ld-linux*.so.*' | head -n 1)
[ -n "$loader" ] || fail "the C library of $suite holds no loader where it was expected"
triplet=$(basename "$(dirname "$loader")")
for p in "$new/usr/lib/postgresql/$major/bin"/*; do
	# Scripts are left as they are.
	[ "$(head -c 4 "$p" | tr -d '\177')" = ELF ] || continue
	"$new/$loader" --library-path "$work/tools/usr/lib/$triplet:$new/usr/lib/$triplet" "$work/tools/usr/bin/patchelf" \
		--set-interpreter "$dir/$loader" --force-rpath --set-rpath "\$ORIGIN/../../../$triplet" "$p"
done
chmod -R a+rX "$new"
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
mv "$new" "$dir"
for p in "$bin"/*; do
	"$p" --version >/dev/null || { rm -rf "$dir"; fail "$(basename "$p") of PostgreSQL $major does not run on this system"; }
done
say "unpacked $("$bin/postgres" --version)"
printf '%s\n' "$bin"
