package pgctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Unsafe is one setting or object of the database that breaks the promise that
// what was acknowledged is on a majority, or that loses something in a failover.
type Unsafe struct {
	Key  string // the same for as long as the same thing stands
	Text string // one sentence: what is wrong, what can be lost, the SQL that mends it
}

// The bounds of what Unsafe looks at and says.
const (
	maxUnsafe          = 32 // each goes with every report of the node
	maxUnsafeDatabases = 64
	maxUnsafeNames     = 20
	maxUnsafeNameBytes = 400  // of all names of one text
	maxUnsafeText      = 1000 // bytes
)

// unsafePatience bounds the look into one database.
const unsafePatience = 2 * time.Second

// Unsafe lists what is unsafe in an open primary, by key; at most 32 entries,
// one of which says when there are more. It connects to each database that
// lets anybody in, one after the other, and asks one question there; a database
// that cannot be looked at is in the list. With an error nothing is known.
//
// Not seen are what a running session has set for itself, which no other
// session can read, and what a client sets when it connects. Prepared
// transactions and large objects are in the log and need no mention.
func (s *Server) Unsafe(ctx context.Context) ([]Unsafe, error) {
	var found []Unsafe
	var databases []named
	err := s.visit(ctx, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		for _, look := range []func(context.Context, *pgx.Conn) ([]Unsafe, error){s.unsafeSettings, unsafeOverrides, s.losableSlots} {
			some, err := look(ctx, conn)
			if err != nil {
				return err
			}
			found = append(found, some...)
		}
		var err error
		databases, err = openDatabases(ctx, conn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for unsafe settings: %w", err)
	}
	if n := len(databases); n > maxUnsafeDatabases {
		found = append(found, Unsafe{"databases-unchecked", fmt.Sprintf("unlogged tables are looked for in the first %d of %d databases only", maxUnsafeDatabases, n)})
		databases = databases[:maxUnsafeDatabases]
	}
	for _, d := range databases {
		some, err := s.unsafeObjects(ctx, d)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("look for unsafe settings: %w", context.Cause(ctx))
		}
		if err != nil {
			some = []Unsafe{{unsafeKey("database-unchecked", d.name), "database " + d.quoted + " cannot be looked at for unlogged tables: " + err.Error()}}
		}
		found = append(found, some...)
	}
	return bounded(found), nil
}

// named is a name as it is and as SQL wants it.
type named struct{ name, quoted string }

// visit asks questions on a connection of its own whose settings are not those
// that the database or an operator gives to sessions: no other schema's
// functions and operators are called with the daemon's rights, and a lock that
// somebody holds does not hold up the caller.
func (s *Server) visit(ctx context.Context, database string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, unsafePatience)
	defer cancel()
	role, err := s.role()
	if err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(s.dsnFor(role))
	if err != nil {
		return fmt.Errorf("connect to the local server: %w", err)
	}
	cfg.Database = database
	for k, v := range map[string]string{"application_name": "understudy", "search_path": "pg_catalog", "statement_timeout": "1500", "jit": "off"} {
		cfg.RuntimeParams[k] = v
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is asked twice
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to the local server: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(ctx, conn)
}

// openDatabases are those that anybody may connect to; -2 marks one whose
// removal was interrupted.
func openDatabases(ctx context.Context, conn *pgx.Conn) ([]named, error) {
	rows, err := conn.Query(ctx, "select datname::text, quote_ident(datname) from pg_database where datallowconn and datconnlimit <> -2 order by oid")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d named, err error) {
		err = row.Scan(&d.name, &d.quoted)
		return d, err
	})
}

// objectsQuery finds, in one database, what a failover empties and functions
// whose text lowers the durability of the transaction that calls them. A SET
// clause of a function is not looked for: it has ended when the transaction
// commits. A sequence that belongs to an unlogged table goes with it.
const objectsQuery = `select kind, count(*), (array_agg(name order by name))[1:20] from (
 select case relkind when 'S' then 'sequence' else 'table' end as kind, format('%I.%I', nspname, relname) as name
  from pg_class c join pg_namespace n on n.oid = relnamespace
  where relpersistence = 'u' and relkind in ('r', 'S')
   and not (relkind = 'S' and exists (select from pg_depend d join pg_class t on t.oid = d.refobjid
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
     and d.deptype in ('a', 'i') and t.relpersistence = 'u'))
 union all
 select 'function', oid::regprocedure::text from pg_proc
  where prolang > 13 and prosrc ilike '%synchronous_commit%'
   and prosrc ~* 'synchronous_commit[''"]*\s*(=|to\M|,)\s*[''"]*(off|local|false|no|0)\M'
) x group by kind order by kind`

// unsafeObjects looks into one database. One that was dropped since has nothing.
func (s *Server) unsafeObjects(ctx context.Context, d named) (found []Unsafe, err error) {
	err = s.visit(ctx, d.name, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, objectsQuery)
		if err != nil {
			return err
		}
		var kind string
		var n int
		var names []string
		_, err = pgx.ForEachRow(rows, []any{&kind, &n, &names}, func() error {
			found = append(found, unsafeObject(d, kind, names, n))
			return nil
		})
		return err
	})
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "3D000" {
		return nil, nil
	}
	return found, err
}

func unsafeObject(d named, kind string, names []string, n int) Unsafe {
	list := listed(names, n)
	switch kind {
	case "table":
		return Unsafe{unsafeKey("unlogged-tables", d.name), fmt.Sprintf("database %s has %s without log (%s), empty after every failover: ALTER TABLE %s SET LOGGED",
			d.quoted, counted(n, "table"), list, names[0])}
	case "sequence":
		return Unsafe{unsafeKey("unlogged-sequences", d.name), fmt.Sprintf("database %s has %s without log (%s), back at the start after every failover: ALTER SEQUENCE %s SET LOGGED",
			d.quoted, counted(n, "sequence"), list, names[0])}
	default:
		return Unsafe{unsafeKey("synchronous-commit-functions", d.name), fmt.Sprintf(
			"database %s has %s whose text sets synchronous_commit to local or off (%s), so commits of a transaction that calls one may be lost in a failover: replace it by one that does not, see pg_get_functiondef('%s'::regprocedure)",
			d.quoted, counted(n, "function"), list, strings.ReplaceAll(names[0], "'", "''"))}
	}
}

// losableSlots finds logical slots: they are on this host alone. From 17 on a
// slot can be marked to be kept up to date on standbys, which they do where
// they are set to; that the nodes are set alike is taken for granted.
func (s *Server) losableSlots(ctx context.Context, conn *pgx.Conn) ([]Unsafe, error) {
	where, others := "", "make the others anew after a failover"
	if s.KeepsSlots() {
		where = " and not (failover and current_setting('sync_replication_slots')::bool and current_setting('hot_standby_feedback')::bool)"
		others = "have the others kept on standbys (sync_replication_slots and hot_standby_feedback on at every node, failover set for the slot), or make them anew after a failover"
	}
	rows, err := conn.Query(ctx, "select slot_name::text from pg_replication_slots where slot_type = 'logical' and not temporary"+where+" order by 1")
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return []Unsafe{{"logical-slots", fmt.Sprintf("%s on this host alone (%s), gone after a failover together with the changes that subscribers have not read: drop what nobody reads with SELECT pg_drop_replication_slot('%s'), and %s",
		counted(len(names), "logical replication slot"), listed(names, len(names)), names[0], others)}}, nil
}

// unsafeKey is a key of a kind of thing and the names of the thing. Of a name
// that is not plain enough for a key, a sum tells it apart from others.
func unsafeKey(kind string, names ...string) string {
	for _, n := range names {
		clean := strings.Map(func(r rune) rune {
			if r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' {
				return r
			}
			return '_'
		}, n)
		if clean != n || len(n) > 40 {
			h := fnv.New32a()
			h.Write([]byte(n))
			clean = fmt.Sprintf("%s-%08x", clean[:min(len(clean), 40)], h.Sum32())
		}
		kind += "-" + clean
	}
	return kind
}

func counted(n int, noun string) string {
	if n == 1 {
		return "a " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// listed names the first of n names, and counts the rest.
func listed(names []string, n int) string {
	size, some := 0, 0
	for some < min(len(names), maxUnsafeNames) && size+len(names[some]) <= maxUnsafeNameBytes {
		size += len(names[some])
		some++
	}
	text := strings.Join(names[:some], ", ")
	if n > some {
		text += fmt.Sprintf(" and %d more", n-some)
	}
	return text
}

// bounded cuts the list, which begins with what endangers commits, and each text
// to what may be told, and sorts it. A name in a text may hold anything.
func bounded(found []Unsafe) []Unsafe {
	if n := len(found) - (maxUnsafe - 1); n > 1 {
		found = append(found[:maxUnsafe-1], Unsafe{"unsafe-more", fmt.Sprintf("%d more things are unsafe; they are told when some of the others are mended", n)})
	}
	for i := range found {
		text := strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return '?'
			}
			return r
		}, found[i].Text)
		found[i].Text = strings.ToValidUTF8(text[:min(len(text), maxUnsafeText)], "?")
	}
	slices.SortFunc(found, func(a, b Unsafe) int { return cmp.Compare(a.Key, b.Key) })
	return found
}

// fileMend says how a setting of the server's own files is taken back.
func (s *Server) fileMend(name, file string, line int) string {
	switch {
	case filepath.Base(file) == "postgresql.auto.conf":
		return "ALTER SYSTEM RESET " + name + "; SELECT pg_reload_conf()"
	case file == s.managedConf():
		return "take it out of postgresql.parameters of the node file and restart the daemon"
	case file == "":
		return "hand over with understudy switchover, since a server that understudy starts has it from its files alone"
	}
	return fmt.Sprintf("take it out of line %d of %s, then SELECT pg_reload_conf()", line, file)
}
