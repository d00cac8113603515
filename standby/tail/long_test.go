package tail_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
	"understudy/standby/tail"
	"understudy/test/faultfs"
)

// A tail over several segments, with more transactions than a report lists, on
// a server that notes top transactions early.
func TestKeep_LongTail(t *testing.T) {
	t.Parallel()
	s := newServer(t, "wal_level=logical", "fsync=off", "synchronous_commit=off")
	s.Exec(t, "create table a (i int); create table wide (i int)")
	a := s.name("a", "public.a")
	flying := s.connect()
	from := s.at()
	exec(t, flying, "begin")
	inFlight := run(t, flying, "do $$ begin for i in 1..10 loop begin insert into a values (i); exception when others then null; end; end loop; end $$")
	const committed, rolledBack = 10_050, 30
	s.Exec(t, "do $$ begin for i in 1..30 loop insert into a values (i); rollback; end loop; end $$")
	s.Exec(t, "do $$ begin for i in 1..10050 loop insert into a values (i); commit; end loop; end $$")
	s.Exec(t, "select pg_logical_emit_message(true, 'p', repeat('m', 50000)); select pg_switch_wal()")
	// The message is a transaction too, and the two switches of segments skip
	// bytes.
	s.Exec(t, "begin; insert into a values (1); commit")
	s.Exec(t, "set synchronous_commit = on; select pg_switch_wal(); insert into a select generate_series(1, 2000)")
	cfg := s.stopAt(from)
	whole := cfg
	rep, err := tail.Keep(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Files) < 3 || rep.Decoded != cfg.To || s.waldump(rep.Path, cfg) != s.waldump(filepath.Join(s.Data, "pg_wal"), cfg) {
		t.Errorf("%d files, decoded to %s of %s", len(rep.Files), rep.Decoded, cfg.To)
	}
	all := len(rep.Transactions) + rep.More
	if len(rep.Transactions) != 10_000 || all != committed+rolledBack+1+3 || rep.MoreCommitted != committed+3-10_000 {
		t.Errorf("%d transactions, %d more, %d of them committed", len(rep.Transactions), rep.More, rep.MoreCommitted)
	}
	for i, tr := range rep.Transactions {
		if !tr.Committed || i > 0 && rep.Transactions[i-1].End >= tr.End || len(tr.Tables) != 1 || tr.Tables[0].Inserts != 1 || tr.Tables[0].Relfilenode != a {
			t.Fatalf("transaction %d is %+v", i, tr)
		}
	}

	// A shorter one lists what is in flight, and knows it as one transaction.
	cfg.To = rep.Transactions[9].End
	rep, err = tail.Keep(context.Background(), cfg)
	if err != nil || len(rep.Transactions) != 10+rolledBack+1 || rep.More != 0 {
		t.Fatalf("%d transactions, %v", len(rep.Transactions), err)
	}
	last := rep.Transactions[len(rep.Transactions)-1]
	if last.XID != inFlight || !last.InFlight || len(last.Tables) != 1 || last.Tables[0].Inserts != 10 {
		t.Errorf("in flight is %+v", last)
	}
	t.Run("EveryEnd", func(t *testing.T) { everyEnd(t, whole) })
}

// everyEnd ends the tail anywhere around a record of many pages and a switch to
// the next segment, and compares what the report says of its end with the
// records that are whole before it.
func everyEnd(t *testing.T, cfg tail.Config) {
	list := records(t, cfg)
	big := slices.IndexFunc(list, func(r walfmt.Record) bool { return r.Len > 50_000 })
	first := big - 200
	last := slices.IndexFunc(list, func(r walfmt.Record) bool { return r.LSN > list[big].LSN.SegEnd(segSize)+10_000 })
	if first < 0 || last < 0 {
		t.Fatalf("the large record is %d of %d, and %d", big, len(list), last)
	}
	cfg.Source, cfg.From, cfg.Dir, cfg.Resolve = inMemory(t, cfg), list[first].LSN, "/tails", nil
	next, partial := first, 0
	for to := cfg.From + 1; to < list[last].LSN; to += 701 {
		for lastByte(list[next]) < to {
			next++
		}
		decoded := cfg.From
		if next > first {
			decoded = min(list[next-1].End, to)
			if list[next-1].End > to+20_000 {
				to += 19_001 // in what the switch skips one place is like another
				decoded = to
			}
		}
		begins := list[next].LSN
		if to > begins && to < begins+4 {
			continue // its length may be zeros up to here
		}
		cfg.To, cfg.FS = to, faultfs.New()
		rep, err := tail.Keep(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Decoded != decoded || rep.Partial != (to > begins) {
			t.Fatalf("up to %s: decoded %s, partial %v, %s; the last whole record ends at %s and the next begins at %s",
				to, rep.Decoded, rep.Partial, rep.Reason, decoded, begins)
		}
		if rep.Partial {
			partial++
		}
	}
	if partial < 50 {
		t.Errorf("only %d ends within a record", partial)
	}
}

// lastByte is where a record's last byte stands, page headers counted.
func lastByte(r walfmt.Record) pos.LSN {
	at, left := r.LSN, pos.LSN(r.Len)
	for {
		room := walfmt.PageSize - at%walfmt.PageSize
		if left <= room {
			return at + left - 1
		}
		left -= room
		at += room + 24
		if (at-24)%segSize == 0 {
			at += 16
		}
	}
}

// One transaction with very many tables and subtransactions: its commit record
// has many pages, and work must not grow with the square of it.
func TestKeep_WideTransaction(t *testing.T) {
	t.Parallel()
	s := newServer(t, "fsync=off", "max_locks_per_transaction=1000")
	from := s.at()
	s.Exec(t, `do $$ begin for i in 1..1200 loop execute 'create table t' || i || '(i int)'; end loop;
		for i in 1..1200 loop begin execute 'insert into t' || i || ' values (1), (2)'; exception when others then null; end; end loop; end $$`)
	cfg := s.stopAt(from)
	began := time.Now()
	rep, err := tail.Keep(context.Background(), cfg)
	if err != nil || len(rep.Transactions) != 1 {
		t.Fatalf("%d transactions, %v", len(rep.Transactions), err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	tr := rep.Transactions[0]
	inserted := 0
	for _, table := range tr.Tables {
		if table.Relfilenode >= 16384 && table.Inserts == 2 {
			inserted++
		}
	}
	if !tr.Committed || len(tr.Tables) != 1000 || tr.MoreTables < 200 || inserted < 900 {
		t.Errorf("committed %v, %d tables, %d with both rows, %d more", tr.Committed, len(tr.Tables), inserted, tr.MoreTables)
	}
}
