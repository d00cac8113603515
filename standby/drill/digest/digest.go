// Package digest computes digests of the tables of a PostgreSQL server, by the
// server itself: equal contents give equal digests on a primary, on its
// standbys and in a restored copy of the same major version.
//
// AtPosition takes them at a position of the log that is known exactly, so
// that a restore to that position can be compared; DESIGN.md says how.
package digest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/shipper/pos"
)

// Dial connects to a database of the server as a superuser.
type Dial func(ctx context.Context, database string) (*pgx.Conn, error)

// Digest is what a table holds: the number of its rows, and the sum of a hash
// over the text of each, which is the same for any order.
type Digest struct {
	Database string `json:"database"`
	Table    string `json:"table"` // with its schema, quoted where SQL needs it
	Rows     int64  `json:"rows"`
	Sum      string `json:"sum"`
}

// Left is a table without a digest, and why.
type Left struct {
	Database string `json:"database"`
	Table    string `json:"table"` // empty for the whole database
	Why      string `json:"why"`
	// Corrupt: the server found its own files damaged.
	Corrupt bool `json:"corrupt,omitempty"`
}

// Snapshot are the digests of a moment.
type Snapshot struct {
	// LSN is the position: what is in the tables is the effect of the log before
	// it, no more and no less. A recovery gets there with the target "LSN, not
	// inclusive". Zero when it is not known.
	LSN    pos.LSN   `json:"lsn,omitempty"`
	At     time.Time `json:"at"`
	Tables []Digest  `json:"tables"`
	Left   []Left    `json:"left,omitempty"`
}

// Limits bound what digests cost. Zero values choose.
type Limits struct {
	TableBytes int64         // a larger table is left out; zero is no bound
	TableN     int           // of all databases; 200 for AtPosition, 100,000 for Tables
	Time       time.Duration // for computing; ten minutes
	// Hold is the longest time for which AtPosition keeps replay or writers
	// waiting; mostly it takes some milliseconds. Two seconds for a standby, a
	// quarter of one for a primary.
	Hold time.Duration
	// First tells of tables that are taken before others; nil for none.
	First func(database, table string) bool
}

const (
	maxDatabases  = 16
	defaultTables = 100_000
	lockedTables  = 200 // far below what a lock table has room for
	defaultTime   = 10 * time.Minute
	standbyHold   = 2 * time.Second
	primaryHold   = 250 * time.Millisecond
)

// session makes the text of a value the same for every server, and the work
// gentle. Names are resolved in the system's schema only: what users have made
// must not run with our rights.
const session = `set search_path = pg_catalog, pg_temp; set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres'; set timezone = 'UTC';
set extra_float_digits = 3; set bytea_output = 'hex'; set lc_monetary = 'C'; set xmloption = 'content'; set row_security = off;
set jit = off; set max_parallel_workers_per_gather = 0; set lock_timeout = '1s'; set statement_timeout = 0;
set client_connection_check_interval = 0; set idle_in_transaction_session_timeout = 0; set application_name = 'understudy digest'`

// table is one that is to be taken.
type table struct {
	oid   uint32
	name  string
	bytes int64
}

// reader reads one database.
type reader struct {
	database string
	conn     *pgx.Conn
	tables   []table
}

// open connects to every database, and lists the tables.
func open(ctx context.Context, dial Dial, l Limits, s *Snapshot) (rs []*reader, err error) {
	names, err := databases(ctx, dial)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAll(rs)
		}
	}()
	for i, name := range names {
		if i >= maxDatabases {
			s.Left = append(s.Left, Left{Database: name, Why: fmt.Sprintf("more than %d databases", maxDatabases)})
			continue
		}
		r := &reader{database: name}
		if r.conn, err = connect(ctx, dial, name); err != nil {
			return rs, err
		}
		rs = append(rs, r)
		if err := r.list(ctx, l, s); err != nil {
			return rs, err
		}
		l.TableN -= len(r.tables)
	}
	return rs, nil
}

func closeAll(rs []*reader) {
	for _, r := range rs {
		r.close()
	}
}

func (r *reader) close() { hangUp(r.conn) }

// hangUp ends a session; what it held is free then.
func hangUp(c *pgx.Conn) {
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.Close(ctx)
}

func connect(ctx context.Context, dial Dial, database string) (*pgx.Conn, error) {
	c, err := dial(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("connect to database %s: %w", database, err)
	}
	if err := run(ctx, c, session); err != nil {
		hangUp(c)
		return nil, err
	}
	return c, nil
}

// maintenance is the database that is always there.
const maintenance = "postgres"

func databases(ctx context.Context, dial Dial) ([]string, error) {
	c, err := connect(ctx, dial, maintenance)
	if err != nil {
		return nil, err
	}
	defer hangUp(c)
	rows, err := ask(ctx, c, "select datname from pg_database where datallowconn and not datistemplate order by 1")
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, r[0])
	}
	return out, nil
}

// tablesSQL are the tables of users that are in the log, the ones of a database
// in an order that changes from call to call.
const tablesSQL = `select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), pg_table_size(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (c.relkind = 'r' or c.relkind = 'm' and c.relispopulated) and c.relpersistence = 'p'
and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' order by random()`

// list chooses the tables: those that are to be first, then by chance, which
// reaches all of them in time; and those in the order of their sizes.
func (r *reader) list(ctx context.Context, l Limits, s *Snapshot) error {
	rows, err := ask(ctx, r.conn, tablesSQL)
	if err != nil {
		return fmt.Errorf("list the tables of %s: %w", r.database, err)
	}
	first := func(t table) bool { return l.First != nil && l.First(r.database, t.name) }
	for _, row := range rows {
		var t table
		if _, err := fmt.Sscan(row[0]+" "+row[2], &t.oid, &t.bytes); err != nil {
			continue // it was dropped meanwhile: it has no size
		}
		if t.name = row[1]; l.TableBytes > 0 && t.bytes > l.TableBytes && !first(t) {
			s.Left = append(s.Left, Left{Database: r.database, Table: t.name, Why: fmt.Sprintf("it has %d bytes", t.bytes)})
			continue
		}
		r.tables = append(r.tables, t)
	}
	slices.SortStableFunc(r.tables, func(a, b table) int { return boolCompare(first(b), first(a)) })
	if len(r.tables) > l.TableN {
		s.Left = append(s.Left, Left{Database: r.database, Why: fmt.Sprintf("%d of its tables are too many", len(r.tables)-l.TableN)})
		r.tables = r.tables[:l.TableN]
	}
	slices.SortStableFunc(r.tables, func(a, b table) int {
		if c := boolCompare(first(b), first(a)); c != 0 {
			return c
		}
		return int(min(max(a.bytes-b.bytes, -1), 1))
	})
	return nil
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Tables computes the digests of a server in which nobody writes, as a restored
// one: each database is read in one snapshot, all of them in none.
func Tables(ctx context.Context, dial Dial, l Limits) (Snapshot, error) {
	l = l.or(defaultTables, 0)
	s := Snapshot{At: time.Now()}
	rs, err := open(ctx, dial, l, &s)
	if err != nil {
		return s, fmt.Errorf("compute digests: %w", err)
	}
	defer closeAll(rs)
	for _, r := range rs {
		if err := run(ctx, r.conn, "begin isolation level repeatable read read only"); err != nil {
			return s, fmt.Errorf("compute digests: %w", err)
		}
	}
	return s, compute(ctx, rs, l, &s)
}

func (l Limits) or(tables int, hold time.Duration) Limits {
	if l.TableN <= 0 {
		l.TableN = tables
	}
	if l.Time <= 0 {
		l.Time = defaultTime
	}
	if l.Hold <= 0 {
		l.Hold = hold
	}
	return l
}

// compute reads the tables of sessions that are in a transaction each.
func compute(ctx context.Context, rs []*reader, l Limits, s *Snapshot) error {
	end := time.Now().Add(l.Time)
	for _, r := range rs {
		for i, t := range r.tables {
			left := time.Until(end)
			if left <= 0 {
				s.Left = append(s.Left, Left{Database: r.database, Why: fmt.Sprintf("the time was over before %d of its tables", len(r.tables)-i)})
				break
			}
			d, err := r.digest(ctx, t, left)
			if ctx.Err() != nil {
				return fmt.Errorf("compute digests: %w", context.Cause(ctx))
			}
			if err != nil {
				s.Left = append(s.Left, Left{Database: r.database, Table: t.name, Why: err.Error(), Corrupt: corrupt(err)})
				if r.conn.IsClosed() {
					s.Left = append(s.Left, Left{Database: r.database, Why: fmt.Sprintf("the server ended the session before %d of its tables", len(r.tables)-i-1)})
					break
				}
				continue
			}
			s.Tables = append(s.Tables, d)
		}
		r.close() // its snapshot keeps dead rows on the primary
	}
	return nil
}

// digest computes that of one table. The row goes through PostgreSQL's own
// output function: a cast to text could be one that its owner made.
func (r *reader) digest(ctx context.Context, t table, patience time.Duration) (Digest, error) {
	d := Digest{Database: r.database, Table: t.name}
	sql := fmt.Sprintf(`savepoint t; set local statement_timeout = %d;
select count(*), coalesce(sum(hashtextextended(textin(record_out("understudy row")), 0)), 0) from only %s "understudy row"`, max(patience.Milliseconds(), 1), t.name)
	rows, err := ask(ctx, r.conn, sql)
	if err == nil {
		_, err = fmt.Sscan(rows[0][0], &d.Rows)
		d.Sum = rows[0][1]
	}
	if r.conn.IsClosed() {
		return d, err
	}
	return d, errors.Join(err, run(ctx, r.conn, "rollback to savepoint t; release savepoint t"))
}

// corrupt tells errors by which PostgreSQL says that its files are damaged.
func corrupt(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (strings.HasPrefix(pe.Code, "XX") || pe.Code == "58030")
}

// ask runs statements by the simple protocol and returns the rows of the last
// one; NULL is empty.
func ask(ctx context.Context, c *pgx.Conn, sql string) ([][]string, error) {
	res, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var out [][]string
	if len(res) > 0 {
		for _, row := range res[len(res)-1].Rows {
			var r []string
			for _, v := range row {
				r = append(r, string(v))
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func run(ctx context.Context, c *pgx.Conn, sql string) error {
	_, err := ask(ctx, c, sql)
	return err
}
