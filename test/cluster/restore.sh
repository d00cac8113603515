#!/bin/sh
# Restores a set with tar, zstd and PostgreSQL and none of our programs, as
# somebody would who has nothing but a location.
#
#   restore.sh FOLDER LABEL DEST [SETTING...]
#
# FOLDER is the database's folder at the location, DEST the new data directory,
# SETTING a line such as recovery_target_time=... The server that is then running
# in DEST has its socket there and is open for writing. PG names the directory of
# PostgreSQL's programs, AS the account that runs the server, "" for this one.
set -eu
from=$1 label=$2 dest=$3
shift 3
set_dir=$from/sets/$label
as() { if [ -n "${AS:-}" ]; then setpriv --reuid="$AS" --regid="$AS" --clear-groups "$@"; else "$@"; fi; }

mkdir -m 700 "$dest"
zstd -q -d -c "$set_dir/base.tar.zst" | tar -x -f - -C "$dest"
for t in "$set_dir"/[0-9]*.tar.zst; do
	[ -e "$t" ] || continue
	id=$(basename "$t" .tar.zst)
	rm -rf "$dest/pg_tblspc/$id"
	mkdir -m 700 "$dest/pg_tblspc/$id"
	zstd -q -d -c "$t" | tar -x -f - -C "$dest/pg_tblspc/$id"
done

# The log, where the server may read it.
cp -R "$from/wal" "$dest.wal"
cat >"$dest.get" <<-'END'
	#!/bin/sh
	# get FOLDER NAME TO
	z=$1/$(echo "$2" | cut -c1-8)/$2
	case $2 in *.history) exec cp "$1/$2" "$3" ;; esac
	if [ -e "$z.zst" ]; then exec zstd -q -d -f "$z.zst" -o "$3"; fi
	[ -e "$z.partial.zst" ] || exit 1
	zstd -q -d -f "$z.partial.zst" -o "$3" && truncate -s 16M "$3"
END

# Nothing of the old server's configuration is taken.
cat >"$dest.conf" <<-END
	restore_command = 'sh $dest.get $dest.wal %f %p'
	recovery_target_action = promote
	listen_addresses = ''
	unix_socket_directories = '$dest'
	hba_file = '$dest.hba'
	hot_standby = off
	fsync = off
	shared_buffers = 16MB
	allow_in_place_tablespaces = on
	log_min_messages = warning
END
for s in "$@"; do printf "%s = '%s'\n" "${s%%=*}" "${s#*=}" >>"$dest.conf"; done
echo 'local all all trust' >"$dest.hba"
rm -f "$dest/standby.signal" # of a set that was taken on a standby
touch "$dest/recovery.signal"
[ -z "${AS:-}" ] || chown -R "$AS:$AS" "$dest" "$dest.wal" "$dest.get" "$dest.conf" "$dest.hba"
cd "$dest"
if ! as "$PG/pg_ctl" start -s -w -t 60 -D "$dest" -l "$dest/log" -o "-c config_file=$dest.conf"; then
	cat "$dest/log" >&2
	exit 1
fi
# Without a hot standby it counts as started from the beginning of the recovery.
until [ "$(sed -n '8s/ *$//p' "$dest/postmaster.pid" 2>/dev/null)" = ready ]; do
	as "$PG/pg_ctl" status -D "$dest" >/dev/null || { cat "$dest/log" >&2; exit 1; }
	sleep 0.05
done
