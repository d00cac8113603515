package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/cluster"
)

// mount puts a small file system of its own under a directory.
func mount(t *testing.T, dir string, bytes int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a full disk is made by mounting a small tmpfs, which needs root")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skipf("a full disk is made by mounting a small tmpfs, which is not allowed here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// load writes about mib MiB of log through the primary.
func load(t *testing.T, n *cluster.Node, table string, mib int) {
	t.Helper()
	n.Exec(t, "create table if not exists "+table+" (b bytea); alter table "+table+" alter b set storage external")
	for range mib {
		n.Exec(t, "insert into "+table+" select string_agg(sha512(convert_to(random()::text, 'UTF8')), '') from generate_series(1, 16384)")
	}
}

// TestTrouble_FullDisk: the spool of the witness runs out of room. It stops to
// acknowledge, commits go on through the other node, everybody is told, and it
// recovers by itself once there is room.
func TestTrouble_FullDisk(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	disk := filepath.Join(g.Witness.StateDir(), "spool")
	mount(t, disk, 96<<20)
	ballast := filepath.Join(disk, "ballast")
	g.Start(t)
	g.WaitHealthy(t)
	w := g.Writers(t, 2)

	// Somebody else fills the disk to the last byte, spare segments included.
	fill(t, ballast)
	load(t, g.Main, "ballast", 90) // more than the segment in use and all spares
	text := complaint(t, g, cluster.Witness, "no space left")
	t.Logf("incident: %s", text)
	stuck := g.WaitStatus(t, 10*time.Second, "the witness behind", func(s cluster.Status) bool {
		return s.Of(cluster.Witness).Durable < s.Of(cluster.Backup).Durable
	}).Of(cluster.Witness).Durable
	w.WaitMore(t, 100, 20*time.Second)
	st, err := g.Main.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if at := st.Of(cluster.Witness).Durable; at > stuck+32<<20 {
		t.Errorf("the witness acknowledges without room: %s, then %s", stuck, at)
	}
	if st.Group.Safe.Level == "safe" {
		t.Errorf("called safe with a witness that stores nothing: %s", st.Group.Safe.Sentence)
	}
	if !g.Witness.Running() {
		t.Fatal("the daemon ended over a full disk")
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", 512<<20)); err != nil {
		t.Fatal(err)
	}
	noComplaint(t, g, cluster.Witness)
	g.WaitHealthy(t)
	w.CheckNoneLost(t)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for len(b) > 0 {
		if _, err := f.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
}

// copySpool copies the spool of a daemon that does not run, as its next daemon
// would find it.
func copySpool(t *testing.T, n *cluster.Node) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(n.StateDir(), "spool"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTrouble_SpoolTail: the witness dies under load, and of what it had not
// fsynced the disk kept any part. What its spool comes back with is the log
// itself, and holds at least what it had acknowledged.
func TestTrouble_SpoolTail(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	w := g.Writers(t, 4)
	for range 3 {
		w.WaitMore(t, 100, 20*time.Second)
		g.Witness.Kill(t)
		st, err := g.Main.Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		acked := st.Of(cluster.Witness).Durable
		cutAnywhere(t, g, acked)
		g.Witness.Start(t)
		g.Witness.WaitStatus(t, 20*time.Second, "the witness streams again", func(s cluster.Status) bool {
			return s.Of(cluster.Witness).Durable > acked && s.Of(cluster.Witness).Link.State == "streaming"
		})
	}
	if strings.Contains(g.Witness.Log(), "new store") && strings.Count(g.Witness.Log(), "made a new store") > 1 {
		t.Error("the witness gave its store up")
	}
	g.WaitHealthy(t)
	w.CheckNoneLost(t)
}

// cutAnywhere damages copies of the witness's newest segment beyond what it
// had fsynced, opens each, and compares it with the primary's log.
func cutAnywhere(t *testing.T, g *cluster.Group, acked pos.LSN) {
	t.Helper()
	dir := copySpool(t, g.Witness)
	probe, err := spool.Open(spool.Config{Dir: dir, SpareSegments: -1})
	if err != nil {
		t.Fatal(err)
	}
	m, synced := probe.Meta(), probe.End() // without a verifier only what was fsynced counts
	probe.Close()
	if synced < acked {
		t.Fatalf("the witness acknowledged %s and has fsynced %s", acked, synced)
	}
	name := pos.SegName(m.Lineage.TimelineAt(synced), synced, m.SegSize)
	whole, err := os.ReadFile(filepath.Join(g.Witness.StateDir(), "spool", "wal", name))
	if err != nil {
		t.Fatal(err)
	}
	from := int(synced - synced.SegStart(m.SegSize))
	primary := spool.Dir(filepath.Join(g.Main.DataDir(), "pg_wal"), m.SegSize, m.Lineage)
	defer primary.Close()
	for range 12 {
		dir := copySpool(t, g.Witness)
		bad := slices.Clone(whole)
		// The machine went down: any part of the tail is zeros.
		for i := from; i < min(from+1<<20, int(m.SegSize)); i += 512 {
			if rand.IntN(2) == 0 {
				clear(bad[i:min(i+512, int(m.SegSize))])
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "wal", name), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		sp, err := spool.Open(spool.Config{Dir: dir, SpareSegments: -1})
		if err != nil {
			t.Fatalf("open after a cut tail: %v", err)
		}
		if sp.End() < acked {
			t.Errorf("the spool ends at %s, acknowledged was %s", sp.End(), acked)
		}
		same(t, sp, primary, max(sp.Base(), sp.End()-min(sp.End(), 256<<10)), sp.End())
		sp.Close()
	}
}

type reader interface {
	ReadWAL(p []byte, at pos.LSN) (int, error)
}

func same(t *testing.T, a, b reader, from, to pos.LSN) {
	t.Helper()
	x, y := make([]byte, to-from), make([]byte, to-from)
	if n, err := a.ReadWAL(x, from); n < len(x) {
		t.Fatalf("read the spool: %d of %d, %v", n, len(x), err)
	}
	if n, err := b.ReadWAL(y, from); n < len(y) {
		t.Fatalf("read pg_wal: %d of %d, %v", n, len(y), err)
	}
	if !slices.Equal(x, y) {
		t.Errorf("the spool differs from the primary's log between %s and %s", from, to)
	}
}

// TestTrouble_StoreLost: a witness that lost part of its promises comes back
// as another store; the old one is retired, the new one is admitted as voter.
func TestTrouble_StoreLost(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	w := g.Writers(t, 2)
	for _, lost := range []string{"spool", "ledger", "."} {
		t.Run("Lost_"+lost, func(t *testing.T) {
			g.WaitHealthy(t)
			before := storeOf(t, g.Witness)
			g.Witness.Kill(t)
			if lost == "." {
				wipe(t, g.Witness.StateDir())
			} else if err := os.RemoveAll(filepath.Join(g.Witness.StateDir(), lost)); err != nil {
				t.Fatal(err)
			}
			g.Witness.Start(t)
			g.WaitStatus(t, 30*time.Second, "the witness votes with a new store", func(s cluster.Status) bool {
				return s.Of(cluster.Witness).WALVoter && s.Of(cluster.Witness).LedgerVoter && s.Of(cluster.Witness).Presence != "" &&
					storeOf(t, g.Witness) != before && s.Healthy()
			})
			w.WaitMore(t, 20, 20*time.Second)
			if !hasEvent(t, g.Main, "member-removed", cluster.Witness) {
				t.Error("the old store was not retired")
			}
		})
	}
	w.CheckNoneLost(t)
}

func storeOf(t *testing.T, n *cluster.Node) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.StateDir(), "ledger", "store"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func hasEvent(t *testing.T, n *cluster.Node, kind, node string) bool {
	t.Helper()
	events, err := n.Events(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(events, func(e cluster.Event) bool {
		return e.Kind == kind && (e.Node == node || strings.Contains(e.Text, node))
	})
}

// TestTrouble_SeedInterrupted: the backup's daemon is killed again and again
// while its base arrives. The next one finds what is there and sends only the
// rest.
func TestTrouble_SeedInterrupted(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	g.Main.Start(t)
	g.Witness.Start(t)
	cluster.Eventually(t, 60*time.Second, "main open", g.Main.Answers)
	load(t, g.Main, "big", 200)
	g.Main.Exec(t, "checkpoint")
	for _, share := range []float64{0, 0.1, 0.3, 0.6, 0.9} {
		g.Backup.Start(t)
		if !seedReaches(t, g.Backup, share) {
			t.Logf("the base was complete before %.0f%% were seen", 100*share)
			break
		}
		g.Backup.Kill(t)
	}
	if !g.Backup.Running() {
		g.Backup.Start(t)
	}
	g.WaitHealthy(t)
	all, found := seeded(t, g.Backup)
	t.Logf("of %d bytes %d were found", all, found)
	if found == 0 {
		t.Error("what had arrived was thrown away")
	}
	cluster.CatchUp(t, g.Main, g.Backup)
	const sum = "select count(*) || ' ' || sum(hashtextextended(b::text, 0)) from big"
	if a, b := g.Main.Query(t, sum), g.Backup.Query(t, sum); a != b {
		t.Errorf("main has %s, backup %s", a, b)
	}
}

// seedReaches waits until a share of the base has arrived; false when the
// seed was over before.
func seedReaches(t *testing.T, n *cluster.Node, share float64) bool {
	t.Helper()
	type seed struct {
		Step string `json:"step"`
		Done uint64 `json:"done_bytes"`
		All  uint64 `json:"total_bytes"`
	}
	var status struct {
		Nodes []struct {
			Name   string `json:"name"`
			Seeded bool   `json:"seeded"`
			Seed   *seed  `json:"seeding"`
		} `json:"nodes"`
	}
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(3 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := n.Get(ctx, "/api/v1/status", &status)
		cancel()
		if err != nil {
			continue
		}
		for _, x := range status.Nodes {
			switch {
			case x.Name != n.Name:
			case x.Seeded:
				return false
			case x.Seed != nil && (share == 0 || x.Seed.All > 0 && float64(x.Seed.Done) >= share*float64(x.Seed.All)):
				return true
			}
		}
	}
	t.Fatalf("the base of %s does not come", n.Name)
	return false
}

// seeded is what the log says of the base that was completed.
func seeded(t *testing.T, n *cluster.Node) (all, found uint64) {
	t.Helper()
	for _, line := range strings.Split(n.Log(), "\n") {
		if strings.Contains(line, "msg=seeded ") {
			number(t, line, " bytes=", &all)
			number(t, line, " same_bytes=", &found)
			return all, found
		}
	}
	t.Fatalf("no base was completed:\n%s", n.Log())
	return 0, 0
}

func number(t *testing.T, line, key string, v *uint64) {
	t.Helper()
	_, rest, _ := strings.Cut(line, key)
	if _, err := fmt.Sscan(rest, v); err != nil {
		t.Fatalf("no number after %q in: %s", key, line)
	}
}
