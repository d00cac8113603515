package pgctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// waitsForNobody tells whether a value of synchronous_commit lets a commit be
// acknowledged before a majority has it. That is so for local and off alone:
// the one walsender that counts is told "written" and "flushed" together, once
// a majority has the log, so remote_write waits as long as on does. remote_apply
// waits for the standbys' replay as well, which is slower and not less safe.
func waitsForNobody(value string) bool {
	return slices.Contains([]string{"off", "local", "false", "no", "0"}, strings.ToLower(strings.Trim(value, " '")))
}

// setting is one of pg_settings, and where it comes from.
type setting struct {
	value, source, file string
	line                int
}

// unsafeSettings looks at the server's own configuration. What is forced on the
// command line cannot be lowered by a file; it is looked at all the same, for a
// server that an older daemon started.
func (s *Server) unsafeSettings(ctx context.Context, conn *pgx.Conn) ([]Unsafe, error) {
	all, err := settingsOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	var found []Unsafe
	for _, must := range []struct {
		name    string
		good    []string
		reloads bool // a running server takes another value
		without string
	}{
		{"fsync", []string{"on"}, true, "a crash of this host loses what it has acknowledged and may damage the database"},
		{"full_page_writes", []string{"on"}, true, "a crash of this host may damage the database"},
		{"wal_level", []string{"replica", "logical"}, false, "no standby can follow"},
		{"data_sync_retry", []string{"off"}, false, "PostgreSQL goes on after a failed fsync, whose data may be lost"},
	} {
		const mend = "hand over with understudy switchover, since a server that understudy starts has it"
		got, key := all[must.name], "setting-"+strings.ReplaceAll(must.name, "_", "-")
		switch {
		case !slices.Contains(must.good, got.value):
			found = append(found, Unsafe{key, fmt.Sprintf("%s is %s by %s, so %s: %s %s", must.name, got.value, got.where(), must.without, mend, must.good[0])})
		case must.reloads && got.source != "command line":
			found = append(found, Unsafe{key, fmt.Sprintf("%s is %s by %s and not by the command line, so it may be changed, and then %s: %s %s there",
				must.name, got.value, got.where(), must.without, mend, must.good[0])})
		}
	}
	sync, err := serversSyncCommit(ctx, conn, all["synchronous_commit"])
	if err == nil && waitsForNobody(sync.value) {
		found = append(found, Unsafe{"synchronous-commit-server", fmt.Sprintf("synchronous_commit is %s by %s, so every commit is acknowledged while it may be on this host only, and be lost in a failover: %s",
			sync.value, sync.where(), s.fileMend("synchronous_commit", sync.file, sync.line))})
	}
	return found, err
}

func (v setting) where() string {
	if v.file != "" {
		return v.file
	}
	return "the " + v.source
}

func settingsOf(ctx context.Context, conn *pgx.Conn) (map[string]setting, error) {
	rows, err := conn.Query(ctx, `select name, setting, source, coalesce(sourcefile, ''), coalesce(sourceline, 0) from pg_settings
 where name in ('fsync', 'full_page_writes', 'wal_level', 'data_sync_retry', 'synchronous_commit')`)
	if err != nil {
		return nil, err
	}
	all := map[string]setting{}
	var name string
	var v setting
	_, err = pgx.ForEachRow(rows, []any{&name, &v.value, &v.source, &v.file, &v.line}, func() error {
		all[name] = v
		return nil
	})
	return all, err
}

// serversSyncCommit is what sessions get that nothing is set for. The daemon's
// own session may have been given another value, for its role or its database;
// then the files are asked, which may be newer than what the server has loaded.
func serversSyncCommit(ctx context.Context, conn *pgx.Conn, own setting) (setting, error) {
	switch own.source {
	case "user", "database", "database user", "global":
	default:
		return own, nil
	}
	rows, err := conn.Query(ctx, `select setting, 'configuration file', sourcefile, sourceline from pg_file_settings
 where name = 'synchronous_commit' and applied order by seqno desc limit 1`)
	if err != nil {
		return setting{}, err
	}
	v := setting{value: "on", source: "default"}
	_, err = pgx.ForEachRow(rows, []any{&v.value, &v.source, &v.file, &v.line}, func() error { return nil })
	return v, err
}

// unsafeOverrides finds what is set for roles and databases.
func unsafeOverrides(ctx context.Context, conn *pgx.Conn) ([]Unsafe, error) {
	rows, err := conn.Query(ctx, `select coalesce(rolname, '')::text, coalesce(quote_ident(rolname), ''),
  coalesce(datname, '')::text, coalesce(quote_ident(datname), ''), split_part(c, '=', 2)
 from pg_db_role_setting cross join unnest(setconfig) c
 left join pg_roles r on r.oid = setrole left join pg_database d on d.oid = setdatabase
 where c ilike 'synchronous\_commit=%' and (setrole = 0 or r.oid is not null) and (setdatabase = 0 or d.oid is not null)
 order by setdatabase, setrole`)
	if err != nil {
		return nil, err
	}
	var found []Unsafe
	var role, database named
	var value string
	_, err = pgx.ForEachRow(rows, []any{&role.name, &role.quoted, &database.name, &database.quoted, &value}, func() error {
		if waitsForNobody(value) {
			found = append(found, unsafeOverride(role, database, value))
		}
		return nil
	})
	return found, err
}

func unsafeOverride(role, database named, value string) Unsafe {
	key, whose, mend := "synchronous-commit-all", "all roles", "ALTER ROLE ALL"
	switch {
	case role.name != "" && database.name != "":
		key = unsafeKey("synchronous-commit-role", role.name) + unsafeKey("-database", database.name)
		whose, mend = "role "+role.quoted+" in database "+database.quoted, "ALTER ROLE "+role.quoted+" IN DATABASE "+database.quoted
	case role.name != "":
		key, whose, mend = unsafeKey("synchronous-commit-role", role.name), "role "+role.quoted, "ALTER ROLE "+role.quoted
	case database.name != "":
		key, whose, mend = unsafeKey("synchronous-commit-database", database.name), "database "+database.quoted, "ALTER DATABASE "+database.quoted
	}
	return Unsafe{key, fmt.Sprintf("synchronous_commit is %s for %s, so what it commits is acknowledged while it may be on this host only, and be lost in a failover: %s RESET synchronous_commit; sessions that are connected must connect again",
		value, whose, mend)}
}
