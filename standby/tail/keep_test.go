package tail_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/shipper/pos"
	"understudy/standby/tail"
)

// history is what a test did on the server, in the report's words.
type history struct {
	cfg  tail.Config
	want []tail.Transaction // End and Time not set
	ends []pos.LSN          // position after each transaction of want that ended
	last pos.LSN            // start of the commit record of the first transaction
}

// divergence makes a tail with one transaction of each kind.
func divergence(t *testing.T, s *server) history {
	s.Exec(t, "create table a (i int primary key); create table b (i int); insert into a values (1), (2); insert into b values (1), (2), (3)")
	a, b := s.name("a", "public.a"), s.name("b", "public.b")
	table := func(node uint32, name string, ins, upd, del, trunc uint64) tail.Table {
		return tail.Table{Database: s.db, Relfilenode: node, Name: name, Inserts: ins, Updates: upd, Deletes: del, Truncates: trunc}
	}
	var h history
	ended := func(xid uint32, after pos.LSN, tr tail.Transaction) {
		tr.XID = xid
		h.want, h.ends = append(h.want, tr), append(h.ends, after)
	}
	conn, flying := s.connect(), s.connect()
	s.Exec(t, "checkpoint")
	from := s.at()

	xid, after := s.transact(conn, "insert into a values (3), (4), (5); update a set i = 6 where i = 3; update b set i = i + 10; delete from b where i > 11", "commit")
	ended(xid, after, tail.Transaction{Committed: true, Tables: []tail.Table{table(a, "public.a", 3, 1, 0, 0), table(b, "public.b", 0, 3, 2, 0)}})

	exec(t, flying, "begin")
	inFlight := run(t, flying, "insert into a values (100); do $$ begin for i in 200..263 loop begin insert into a values (i); exception when others then null; end; end loop; end $$")

	exec(t, conn, "begin")
	xid = run(t, conn, "insert into a values (10); savepoint x; insert into b values (20), (21); release x; savepoint y; delete from a where i = 10; rollback to y")
	exec(t, conn, "commit")
	after = s.at()
	ended(xid+2, 0, tail.Transaction{Tables: []tail.Table{table(a, "public.a", 0, 0, 1, 0)}})
	ended(xid, after, tail.Transaction{Committed: true, Tables: []tail.Table{table(a, "public.a", 1, 0, 0, 0), table(b, "public.b", 2, 0, 0, 0)}})

	xid, after = s.transact(conn, "insert into b values (30); update a set i = 7 where i = 6", "rollback")
	ended(xid, after, tail.Transaction{Tables: []tail.Table{table(a, "public.a", 0, 1, 0, 0), table(b, "public.b", 1, 0, 0, 0)}})

	xid, _ = s.transact(conn, "insert into b values (40)", "prepare transaction 'first'")
	exec(t, conn, "commit prepared 'first'")
	ended(xid, s.at(), tail.Transaction{Committed: true, Prepared: true, Tables: []tail.Table{table(b, "public.b", 1, 0, 0, 0)}})

	prepared, _ := s.transact(conn, "savepoint x; insert into a values (50)", "prepare transaction 'second'")

	xid, after = s.transact(conn, "truncate b; insert into b values (60)", "commit")
	newB := s.name("b", "the new b")
	class := s.number("select pg_relation_filenode('pg_class')")
	ended(xid, after, tail.Transaction{Committed: true, Tables: []tail.Table{
		table(class, "", 0, 1, 0, 0), table(b, "public.b", 0, 0, 0, 1), table(newB, "the new b", 1, 0, 0, 0)}})

	h.want = append(h.want,
		tail.Transaction{XID: inFlight, InFlight: true, Tables: []tail.Table{table(a, "public.a", 65, 0, 0, 0)}},
		tail.Transaction{XID: prepared, InFlight: true, Prepared: true, Tables: []tail.Table{table(a, "public.a", 1, 0, 0, 0)}})
	h.cfg = s.stopAt(from)
	for _, r := range records(t, h.cfg) {
		if c, ok := r.Commit(); ok && c.XID == h.want[0].XID {
			h.last = r.LSN
		}
	}
	return h
}

// plain is the transactions without what a test cannot know.
func plain(list []tail.Transaction) []tail.Transaction {
	list = slices.Clone(list)
	for i := range list {
		list[i].End, list[i].Time = 0, time.Time{}
	}
	return list
}

func TestKeep_OfARealPrimary(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := newServer(t)
	h := divergence(t, s)
	rep, err := tail.Keep(context.Background(), h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h.want, plain(rep.Transactions)); diff != "" {
		t.Fatalf("transactions (-want +got):\n%s", diff)
	}
	if rep.Decoded != h.cfg.To || rep.Partial || rep.Reason != "" || rep.More != 0 || rep.Bytes != int64(h.cfg.To-h.cfg.From) {
		t.Errorf("report %+v", rep)
	}
	checkEnds(t, h, rep, began)

	t.Run("BytesAreKept", func(t *testing.T) {
		if want := s.waldump(filepath.Join(s.Data, "pg_wal"), h.cfg); s.waldump(rep.Path, h.cfg) != want || strings.Count(want, "\n") < 100 {
			t.Error("pg_waldump prints something else for the copy")
		}
		m, got := inMemory(t, h.cfg), []byte(nil)
		for _, f := range rep.Files {
			b, err := os.ReadFile(filepath.Join(rep.Path, f))
			if err != nil || len(b) != segSize {
				t.Fatal(len(b), err)
			}
			got = append(got, b...)
		}
		if !bytes.Equal(got[:len(m.b)], m.b) || len(bytes.TrimLeft(got[len(m.b):], "\x00")) > 0 {
			t.Error("the copy differs")
		}
		if want := "1.3-" + strings.ReplaceAll(h.cfg.From.String(), "/", "_"); filepath.Base(rep.Path) != want {
			t.Errorf("kept as %s, want %s", rep.Path, want)
		}
	})
	t.Run("AgainIsTheSame", func(t *testing.T) {
		cfg := h.cfg
		cfg.Source, cfg.Resolve = memory{}, nil // it must not be read again
		again, err := tail.Keep(context.Background(), cfg)
		if diff := cmp.Diff(rep, again); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		all, err := tail.Load(cfg.Dir)
		if diff := cmp.Diff([]tail.Report{rep}, all); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	})
	t.Run("CutWithinARecord", func(t *testing.T) { cutWithinARecord(t, h) })
	t.Run("CrashAtEveryStep", func(t *testing.T) { crashAtEveryStep(t, h.cfg) })
	t.Run("FaultAtEveryCall", func(t *testing.T) { faultAtEveryCall(t, h.cfg) })
	t.Run("NoSpace", func(t *testing.T) { noSpace(t, h.cfg) })
	t.Run("ForkWithinARecord", func(t *testing.T) { forkWithinARecord(t, h) })
}

// checkEnds checks the transactions' ends against the positions that the
// server told, by asking what was lost between two of them.
func checkEnds(t *testing.T, h history, rep tail.Report, began time.Time) {
	t.Helper()
	before := h.cfg.From
	for i, end := range h.ends {
		if end == 0 {
			continue
		}
		want := []uint32(nil)
		if h.want[i].Committed {
			want = []uint32{h.want[i].XID}
		}
		var got []uint32
		for _, tr := range rep.LostBetween(before, end) {
			got = append(got, tr.XID)
			if tr.Time.Before(began.Add(-time.Second)) || tr.Time.After(time.Now().Add(time.Second)) {
				t.Errorf("transaction %d ended at %s", tr.XID, tr.Time)
			}
			// Both ends of the range: the first is not in it, the last is.
			if len(rep.LostBetween(tr.End-1, tr.End)) != 1 || len(rep.LostBetween(tr.End, tr.End+1)) != 0 {
				t.Errorf("transaction %d with the end %s is on the wrong side of it", tr.XID, tr.End)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("between %s and %s transactions %v were lost, want %v", before, end, got, want)
		}
		before = end
	}
}

func cutWithinARecord(t *testing.T, h history) {
	cfg := h.cfg
	cfg.To = h.last + 16
	rep, err := tail.Keep(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := h.want[0]
	want.Committed, want.InFlight = false, true
	if diff := cmp.Diff([]tail.Transaction{want}, plain(rep.Transactions)); diff != "" {
		t.Errorf("transactions (-want +got):\n%s", diff)
	}
	if !rep.Partial || rep.Decoded != h.last || rep.Reason == "" || len(rep.LostBetween(0, cfg.To)) != 0 {
		t.Errorf("report %+v", rep)
	}
	// The longer tail of the same fork stays beside it.
	if names := dirNames(t, cfg.Dir); len(names) != 2 || rep.Path != filepath.Join(cfg.Dir, names[1]) || names[1] != names[0]+"-2" {
		t.Errorf("%s in %v", rep.Path, names)
	}
	all, err := tail.Load(cfg.Dir)
	if err != nil || len(all) != 2 || all[0].To != h.cfg.To || all[1].To != cfg.To {
		t.Errorf("Load: %+v, %v", all, err)
	}
	// At the record's start the log is whole.
	cfg.To = h.last
	rep, err = tail.Keep(context.Background(), cfg)
	if err != nil || rep.Partial || rep.Decoded != cfg.To || rep.Reason != "" {
		t.Errorf("report %+v, %v", rep, err)
	}
}

// A fork that is no record boundary leaves the record that reaches over it in
// the tail.
func forkWithinARecord(t *testing.T, h history) {
	cfg := h.cfg
	cfg.Dir = filepath.Join(t.TempDir(), "tails")
	for off := range pos.LSN(24) {
		cfg.From = h.last + off
		rep, err := tail.Keep(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		first := h.want[0]
		first.Tables = nil // all of it was before the fork
		want := append([]tail.Transaction{first}, h.want[1:]...)
		if diff := cmp.Diff(want, plain(rep.Transactions)); diff != "" {
			t.Fatalf("from %s (-want +got):\n%s", cfg.From, diff)
		}
	}
}

func TestKeep_Refuses(t *testing.T) {
	good := tail.Config{Source: memory{start: 4 * segSize, b: make([]byte, 2*segSize)}, From: 4*segSize + 80, To: 5 * segSize,
		SegSize: segSize, Timeline: 1, Epoch: epoch(1)}
	for name, tt := range map[string]struct {
		change func(*tail.Config)
		want   error
	}{
		"TooLarge":    {func(c *tail.Config) { c.MaxBytes = 1000 }, tail.ErrTooLarge},
		"Missing":     {func(c *tail.Config) { c.To = 7 * segSize }, tail.ErrMissing},
		"MissingHead": {func(c *tail.Config) { c.From = 3 * segSize }, tail.ErrMissing},
		"Backwards":   {func(c *tail.Config) { c.To = 4 * segSize }, nil},
		"SegmentSize": {func(c *tail.Config) { c.SegSize = 1000 }, nil},
		"NoEpoch":     {func(c *tail.Config) { c.Epoch = pos.Epoch{} }, nil},
		"NoTimeline":  {func(c *tail.Config) { c.Timeline = 0 }, nil},
		"NoSource":    {func(c *tail.Config) { c.Source = nil }, nil},
		"NoParent":    {func(c *tail.Config) { c.Dir = filepath.Join(c.Dir, "a", "b") }, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			dir := t.TempDir()
			cfg.Dir = filepath.Join(dir, "tails")
			tt.change(&cfg)
			if _, err := tail.Keep(context.Background(), cfg); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if all, err := tail.Load(cfg.Dir); len(all) != 0 || err != nil {
				t.Error(all, err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("Cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("the role ended")
		cancel(why)
		cfg := good
		cfg.Dir = t.TempDir()
		if _, err := tail.Keep(ctx, cfg); !errors.Is(err, why) || len(dirNames(t, cfg.Dir)) != 0 {
			t.Error(err, dirNames(t, cfg.Dir))
		}
	})
	t.Run("EmptyTail", func(t *testing.T) {
		cfg := good
		cfg.Dir = filepath.Join(t.TempDir(), "tails")
		cfg.To = cfg.From
		rep, err := tail.Keep(context.Background(), cfg)
		if _, serr := os.Stat(cfg.Dir); err != nil || rep.Bytes != 0 || rep.Path != "" || !errors.Is(serr, os.ErrNotExist) {
			t.Error(rep, err, serr)
		}
	})
}

// A log that is none is kept all the same: somebody may want to look at it.
func TestKeep_GarbageIsKept(t *testing.T) {
	b := bytes.Repeat([]byte("garbage\n"), segSize/8)
	cfg := tail.Config{Source: memory{start: 4 * segSize, b: b}, From: 4*segSize + 1001, To: 5 * segSize,
		SegSize: segSize, Timeline: 1, Epoch: epoch(1), Dir: t.TempDir()}
	rep, err := tail.Keep(context.Background(), cfg)
	if err != nil || rep.Decoded != cfg.From || !rep.Partial || rep.Reason == "" || len(rep.Transactions) != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if got, err := os.ReadFile(filepath.Join(rep.Path, rep.Files[0])); err != nil || !bytes.Equal(got, b) {
		t.Error("the copy differs", err)
	}
}
