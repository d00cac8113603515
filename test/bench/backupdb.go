package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
)

// labelStart is the line of backup_label that says where the log of a base
// begins.
var labelStart = regexp.MustCompile(`(?m)^START WAL LOCATION: (\S+) `)

// Directories of the part.
func (s *backups) baseDir() string { return s.at("base") }          // the server before the recorded log
func (s *backups) walDir() string  { return s.at("log", "pg_wal") } // the recorded log, as in a data directory
func (s *backups) place() string   { return s.at("place") }         // our location
func (s *backups) oursDir() string { return s.at("ours") }          // our restore
func (s *backups) restDir() string { return s.at("theirs") }        // pgBackRest's

// segSize is the size of a segment, in bytes.
func (s *backups) segSize() int64 { return int64(cmp.Or(s.segMiB, 16)) << 20 }

// record copies the server as it is, lets pgbench write log, and copies that:
// whole segments from the start of the copy on.
func (s *backups) record(ctx context.Context) error {
	_, err := s.tools.Run(ctx, "pg_basebackup", append(s.main.Args(), "-D", s.baseDir(), "-X", "none", "-c", "fast", "--no-manifest")...)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(s.baseDir(), "backup_label"))
	if err != nil {
		return err
	}
	m := labelStart.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("no start in the backup_label %q", text)
	}
	start, err := pos.ParseLSN(string(m[1]))
	if err != nil {
		return err
	}
	s.from = start.SegStart(s.segSize())
	s.say("pgbench writes %d MiB of log", s.backupWAL)
	for s.to = s.from; s.to < s.from+pos.LSN(s.backupWAL)<<20; {
		if err := s.tools.Transactions(ctx, s.main.Server, 4, 1000); err != nil {
			return err
		}
		if s.to, err = flushed(ctx, s.main.Server); err != nil {
			return err
		}
	}
	if err := s.main.Exec(ctx, "select pg_switch_wal()"); err != nil {
		return err
	}
	s.to = s.to.SegEnd(s.segSize())
	if err := s.copyLog(); err != nil {
		return err
	}
	return s.main.Exec(ctx, "alter system set wal_keep_size = 0", "select pg_reload_conf()", "checkpoint")
}

// copyLog makes what looks like a data directory with nothing but log that
// waits to be archived.
func (s *backups) copyLog() error {
	data := filepath.Dir(s.walDir())
	status := filepath.Join(s.walDir(), "archive_status")
	for _, d := range []string{data, s.walDir(), status, filepath.Join(data, "global")} {
		if err := s.tools.MakeDir(d); err != nil {
			return err
		}
	}
	copies := [][2]string{{filepath.Join(s.main.Data(), "global", "pg_control"), filepath.Join(data, "global", "pg_control")}}
	for at := s.from; at < s.to; at += pos.LSN(s.segSize()) {
		name := pos.SegName(1, at, s.segSize())
		copies = append(copies, [2]string{filepath.Join(s.main.Data(), "pg_wal", name), filepath.Join(s.walDir(), name)})
		ready := filepath.Join(status, name+".ready")
		if err := errors.Join(os.WriteFile(ready, nil, 0o600), s.tools.Own(ready)); err != nil {
			return err
		}
	}
	for _, c := range copies {
		if err := errors.Join(copyFile(c[0], c[1], 0o600), s.tools.Own(c[1])); err != nil {
			return err
		}
	}
	return nil
}

// grow adds a table of random bytes as large as everything else, and leaves the
// server at rest.
func (s *backups) grow(ctx context.Context) error {
	conn, err := s.main.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const size = "select pg_database_size('postgres')"
	var half int64
	if err := conn.QueryRow(ctx, size).Scan(&half); err != nil {
		return err
	}
	s.say("as many random bytes: %d MiB", half>>20)
	if _, err := conn.Exec(ctx, "create table "+backupRandom+" (i integer, b bytea)"); err != nil {
		return err
	}
	seed := [32]byte{1}
	random := rand.NewChaCha8(seed)
	row, rows := make([]byte, backupRandomN), int(half/2048)
	n := 0
	_, err = conn.CopyFrom(ctx, pgx.Identifier{backupRandom}, []string{"i", "b"}, pgx.CopyFromFunc(func() ([]any, error) {
		if n == rows {
			return nil, nil
		}
		n++
		_, err := random.Read(row)
		return []any{int32(n), row}, err
	}))
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "vacuum "+backupRandom); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "checkpoint"); err != nil {
		return err
	}
	return conn.QueryRow(ctx, size).Scan(&s.dbBytes)
}
