package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/pg"
)

// standbyName is the native standby's application name and slot.
const standbyName = "bench_standby"

// identity are the settings in which two servers differ by what they are, not
// by how they work.
var identity = []string{
	"port", "listen_addresses", "unix_socket_directories", "cluster_name", "hba_file", "ident_file", "data_directory", "config_file",
	"external_pid_file", "primary_conninfo", "primary_slot_name", "promote_trigger_file", "restore_command", "archive_cleanup_command",
	"recovery_target_timeline", "synchronous_standby_names", "restart_after_crash", "application_name",
}

// native is a pair of PostgreSQL's own: synchronous streaming to one standby.
type native struct {
	main, standby *pg.Cluster
	// differ are the settings whose values differ from those of the group's
	// primary, as "name: theirs, ours".
	differ []string
}

// startNative makes a pair in dir whose settings are those of the server like.
func startNative(ctx context.Context, t *pg.Tools, like pg.Server, dir string, port int) (*native, error) {
	n := &native{}
	if err := t.MakeDir(dir); err != nil {
		return n, err
	}
	settings, err := explicitSettings(ctx, like)
	if err != nil {
		return n, err
	}
	checksums, err := like.Query(ctx, "current_setting('data_checksums')")
	if err != nil {
		return n, err
	}
	if n.main, err = t.Init(ctx, filepath.Join(dir, "m"), port+nativeMainPort, checksums == "on", settings); err != nil {
		return n, err
	}
	if err := n.main.Start(ctx); err != nil {
		return n, err
	}
	if n.standby, err = n.main.Backup(ctx, filepath.Join(dir, "s"), port+nativeStandbyPort, standbyName); err != nil {
		return n, err
	}
	if err := n.standby.Start(ctx); err != nil {
		return n, err
	}
	err = n.main.Exec(ctx, "alter system set synchronous_standby_names = 'FIRST 1 ("+standbyName+")'", "select pg_reload_conf()")
	if err != nil {
		return n, err
	}
	if n.differ, err = differences(ctx, like, n.main.Server); err != nil {
		return n, err
	}
	return n, n.waitSettled(ctx)
}

// stop ends both servers; the standby lasts until the primary's last byte.
func (n *native) stop() error {
	if n == nil {
		return nil
	}
	return errors.Join(n.main.Stop(), n.standby.Stop())
}

// waitSettled waits until the standby is synchronous and has applied what the
// primary has flushed.
func (n *native) waitSettled(ctx context.Context) error {
	return pg.Until(ctx, 5*time.Minute, "the native standby follows", func() (bool, error) {
		ok, err := n.main.Query(ctx, "select count(*) = 1 from pg_stat_replication where application_name = $1 and sync_state = 'sync' and replay_lsn >= pg_current_wal_flush_lsn()", standbyName)
		return ok == "true", err
	})
}

// flushed is the end of a primary's durable log.
func flushed(ctx context.Context, s pg.Server) (pos.LSN, error) {
	text, err := s.Query(ctx, "pg_current_wal_flush_lsn()")
	if err != nil {
		return 0, err
	}
	return pos.ParseLSN(text)
}

// explicitSettings are the settings of s that come from a file or the command
// line, as such a file would have them.
func explicitSettings(ctx context.Context, s pg.Server) (map[string]string, error) {
	all, err := allSettings(ctx, s, "source in ('configuration file', 'command line') and context <> 'internal'")
	for _, name := range identity {
		delete(all, name)
	}
	return all, err
}

func allSettings(ctx context.Context, s pg.Server, where string) (map[string]string, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	rows, err := c.Query(ctx, "select name, current_setting(name) from pg_settings where "+where)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return nil, err
		}
		out[k] = v
	}
	return out, rows.Err()
}

// differences compares every setting of two servers.
func differences(ctx context.Context, a, b pg.Server) ([]string, error) {
	va, err := allSettings(ctx, a, "true")
	if err != nil {
		return nil, err
	}
	vb, err := allSettings(ctx, b, "true")
	if err != nil {
		return nil, err
	}
	var out []string
	for k, v := range va {
		if w := vb[k]; w != v && !slices.Contains(identity, k) {
			out = append(out, fmt.Sprintf("`%s`: group %s, native %s", k, orEmpty(v), orEmpty(w)))
		}
	}
	slices.Sort(out)
	return out, nil
}

func orEmpty(s string) string {
	if s == "" {
		return "empty"
	}
	return s
}

// settingsNote says how equal the two primaries are set.
func (n *native) settingsNote() string {
	if len(n.differ) == 0 {
		return "Both primaries have the same settings, checksums included; autovacuum is off on both sides."
	}
	return "Both primaries have the same settings, checksums included, except " + strings.Join(n.differ, "; ") + ". Autovacuum is off on both sides."
}
