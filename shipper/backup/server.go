package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/backupset"
)

// queryTimeout bounds one question to the server.
const queryTimeout = 30 * time.Second

// facts are what SQL tells of the server.
type facts struct {
	backupset.Server
	segPages   uint32
	standby    bool
	summarizes bool // its log, as an incremental backup needs
	databases  map[uint32]string
	config     []string // configuration files outside the data directory
}

// askServer asks a server for what a restore will have to know.
func askServer(ctx context.Context, connString string) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	f, err := gather(ctx, connString)
	if err != nil {
		return facts{}, fmt.Errorf("ask PostgreSQL for its properties: %w", err)
	}
	return f, nil
}

// connect opens a connection for questions.
func connect(ctx context.Context, connString string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = "understudy backup"
	// No named statements, so that a pooler may be between.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return pgx.ConnectConfig(ctx, cfg)
}

func gather(ctx context.Context, connString string) (facts, error) {
	var f facts
	conn, err := connect(ctx, connString)
	if err != nil {
		return f, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var sums, catalogVersion, controlVersion, segPages int64
	var version string
	err = conn.QueryRow(ctx, `select s.catalog_version_no, s.pg_control_version, i.database_block_size, i.bytes_per_wal_segment,
		i.blocks_per_segment, i.data_page_checksum_version, pg_is_in_recovery(), version(), current_setting('server_version'), coalesce(current_setting('summarize_wal', true), 'off') = 'on'
		from pg_control_system() s, pg_control_init() i`).
		Scan(&catalogVersion, &controlVersion, &f.BlockSize, &f.SegSize, &segPages, &sums, &f.standby, &version, &f.Version, &f.summarizes)
	if err != nil {
		return f, err
	}
	f.CatalogVersion, f.ControlVersion, f.segPages, f.Checksums = uint32(catalogVersion), uint32(controlVersion), uint32(segPages), sums != 0
	f.Architecture = architecture(version)
	if f.Settings, err = pairs(ctx, conn, `select name, setting from pg_settings where name in
		('max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction')`); err != nil {
		return f, err
	}
	rows, err := conn.Query(ctx, "select oid, datname from pg_database order by oid")
	if err != nil {
		return f, err
	}
	f.databases = map[uint32]string{}
	var oid uint32
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&oid, &name}, func() error { f.databases[oid] = name; return nil }); err != nil {
		return f, err
	}
	f.config, err = configFiles(ctx, conn)
	return f, err
}

// Summarize turns on summarize_wal, of which incremental backups live, on a
// server that has it off. Older servers do not know it; that is no error.
func Summarize(ctx context.Context, connString string) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := connect(ctx, connString)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var off bool
	if err := conn.QueryRow(ctx, "select coalesce(current_setting('summarize_wal', true), 'on') = 'off'").Scan(&off); err != nil || !off {
		return false, err
	}
	if _, err := conn.Exec(ctx, "alter system set summarize_wal = on"); err != nil {
		return false, err
	}
	_, err = conn.Exec(ctx, "select pg_reload_conf()")
	return err == nil, err
}

// architecture is what version() says between "on" and the comma.
func architecture(version string) string {
	_, rest, _ := strings.Cut(version, " on ")
	rest, _, _ = strings.Cut(rest, ",")
	return rest
}

func pairs(ctx context.Context, conn *pgx.Conn, sql string) (map[string]string, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var k, v string
	_, err = pgx.ForEachRow(rows, []any{&k, &v}, func() error { out[k] = v; return nil })
	return out, err
}

// configFiles are the server's configuration files that are not in its data
// directory, and so not in the copy of it. A role that may not see where they
// are gets none.
func configFiles(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	named, err := pairs(ctx, conn, `select name, setting from pg_settings where name in ('data_directory', 'config_file', 'hba_file', 'ident_file')
		and setting is not null`)
	if err != nil {
		return nil, err
	}
	data := named["data_directory"]
	delete(named, "data_directory")
	var sourced map[string]string
	var may bool
	err = conn.QueryRow(ctx, `select has_table_privilege('pg_catalog.pg_file_settings', 'select') and
		has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute')`).Scan(&may)
	if err == nil && may {
		sourced, err = pairs(ctx, conn, "select distinct sourcefile, sourcefile from pg_file_settings where sourcefile is not null")
	}
	if err != nil {
		return nil, err
	}
	for k := range sourced {
		named[k] = k
	}
	var out []string
	for _, p := range named {
		if rel, err := filepath.Rel(data, p); data != "" && err == nil && filepath.IsLocal(rel) || !filepath.IsAbs(p) {
			continue
		}
		out = append(out, p)
	}
	return out, nil
}

// readPage reads a page of the server's data directory as it is on the disk
// now; false when the file or this part of it is gone.
func readPage(ctx context.Context, conn *pgx.Conn, s suspect, size int) ([]byte, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var page []byte
	err := conn.QueryRow(ctx, "select pg_read_binary_file($1::text, $2::bigint, $3::bigint, true)", s.path, s.offset, int64(size)).Scan(&page)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	return page, err == nil && len(page) == size, err
}
