package integration_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestDurability changes the policy on a running group. In async commits do not
// wait for the others; back in quorum they wait again once a majority has all
// that async commits left behind. The same server writes all the time.
func TestDurability(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	p, s := primaryAndStandby(t, g)
	pid := p.PostgresPID()
	policy := func(durability, names string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte("durability: "+durability+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := p.Command("policy", "apply", file).CombinedOutput(); err != nil {
			t.Fatalf("policy apply: %v\n%s", err, out)
		}
		cluster.Eventually(t, 20*time.Second, "synchronous_standby_names for "+durability, func() bool {
			return (p.Query(t, "select setting from pg_settings where name = 'synchronous_standby_names'") == "") == (names == "")
		})
	}
	frozen := func(f func()) {
		s.Freeze(t)
		g.Witness.Freeze(t)
		defer g.Witness.Thaw(t)
		defer s.Thaw(t)
		f()
	}
	w := g.Writers(t, 4)
	policy("async", "")
	frozen(func() { w.WaitMore(t, 100, 1500*time.Millisecond) }) // within the lease
	policy("quorum", "understudy")
	cluster.Eventually(t, 20*time.Second, "commits that wait for the receiver", func() bool {
		return p.Query(t, "select count(*) from pg_stat_replication where sync_state = 'sync'") == "1"
	})
	g.WaitHealthy(t)
	frozen(func() { waits(t, w, 800*time.Millisecond) })
	w.WaitMore(t, 50, 20*time.Second)
	w.CheckNoneLost(t)
	if now := p.PostgresPID(); now != pid {
		t.Errorf("postmaster %d, %d before", now, pid)
	}
}
