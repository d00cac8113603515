package integration_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/test/backupservers"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// large is the length from which a chunk is altered: that of archives and of
// pieces of log, not of the small objects that describe them.
const large = 4 << 10

// flip alters one bit of a large chunk.
func flip(b []byte) []byte {
	if len(b) < large {
		return b
	}
	out := append([]byte(nil), b...)
	out[len(out)/2] ^= 0x10
	return out
}

// TestBackup_Lies has the server of one location store and return other bytes
// than those that were sent, while another location goes on.
func TestBackup_Lies(t *testing.T) {
	t.Parallel()
	s := backupservers.NewFaultySFTP(t)
	g := cluster.New(t, cluster.WithoutStart(), cluster.WithPolicy("failover: manual\n"+cluster.QuietBackups))
	g.Secret(t, "vault", s.Key)
	g.Start(t)
	g.WaitHealthy(t)
	makeCounted(t, g)
	l := &backupLies{server: s}
	l.g, l.disk = g, g.AddPlace(t, g.Backup, "disk")
	l.small = g.RemotePlace(t, "vault", s.Dir, "kind: sftp", "address: "+s.Address, "user: "+s.User, "path: "+s.Root,
		fmt.Sprintf("host_key: %q", s.HostKey), "secret: vault")
	l.first = g.WaitSet(t, 40*time.Second, "complete at both", func(x cluster.Set) bool {
		return x.At("disk").Restorable && x.At("vault").Restorable
	})

	run(t, "OverQuota", func(t *testing.T) {
		l.fails(t, "full or over quota?", func() { s.Set(backupservers.Faults{Refuse: errors.New("Failure")}) }, l.heal)
	})
	run(t, "WritesShortAndReportsSuccess", func(t *testing.T) {
		l.fails(t, "damaged at the location", func() {
			s.Set(backupservers.Faults{Write: func(_ string, _ int64, b []byte) []byte { return b[:max(len(b)-1, 0)] }})
		}, l.heal)
	})
	run(t, "WritesOtherBytes", l.writes)
	run(t, "ReadsOtherBytes", l.reads)
}

// backupLies calls the location whose server lies the small one.
type backupLies struct {
	backupTrouble
	server *backupservers.FaultySFTP
}

func (l *backupLies) heal() { l.server.Set(backupservers.Faults{}) }

// writes: what was stored wrong is found by the next verification, is not
// restored from, and is replaced from the other location.
func (l *backupLies) writes(t *testing.T) {
	l.server.Set(backupservers.Faults{Write: func(_ string, _ int64, b []byte) []byte { return flip(b) }})
	defer l.heal()
	count(t, l.g, 100)
	set := l.g.Witness.TakeBackup(t)
	l.g.WaitAt(t, set.Label, l.disk, l.small)
	count(t, l.g, 100)
	l.small.WaitLog(t)
	l.heal()
	out, code := l.g.Witness.Run(t, "verify", set.Label, "--location", l.small.Name, "--wal")
	if code == 0 || !strings.Contains(out, set.Label+" at vault is damaged") {
		t.Errorf("the verification ended with %d:\n%s", code, out)
	}
	if out, code := l.g.Witness.Run(t, "verify", set.Label, "--location", l.disk.Name, "--wal"); code != 0 {
		t.Errorf("the other location is unharmed and its verification ended with %d:\n%s", code, out)
	}
	l.replaced(t, set.Label)
}

// replaced waits until the copy that was damaged is whole again, and compares.
func (l *backupLies) replaced(t *testing.T, label string) {
	t.Helper()
	l.g.WaitAt(t, label, l.disk, l.small)
	cluster.SameSet(t, l.disk, l.small, label)
	l.disk.WaitLog(t)
	l.small.WaitLog(t)
	cluster.SameLog(t, l.disk, l.small)
	if out, code := l.g.Witness.Run(t, "verify", "--wal"); code != 0 {
		t.Errorf("after the repair the verification ended with %d:\n%s", code, out)
	}
	sameAs(t, l.small, label, l.g.Primary(t).Query(t, counted))
}

// reads: a restore never takes wrong bytes: from the location that lies alone it
// is refused, with the other one beside it it is right.
func (l *backupLies) reads(t *testing.T) {
	l.disk.WaitLog(t)
	l.small.WaitLog(t)
	want := l.g.Primary(t).Query(t, counted)
	l.server.Set(backupservers.Faults{Read: func(_ string, _ int64, b []byte) {
		if len(b) >= large {
			b[len(b)/2] ^= 0x10
		}
	}})
	defer l.heal()
	dir := filepath.Join(pgtest.Dir(t), "restored")
	args := []string{"restore", "--set", l.first.Label, "--promote", "--yes", "--location", l.small.Name}
	out, code := l.g.Witness.Run(t, append(args, "--to", dir+".no")...)
	t.Log(out)
	if code == 0 || !strings.Contains(out, "location vault: ") {
		t.Errorf("a restore from bytes that are not those stored ended with %d:\n%s", code, out)
	}
	out = l.g.Witness.MustRun(t, append(args, "--to", dir, "--location", l.disk.Name)...)
	r := cluster.Open(t, dir)
	if got := r.Query(t, counted); got != want {
		t.Errorf("restored it holds %s, want %s\n%s", got, want, out)
	}
	r.Stop(t)
}

// TestBackup_Server has an SFTP server behind a link of 200 kB/s, then one that
// freezes and one that is killed. It gets everything in the end; the other
// location and the commits do not wait for it.
func TestBackup_Server(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	b := &backupServer{server: backupservers.NewSSHD(t)}
	b.link = backupservers.NewProxy(t, b.server.Address, 0)
	b.g = cluster.New(t, cluster.WithoutStart(), cluster.WithPolicy("failover: manual\n"+cluster.QuietBackups))
	b.g.Secret(t, "vault", b.server.Key)
	b.g.Start(t)
	b.g.WaitHealthy(t)
	makeCounted(t, b.g)
	b.disk = b.g.AddPlace(t, b.g.Backup, "disk")
	b.small = b.g.RemotePlace(t, "vault", b.server.Dir, "kind: sftp", "address: "+b.link.Address, "user: "+b.server.User, "path: "+b.server.Dir,
		fmt.Sprintf("host_key: %q", b.server.HostKey), "secret: vault")
	b.first = b.g.WaitSet(t, 40*time.Second, "complete at both", func(x cluster.Set) bool {
		return x.At("disk").Restorable && x.At("vault").Restorable
	})

	run(t, "Slow", b.slow)
	run(t, "Frozen", func(t *testing.T) { b.fails(t, "cannot be reached", b.server.Freeze, b.server.Thaw) })
	run(t, "Killed", func(t *testing.T) {
		b.fails(t, "cannot be reached", b.server.Kill, func() { b.server.Start(t) })
	})
}

// backupServer calls the location at the server the small one.
type backupServer struct {
	backupTrouble
	server *backupservers.SSHD
	link   *backupservers.Proxy
}

func (b *backupServer) slow(t *testing.T) {
	b.link.SetRate(200_000)
	load(t, b.g.Main, "bulk", 2) // log of which nothing is left out by compression
	began := time.Now()
	b.disk.WaitLog(t)
	t.Logf("the other location has all log after %s", time.Since(began).Round(time.Millisecond))
	if at := b.small.Location(t); at.Problem != "" || at.Archived >= b.disk.Location(t).Archived {
		t.Errorf("location %+v, want one that is behind and has not failed", at)
	}
	b.g.Witness.MustRun(t, "backup", "--detach")
	for range 3 { // while that is on its way
		began := time.Now()
		count(t, b.g, 20)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("20 commits took %s", d)
		}
		if at := b.disk.WaitLog(t); at.Problem != "" {
			t.Errorf("the other location %+v", at)
		}
	}
	b.g.WaitNoJobs(t, 120*time.Second)
	st := b.g.WaitStatus(t, 5*time.Second, "a status", func(cluster.Status) bool { return true })
	for _, i := range st.Incidents {
		t.Errorf("slow is not failed: %s: %s", i.Key, i.Text)
	}
	b.link.SetRate(0)
	b.small.WaitLog(t)
	set := b.g.WaitSet(t, 40*time.Second, "the second at both", func(x cluster.Set) bool {
		return x.State == cluster.Complete && x.At("disk").Restorable && x.At("vault").Restorable
	})
	cluster.SameSet(t, b.disk, b.small, set.Label)
	sameAs(t, b.small, set.Label, b.g.Primary(t).Query(t, counted))
}
