package pgctl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/shipper/pos"
)

// A base that was taken while the source made a checkpoint has a pg_control
// that is newer than its label, and its first start begins at the label.
func TestServer_BaseBeginsAtItsLabel(t *testing.T) {
	p, _ := founded(t)
	ctx := context30(t)
	conn, err := p.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	begins, ends := "select pg_backup_start('base', true)::text", "select labelfile from pg_backup_stop(false)"
	if p.Major < 15 {
		begins, ends = "select pg_start_backup('base', true, false)::text", "select labelfile from pg_stop_backup(false)"
	}
	var begin, label string
	if err := conn.QueryRow(ctx, begins).Scan(&begin); err != nil {
		t.Fatal(err)
	}
	do(t, p, "create table t (n int)", "checkpoint")
	s := copyOf(t, p)
	if err := conn.QueryRow(ctx, ends).Scan(&label); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.DataDir, "backup_label"), label)
	if err := os.Remove(filepath.Join(s.DataDir, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	c, err := s.Control(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at, ok, err := s.BackupLabelStart()
	if want, _ := pos.ParseLSN(begin); !ok || err != nil || at != want || c.Redo <= at {
		t.Fatalf("the label begins at %s, %v, %v, want %s; pg_control says %s, want more", at, ok, err, want, c.Redo)
	}
	start(t, s, following(p))
	caughtUp(t, p, s)
	if log := read(t, s.LogFile); !strings.Contains(log, "redo starts at "+begin+"\n") {
		t.Errorf("recovery did not begin at %s:\n%s", begin, log)
	}
	if _, ok, err := s.BackupLabelStart(); ok || err != nil {
		t.Errorf("after the first start: %v, %v", ok, err)
	}
}
