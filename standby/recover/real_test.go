package recover_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/failover/pgctl"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/standby/recover"
)

// history is what the origin did after the set.
type history struct {
	middle   time.Time // between the second and the third row of moments
	atLSN    pos.LSN   // after the second row
	xid      uint64    // of the second row
	atEnd    string    // all rows
	endOfLog pos.LSN
}

func (o *origin) live(t *testing.T) history {
	t.Helper()
	var h history
	insert := func() uint64 {
		n, _ := strconv.ParseUint(o.Query(t, "insert into moments default values returning pg_current_xact_id()::text::bigint"), 10, 64)
		return n
	}
	insert()
	h.xid = insert()
	var err error
	if h.atLSN, err = pos.ParseLSN(o.Query(t, "select pg_current_wal_insert_lsn()")); err != nil {
		t.Fatal(err)
	}
	o.Exec(t, "select pg_create_restore_point('two rows')")
	ms, _ := strconv.ParseInt(o.Query(t, "select (extract(epoch from clock_timestamp()) * 1e6)::bigint"), 10, 64)
	h.middle = time.UnixMicro(ms)
	insert()
	o.Exec(t, "delete from b where i % 3 = 0")
	o.Exec(t, "select pg_create_restore_point('end')")
	h.atEnd = o.rows(t)
	o.archived(t)
	return h
}

// One server does for all, as making it takes longest; the last test restores
// over it.
func TestRestore_RealDatabase(t *testing.T) {
	o := newOrigin(t)
	place, _ := newPlace(t)
	set := o.take(t, place)
	h := o.live(t)
	t.Run("FreshThenLatest", func(t *testing.T) { o.freshThenLatest(t, set, h, place) })
	t.Run("Targets", func(t *testing.T) { o.targets(t, set, h, place) })
	t.Run("CompleteInterrupted", func(t *testing.T) { o.completeInterrupted(t, set, h, place) })
	t.Run("Delta", func(t *testing.T) { o.delta(t, set, h, place) })
}

// freshThenLatest looks at each step of the plainest restore.
func (o *origin) freshThenLatest(t *testing.T, set backupset.Set, h history, place location.Location) {
	want := h.atEnd

	p := mustPlan(t, o.request(t, set), sources(place))
	var last recover.Progress
	r := mustExecute(t, p, sources(place), recover.Options{Progress: func(p recover.Progress) { last = p }})
	if r.Bytes != p.Bytes || last.DoneBytes != p.Bytes || r.SameBytes != 0 || r.FetchedBytes == 0 {
		t.Errorf("result %+v, progress %+v of a plan of %d bytes", r, last, p.Bytes)
	}
	s, err := recover.Inspect(p.DataDir)
	if err != nil || s.Step != recover.Ready || !s.Startable {
		t.Fatalf("inspect: %+v, %v", s, err)
	}
	o.Tool(t, "pg_verifybackup", "-n", "-i", "tablespace_map", "-i", "recovery.signal", "-i", "understudy.restore", p.DataDir)
	reached, err := recover.Complete(context.Background(), p, engine(o.scratch(t, p)), recover.CompleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if reached.Timeline != 2 || reached.LSN == 0 || reached.Time.IsZero() {
		t.Errorf("reached %+v", reached)
	}
	o.Tool(t, "pg_checksums", "--check", "-D", p.DataDir)
	if got := o.restoredRows(t, p); got != want {
		t.Errorf("rows:\n%s\nwant:\n%s", got, want)
	}
	if s, err := recover.Inspect(p.DataDir); err != nil || s.Step != recover.Finished || s.Reached == nil {
		t.Errorf("inspect: %+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Join(p.DataDir, "recovery.signal")); err == nil {
		t.Error("recovery.signal is still there")
	}
}

func (o *origin) targets(t *testing.T, set backupset.Set, h history, place location.Location) {
	target := func(k catalog.Target) recover.Aim { k.Inclusive = true; return recover.Aim{Target: k} }
	for name, row := range map[string]struct {
		aim  recover.Aim
		rows string // of moments
		stop string
		err  error
		mode recover.Mode
	}{
		"Time":      {aim: target(at(h.middle)), rows: "2", stop: "before commit"},
		"LSN":       {aim: target(catalog.Target{Kind: catalog.AtLSN, LSN: h.atLSN}), rows: "2", stop: "WAL location"},
		"XID":       {aim: target(catalog.Target{Kind: catalog.AtXID, XID: h.xid}), rows: "2", stop: "after commit"},
		"XIDBefore": {aim: recover.Aim{Target: catalog.Target{Kind: catalog.AtXID, XID: h.xid}}, rows: "1", stop: "before commit"},
		"Name":      {aim: target(catalog.Target{Kind: catalog.AtName, Name: "two rows"}), rows: "2", stop: "restore point"},
		"Immediate": {aim: target(catalog.Target{Kind: catalog.Immediate}), rows: "0", stop: "consistency"},
		"Beside":    {aim: target(catalog.Target{Kind: catalog.Latest}), rows: "3", mode: recover.Beside},
		"TooLate":   {aim: target(at(time.Now().Add(time.Hour))), err: pgctl.ErrTargetMissed},
		"NoLog":     {aim: recover.Aim{Target: catalog.Target{Kind: catalog.Latest}, Along: 7}, err: pgctl.ErrLogMissing},
		"Shutdown":  {aim: recover.Aim{Target: catalog.Target{Kind: catalog.AtName, Name: "two rows"}, Action: recover.Shutdown}, stop: "restore point"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := o.request(t, set)
			r.Aim = row.aim
			if row.mode != "" {
				r.Mode, r.Port = row.mode, 5433
			}
			p := mustPlan(t, r, sources(place))
			mustExecute(t, p, sources(place), recover.Options{Volatile: true})
			var seen pos.LSN
			reached, err := recover.Complete(context.Background(), p, engine(o.scratch(t, p)), recover.CompleteOptions{
				To: h.endOfLog, Progress: func(p recover.RecoveryProgress) { seen = p.At },
			})
			if row.err != nil {
				if !errors.Is(err, row.err) {
					t.Errorf("error %v, want %v", err, row.err)
				}
				if errors.Is(err, pgctl.ErrTargetMissed) && (reached.LSN < h.atLSN || !strings.Contains(err.Error(), "replay came to")) {
					t.Errorf("it does not say how far it came: %+v, %v", reached, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(reached.Stop, row.stop) || seen == 0 && reached.LSN == 0 {
				t.Errorf("reached %+v, seen %s", reached, seen)
			}
			if row.aim.Action == recover.Shutdown {
				goOn(t, o, p, h)
				return
			}
			if row.mode == recover.Beside {
				isAnother(t, o, p)
			}
			s := o.scratch(t, p)
			if _, err := s.Recover(context.Background(), nil, nil); err != nil {
				t.Fatal(err)
			}
			defer s.Stop(context.Background())
			if got := queryAt(t, s, "select count(*) from moments"); got != row.rows {
				t.Errorf("%s moments, want %s", got, row.rows)
			}
			if row.mode == recover.Beside {
				if got := rows(t, func(sql string) string { return queryAt(t, s, sql) }); got != h.atEnd {
					t.Errorf("rows:\n%s\nwant:\n%s", got, h.atEnd)
				}
				if id := queryAt(t, s, "select system_identifier from pg_control_system()"); id != strconv.FormatUint(p.NewSystemID, 10) {
					t.Errorf("system identifier %s, want %d", id, p.NewSystemID)
				}
			}
		})
	}
}

// goOn recovers a database that stopped at its target to a later one.
func goOn(t *testing.T, o *origin, p recover.Plan, h history) {
	t.Helper()
	p, err := recover.Retarget(p.DataDir, recover.Aim{Target: catalog.Target{Kind: catalog.Latest}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := recover.Complete(context.Background(), p, engine(o.scratch(t, p)), recover.CompleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := o.restoredRows(t, p); got != h.atEnd {
		t.Errorf("rows:\n%s\nwant:\n%s", got, h.atEnd)
	}
	if _, err := recover.Retarget(p.DataDir, recover.Aim{Target: catalog.Target{Kind: catalog.Latest}}); !errors.Is(err, recover.ErrRefused) {
		t.Errorf("another target for an open database: %v", err)
	}
}

// isAnother looks at a database beside the original that was never started with
// settings of ours.
func isAnother(t *testing.T, o *origin, p recover.Plan) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.DataDir, "postgresql.auto.conf"))
	if err != nil || strings.Contains(string(b), "recovery_target") || strings.Contains(string(b), "restore_command") || !strings.Contains(string(b), "port = '5433'") || !strings.Contains(string(b), "archive_mode = 'off'") {
		t.Errorf("postgresql.auto.conf: %v\n%s", err, b)
	}
}

// delta restores over a database that went on, was damaged and stopped.
func (o *origin) delta(t *testing.T, set backupset.Set, h history, place location.Location) {
	table := o.Query(t, "select pg_relation_filepath('a')")
	o.Exec(t, "drop table b; create table later as select generate_series(1, 10000) i")
	o.Exec(t, "vacuum")
	o.Stop(2)
	flip(t, filepath.Join(o.Data, table), 8192+100)
	for _, err := range []error{
		os.Truncate(filepath.Join(o.Data, "global/1262"), 0), os.WriteFile(filepath.Join(o.Data, "base/strange"), []byte("x"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := o.request(t, set)
	r.Mode, r.DataDir, r.Tablespaces = recover.Delta, o.Data, nil
	r.Aim.Target = catalog.Target{Kind: catalog.AtName, Name: "end"}
	p := mustPlan(t, r, sources(place))
	res := mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	if res.SameBytes == 0 || res.SameBytes == res.Bytes {
		t.Errorf("result %+v", res)
	}
	o.Tool(t, "pg_verifybackup", "-n", "-i", "tablespace_map", "-i", "recovery.signal", "-i", "understudy.restore", p.DataDir)
	if _, err := recover.Complete(context.Background(), p, engine(o.scratch(t, p)), recover.CompleteOptions{}); err != nil {
		t.Fatal(err)
	}
	o.Tool(t, "pg_checksums", "--check", "-D", p.DataDir)
	if got := o.restoredRows(t, p); got != h.atEnd {
		t.Errorf("rows:\n%s\nwant:\n%s", got, h.atEnd)
	}
}

// completeInterrupted cuts Complete after each of its steps and calls it again.
func (o *origin) completeInterrupted(t *testing.T, set backupset.Set, h history, place location.Location) {
	r := o.request(t, set)
	r.Mode, r.Port = recover.Beside, 5433
	p := mustPlan(t, r, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	s := o.scratch(t, p)
	errCut := errors.New("cut")
	e := engine(s)
	cut := func(change func(*recover.Engine)) {
		t.Helper()
		c := e
		change(&c)
		if _, err := recover.Complete(context.Background(), p, c, recover.CompleteOptions{}); !errors.Is(err, errCut) {
			t.Fatalf("cut: %v", err)
		}
	}
	cut(func(c *recover.Engine) {
		c.Recover = func(ctx context.Context, set map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
			r, err := e.Recover(ctx, set, seen)
			return r, errors.Join(err, errCut)
		}
	})
	cut(func(c *recover.Engine) { c.Renew = func(context.Context, uint64) error { return errCut } })
	cut(func(c *recover.Engine) {
		c.Renew = func(ctx context.Context, id uint64) error { return errors.Join(e.Renew(ctx, id), errCut) }
	})
	if st, err := recover.Inspect(p.DataDir); err != nil || st.Step != recover.Recovered {
		t.Fatalf("inspect: %+v, %v", st, err)
	}
	if _, err := recover.Complete(context.Background(), p, e, recover.CompleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := o.restoredRows(t, p); got != h.atEnd {
		t.Errorf("rows:\n%s\nwant:\n%s", got, h.atEnd)
	}
}
