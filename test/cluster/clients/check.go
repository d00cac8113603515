package clients

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrRunning is returned when rows are to be judged while they are written.
var ErrRunning = errors.New("the writers still run; stop them first")

// Verdict is what a server's table says about the writers' memory. Only the
// first three counts are harmless.
type Verdict struct {
	Acked        int // rows whose commit was acknowledged
	Unknown      int // rows tried whose commit was not
	UnknownThere int // those of them that are there
	// Missing were acknowledged and are not there.
	Missing []Row
	// Duplicates are there more than once.
	Duplicates []Row
	// Foreign are there and nobody wrote them.
	Foreign []Row
}

// Err is nil when nothing is wrong, else names what is, at most ten rows of
// each kind.
func (v Verdict) Err() error {
	var errs []error
	for _, k := range []struct {
		rows []Row
		what string
	}{{v.Missing, "acknowledged and missing"}, {v.Duplicates, "there more than once"}, {v.Foreign, "there and written by nobody"}} {
		if n := len(k.rows); n > 0 {
			errs = append(errs, fmt.Errorf("%d rows %s (writer/seq): %v", n, k.what, k.rows[:min(n, 10)]))
		}
	}
	return errors.Join(errs...)
}

// Check compares the rows of a server with what the writers remember. They
// must have been stopped.
func (c *Clients) Check(ctx context.Context, conn *pgx.Conn) (Verdict, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.IsZero() {
		return Verdict{}, ErrRunning
	}
	rows, err := conn.Query(ctx, "select writer, seq, count(*) from "+c.table()+" group by writer, seq")
	if err != nil {
		return Verdict{}, err
	}
	have := map[Row]int64{}
	var r Row
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&r.Writer, &r.Seq, &n}, func() error { have[r] = n; return nil })
	if err != nil {
		return Verdict{}, fmt.Errorf("read the writers' rows: %w", err)
	}
	return judge(c.acked, have), nil
}

// Missing are the acknowledged rows that a server does not have.
func (c *Clients) Missing(ctx context.Context, conn *pgx.Conn) ([]Row, error) {
	v, err := c.Check(ctx, conn)
	return v.Missing, err
}

// Duplicates are the rows that a server has more than once.
func (c *Clients) Duplicates(ctx context.Context, conn *pgx.Conn) ([]Row, error) {
	v, err := c.Check(ctx, conn)
	return v.Duplicates, err
}

// judge compares rows tried, by writer and seq and true once acknowledged,
// with how often each is there.
func judge(acked [][]bool, have map[Row]int64) Verdict {
	var v Verdict
	for w, rows := range acked {
		for seq, ok := range rows {
			n := have[Row{w, int64(seq)}]
			switch {
			case ok && n == 0:
				v.Missing = append(v.Missing, Row{w, int64(seq)})
			case n > 1:
				v.Duplicates = append(v.Duplicates, Row{w, int64(seq)})
			}
			if ok {
				v.Acked++
				continue
			}
			v.Unknown++
			if n > 0 {
				v.UnknownThere++
			}
		}
	}
	for r := range have {
		if r.Writer < 0 || r.Writer >= len(acked) || r.Seq < 0 || r.Seq >= int64(len(acked[r.Writer])) {
			v.Foreign = append(v.Foreign, r)
		}
	}
	slices.SortFunc(v.Foreign, func(a, b Row) int { return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.Seq, b.Seq)) })
	return v
}

// Table is a table's contents in short.
type Table struct {
	Name string
	Rows int64
	// Sum is the sum of a 64-bit hash of every row's text, so that the order of
	// rows does not matter and a row that is there twice does.
	Sum string
}

// Digests are the tables of both data nodes.
type Digests struct{ Primary, Standby []Table }

// Err is nil when both have the same tables with the same contents.
func (d Digests) Err() error {
	var errs []error
	standby := map[string]Table{}
	for _, t := range d.Standby {
		standby[t.Name] = t
	}
	for _, t := range d.Primary {
		s, there := standby[t.Name]
		delete(standby, t.Name)
		switch {
		case !there:
			errs = append(errs, fmt.Errorf("table %s is not on the standby", t.Name))
		case s != t:
			errs = append(errs, fmt.Errorf("table %s has %d rows with digest %s on the primary and %d with %s on the standby", t.Name, t.Rows, t.Sum, s.Rows, s.Sum))
		}
	}
	for name := range standby {
		errs = append(errs, fmt.Errorf("table %s is on the standby only", name))
	}
	return errors.Join(errs...)
}

// Digests reads every logged table of the database on both data nodes, on the
// standby once it has applied what the primary had flushed then. Nobody may
// write meanwhile. It is an error unless one host is a primary and the other a
// standby.
func (c *Clients) Digests(ctx context.Context) (d Digests, err error) {
	var primary, standby *pgx.Conn
	for _, h := range c.cfg.Hosts {
		conn, err := pgx.Connect(ctx, "postgres://postgres@"+h+"/postgres?sslmode=disable&connect_timeout=5")
		if err != nil {
			return d, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		var recovering bool
		if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovering); err != nil {
			return d, err
		}
		side := &primary
		if recovering {
			side = &standby
		}
		if *side != nil {
			return d, fmt.Errorf("of the hosts %v more than one is a primary, or more than one a standby", c.cfg.Hosts)
		}
		*side = conn
	}
	if primary == nil || standby == nil {
		return d, fmt.Errorf("the hosts %v are not a primary and a standby", c.cfg.Hosts)
	}
	if d.Primary, err = tables(ctx, primary); err != nil {
		return d, err
	}
	if err := waitApplied(ctx, primary, standby); err != nil {
		return d, err
	}
	d.Standby, err = tables(ctx, standby)
	return d, err
}

// waitApplied waits until the standby has applied what the primary has
// flushed.
func waitApplied(ctx context.Context, primary, standby *pgx.Conn) error {
	var end, applied string
	// Not the insert pointer: it skips a page header before anything is written
	// there.
	if err := primary.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		return err
	}
	for {
		var done bool
		err := standby.QueryRow(ctx, "select coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false), coalesce(pg_last_wal_replay_lsn()::text, 'nothing')", end).Scan(&done, &applied)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the standby has applied %s and not yet %s: %w", applied, end, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func tables(ctx context.Context, conn *pgx.Conn) ([]Table, error) {
	rows, err := conn.Query(ctx, `select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind = 'r' and relpersistence = 'p' and nspname !~ '^pg_' and nspname <> 'information_schema' order by 1`)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	out := make([]Table, 0, len(names))
	for _, n := range names {
		t := Table{Name: n}
		err := conn.QueryRow(ctx, "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text from "+n+" t").Scan(&t.Rows, &t.Sum)
		if err != nil {
			return nil, fmt.Errorf("digest of %s: %w", n, err)
		}
		out = append(out, t)
	}
	return out, nil
}
