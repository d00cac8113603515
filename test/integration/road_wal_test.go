package integration_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// TestRoad sends much log over the road: whole segments, and what peers missed
// while they were away.
func TestRoad(t *testing.T) {
	t.Parallel()
	g := healthy(t, cluster.WithParameter("min_wal_size", "32MB"), cluster.WithParameter("max_wal_size", "64MB"))
	g.Main.Exec(t, "create table bulk (a int, filler text)")

	run(t, "WALByName", func(t *testing.T) { walByName(t, g) })

	for _, n := range []*cluster.Node{g.Backup, g.Witness} {
		run(t, "LongAbsence/"+n.Name, func(t *testing.T) {
			g.WaitHealthy(t)
			w := g.Writers(t, 2)
			seeds := seedings(t, g.Main)
			if n == g.Backup {
				n.KillEverything(t)
			} else {
				n.Kill(t)
			}
			// Several segments, and checkpoints that would recycle them.
			for range 4 {
				g.Main.Exec(t, "insert into bulk select i, repeat('x', 500) from generate_series(1, 40000) i")
				g.Main.Exec(t, "truncate bulk")
				g.Main.Exec(t, "checkpoint")
			}
			end := g.Main.Query(t, "select pg_current_wal_flush_lsn()")
			n.Start(t)
			want, err := pos.ParseLSN(end)
			if err != nil {
				t.Fatal(err)
			}
			g.WaitStatus(t, 60*time.Second, n.Name+" having "+end, func(s cluster.Status) bool {
				return s.Of(n.Name).Durable >= want && s.Of(n.Name).Link.State == "streaming"
			})
			g.WaitHealthy(t)
			w.CheckNoneLost(t)
			if now := seedings(t, g.Main); now != seeds {
				t.Errorf("%s was seeded %d times to catch up with log that the group had kept", n.Name, now-seeds)
			}
		})
	}

	run(t, "LargeTransaction", func(t *testing.T) {
		g.WaitHealthy(t)
		w := g.Writers(t, 2)
		before := time.Now()
		g.Main.Exec(t, "insert into bulk select i, repeat('x', 500) from generate_series(1, 150000) i")
		t.Logf("other commits paused for %s during 100 MB in one transaction", w.LongestGap(before).Round(time.Millisecond))
		w.CheckNoneLost(t)
		if a, b := g.Main.Query(t, "select sum(a) from bulk"), g.Backup.Query(t, "select sum(a) from bulk"); a != b {
			t.Errorf("sum %s on the primary, %s on the standby", a, b)
		}
	})
}

// seedings counts the bases that a primary was asked for.
func seedings(t *testing.T, n *cluster.Node) int {
	t.Helper()
	events, err := n.Events(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, e := range events {
		if e.Kind == "seeding" && strings.Contains(e.Text, "receives a base") {
			count++
		}
	}
	return count
}

var segment = regexp.MustCompile(`^[0-9A-F]{24}$`)

// walByName checks what restore_command is given. PostgreSQL replaces its own
// newer segment by what it gets, so a segment that it has complete, or that
// holds the end of the log, is never given.
func walByName(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	for range 2 {
		g.Main.Exec(t, "insert into bulk select generate_series(1, 1000); select pg_switch_wal()")
	}
	g.Main.Exec(t, "insert into bulk select generate_series(1, 200000)")
	g.Main.Exec(t, "delete from bulk where a > 1000; truncate bulk; insert into bulk select generate_series(1, 1000)")
	cluster.CatchUp(t, g.Main, g.Backup)
	end, err := pos.ParseLSN(g.Backup.Query(t, "select pg_last_wal_receive_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	const segSize = 16 << 20
	open := pos.SegName(1, end, segSize)
	dir := filepath.Join(g.Backup.DataDir(), "pg_wal")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var whole []string
	for _, e := range entries {
		if !segment.MatchString(e.Name()) {
			continue
		}
		if e.Name() < open {
			whole = append(whole, e.Name())
		}
		if out, code := walGet(t, g.Backup, e.Name()); code != 1 {
			t.Errorf("wal-get %s, which is in pg_wal (the log ends in %s): exit code %d, %d bytes; want 1", e.Name(), open, code, len(out))
		}
	}
	if _, code := walGet(t, g.Backup, pos.SegName(1, end+segSize, segSize)); code != 1 {
		t.Errorf("wal-get of a segment that does not exist yet: exit code %d, want 1", code)
	}
	if len(whole) < 2 {
		t.Fatalf("pg_wal holds %d whole segments before %s, want 2", len(whole), open)
	}
	// One that PostgreSQL has replayed and does not have is given, whole.
	name := whole[len(whole)-1]
	want, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	aside := filepath.Join(g.Backup.Dir, name)
	if err := os.Rename(filepath.Join(dir, name), aside); err != nil {
		t.Fatal(err)
	}
	got, code := walGet(t, g.Backup, name)
	if err := os.Rename(aside, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	if code != 0 || !bytes.Equal(got, want) {
		t.Errorf("wal-get %s, which is not in pg_wal: exit code %d, %d bytes, equal %v", name, code, len(got), bytes.Equal(got, want))
	}
}

// walGet runs the restore_command of a node by hand.
func walGet(t *testing.T, n *cluster.Node, name string) ([]byte, int) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "segment")
	cmd := exec.Command(cluster.Binary(t), "wal-get", "--socket", filepath.Join(n.RunDir(), "wal", "get.sock"), name, to)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(to)
	if err != nil && b != nil {
		t.Errorf("wal-get %s failed and left a file", name)
	}
	return b, cmd.ProcessState.ExitCode()
}
