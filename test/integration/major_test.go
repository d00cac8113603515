package integration_test

import (
	"testing"
	"time"

	"understudy/failover/pgctl"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestMajor_LogicalSlots hands the primary over there and back: who reads a
// logical slot that standbys keep goes on reading at the new primary.
func TestMajor_LogicalSlots(t *testing.T) {
	if in := (pgctl.Install{Major: pgtest.Major(t)}); !in.KeepsSlots() {
		t.Skipf("standbys of PostgreSQL %d keep no slots", in.Major)
	}
	t.Parallel()
	g := healthy(t, cluster.WithParameter("wal_level", "logical"), cluster.WithParameter("sync_replication_slots", "on"),
		cluster.WithParameter("hot_standby_feedback", "on"))
	p, s := primaryAndStandby(t, g)
	p.Exec(t, "create table told (what text)")
	p.Query(t, "select slot_name from pg_create_logical_replication_slot('cdc', 'test_decoding', failover => true)")
	for _, what := range []string{"first", "second"} {
		waitSynced(t, p, s)
		p.Exec(t, "insert into told values ('"+what+"')")
		g.WaitReturned(t, g.Switchover(t, s).Epoch)
		p, s = s, p
		if got := p.Query(t, "select count(*) from pg_logical_slot_get_changes('cdc', null, null) where data like '%"+what+"%'"); got != "1" {
			t.Errorf("the slot on the new primary %s tells of the %s row %s times", p.Name, what, got)
		}
	}
	waitSynced(t, p, s)
}

// waitSynced waits until the standby keeps the primary's slot so that it may be
// used after a change of roles. PostgreSQL makes it so once the slot was read
// beyond where the standby began to keep it.
func waitSynced(t *testing.T, p, s *cluster.Node) {
	t.Helper()
	cluster.Eventually(t, 90*time.Second, s.Name+" keeps the slot", func() bool {
		p.Query(t, "select count(*) from pg_logical_slot_get_changes('cdc', null, null), pg_log_standby_snapshot()")
		got, err := s.TryQuery("select count(*) from pg_replication_slots where slot_name = 'cdc' and synced and not temporary and invalidation_reason is null")
		return err == nil && got == "1"
	})
}
