package tail_test

import (
	"context"
	"testing"
	"time"

	"understudy/shipper/walfmt"
	"understudy/standby/tail"
	"understudy/test/pgtest"
)

// An INSERT … ON CONFLICT puts its row in, meets a row that came meanwhile, and
// takes its own back: nothing was inserted. The index's function makes it wait
// between the two.
func TestKeep_RowTakenBack(t *testing.T) {
	t.Parallel()
	s := newServer(t, "fsync=off")
	s.Exec(t, `create function f(i int) returns int language plpgsql immutable as $$ begin
			if current_setting('x.n', true) = 'armed' then perform set_config('x.n', 'wait', false);
			elsif current_setting('x.n', true) = 'wait' then perform pg_advisory_xact_lock(1); end if;
			return i; end $$;
		create table u (i int); create unique index on u (f(i))`)
	s.name("u", "public.u")
	holder, late := s.connect(), s.connect()
	from := s.at()
	exec(t, holder, "select pg_advisory_lock(1)")
	exec(t, late, "set x.n = 'armed'; begin")
	xid := run(t, late, "select 1")
	ended := make(chan error, 1)
	go func() {
		_, err := late.Exec(context.Background(), "insert into u values (7) on conflict do nothing")
		ended <- err
	}()
	pgtest.Eventually(t, 10*time.Second, "the insert waits", func() bool {
		return s.Query(t, "select count(*) from pg_locks where locktype = 'advisory' and not granted") == "1"
	})
	s.Exec(t, "insert into u values (7)")
	exec(t, holder, "select pg_advisory_unlock(1)")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	exec(t, late, "commit")
	cfg := s.stopAt(from)
	rep, err := tail.Keep(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range rep.Transactions {
		switch {
		case !tr.Committed:
			t.Errorf("%+v did not commit", tr)
		case tr.XID == xid && len(tr.Tables) != 0:
			t.Errorf("nothing stayed of %+v", tr)
		case tr.XID != xid && (len(tr.Tables) != 1 || tr.Tables[0].Inserts != 1 || tr.Tables[0].Name != "public.u"):
			t.Errorf("one row was inserted by %+v", tr)
		}
	}
	retracted := false
	for _, r := range records(t, cfg) {
		if op, ok := r.HeapOp(); ok && op.Kind == walfmt.HeapRetract {
			retracted = true
		}
	}
	if len(rep.Transactions) != 2 || !retracted {
		t.Errorf("%d transactions, a row was taken back: %v", len(rep.Transactions), retracted)
	}
}
