#!/bin/sh
# Makes sure that the servers are here which tests of backup locations start: an
# OpenSSH server and MinIO. Both are put below .cache of this repository and
# nothing is installed into the system, so that no server runs because of it. A
# system's own sshd is used where there is one.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'install-backup-servers: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

GO=${GO:-go}
cache=$PWD/.cache/backup-servers
mkdir -p "$cache"

# minio builds MinIO at the version that test/servers pins: two minutes, once.
minio() {
	if [ -n "${UNDERSTUDY_MINIO:-}" ]; then
		[ -x "$UNDERSTUDY_MINIO" ] || fail "UNDERSTUDY_MINIO is $UNDERSTUDY_MINIO, which is no program"
		say "using $UNDERSTUDY_MINIO"
		return
	fi
	version=$(sed -n 's|^.*github.com/minio/minio \(v[^ ]*\).*|\1|p' test/servers/go.mod)
	[ -n "$version" ] || fail "test/servers/go.mod names no version of MinIO"
	if [ -x "$cache/minio-$version" ]; then
		say "MinIO $version is built; nothing to do"
	else
		command -v "$GO" >/dev/null 2>&1 || fail "Go is not installed; see go.mod for the version and https://go.dev/dl for the download"
		say "building MinIO $version, once; this takes about two minutes"
		(cd test/servers && "$GO" build -ldflags '-s -w' -o "$cache/minio.$$" github.com/minio/minio) ||
			fail "MinIO could not be built; is the module proxy reachable?"
		mv -f "$cache/minio.$$" "$cache/minio-$version"
	fi
	ln -sfn "minio-$version" "$cache/minio"
}

# sshd unpacks the distribution's package and the libraries that it lacks here.
sshd() {
	for p in ${UNDERSTUDY_SSHD:-} /usr/sbin/sshd "$cache/openssh/usr/sbin/sshd"; do
		if [ -x "$p" ]; then
			say "found the OpenSSH server $p; nothing to do"
			return
		fi
	done
	command -v apt-get >/dev/null 2>&1 || fail "no OpenSSH server and no apt-get here: install it with this system's package manager, or set UNDERSTUDY_SSHD to where it is"
	if [ "$(id -u)" -eq 0 ]; then
		say "apt-get update"
		apt-get -q update
	fi
	packages=$(apt-get -q -s --no-install-recommends install openssh-server |
		sed -n 's/^Inst \(openssh-server\|openssh-sftp-server\|lib[^ ]*\) .*/\1/p' | sort -u | tr '\n' ' ')
	[ -n "$packages" ] || fail "apt-get knows no package openssh-server: run apt-get update as root"
	new=$cache/openssh.$$
	rm -rf "$new"
	mkdir -p "$new/debs"
	chmod 755 "$new"
	say "unpacking: $packages"
	# shellcheck disable=SC2086 # a list
	(cd "$new/debs" && apt-get -q -o APT::Sandbox::User=root download $packages)
	for d in "$new"/debs/*.deb; do dpkg -x "$d" "$new"; done
	rm -rf "$new/debs"
	[ -x "$new/usr/sbin/sshd" ] || fail "the package openssh-server holds no usr/sbin/sshd"
	rm -rf "$cache/openssh"
	mv "$new" "$cache/openssh"
	say "unpacked the OpenSSH server to $cache/openssh"
}

trap 'rm -rf "$cache/minio.$$" "$cache/openssh.$$"' EXIT
sshd
minio
