package clients

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// readPause is how long a reader rests between two looks.
const readPause = 20 * time.Millisecond

// Sight is a row that a reader saw.
type Sight struct {
	Row  Row
	Host string
	// Standby tells whether the server was one then.
	Standby bool
	At      time.Time // of the first sight
}

// String is for people.
func (s Sight) String() string {
	role := "primary"
	if s.Standby {
		role = "standby"
	}
	return fmt.Sprintf("%s on %s as %s at %s", s.Row, s.Host, role, s.At.Format("15:04:05.000"))
}

// Readers look at the writers' table on each of the hosts, again and again,
// and remember the newest row of each writer that they saw.
type Readers struct {
	c    *Clients
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	seen map[Row]Sight
}

// Read starts a reader on each host of the writers. Stop ends them.
func (c *Clients) Read() *Readers {
	ctx, stop := context.WithCancel(context.Background())
	r := &Readers{c: c, stop: stop, seen: map[Row]Sight{}}
	for _, h := range c.cfg.Hosts {
		r.wg.Go(func() { r.read(ctx, h) })
	}
	return r
}

// Stop ends the readers and waits for them.
func (r *Readers) Stop() {
	r.stop()
	r.wg.Wait()
}

// read is one reader's life.
func (r *Readers) read(ctx context.Context, host string) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			drop(conn)
		}
	}()
	for ctx.Err() == nil {
		if err := r.look(ctx, host, &conn); err != nil && conn != nil {
			drop(conn)
			conn = nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(readPause):
		}
	}
}

func (r *Readers) look(ctx context.Context, host string, conn **pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	if *conn == nil {
		c, err := pgx.Connect(ctx, "postgres://postgres@"+host+"/postgres?sslmode=disable&default_query_exec_mode=exec&application_name=reader")
		if err != nil {
			return err
		}
		*conn = c
	}
	rows, err := (*conn).Query(ctx, "select writer, max(seq), pg_is_in_recovery() from "+r.c.table()+" group by writer")
	if err != nil {
		return err
	}
	s := Sight{Host: host, At: time.Now()}
	_, err = pgx.ForEachRow(rows, []any{&s.Row.Writer, &s.Row.Seq, &s.Standby}, func() error { r.note(s); return nil })
	return err
}

func (r *Readers) note(s Sight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A standby's word weighs more: it shows only what is committed for good.
	if old, ok := r.seen[s.Row]; !ok || s.Standby && !old.Standby {
		r.seen[s.Row] = s
	}
}

// Seen is how many different rows were seen.
func (r *Readers) Seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// Gone are the rows that were seen and are not on a server now, in the order in
// which they were seen.
func (r *Readers) Gone(ctx context.Context, conn *pgx.Conn) ([]Sight, error) {
	rows, err := conn.Query(ctx, "select distinct writer, seq from "+r.c.table())
	if err != nil {
		return nil, err
	}
	have := map[Row]bool{}
	var row Row
	if _, err := pgx.ForEachRow(rows, []any{&row.Writer, &row.Seq}, func() error { have[row] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read the writers' rows: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Sight
	for _, s := range r.seen {
		if !have[s.Row] {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Sight) int { return a.At.Compare(b.At) })
	return out, nil
}
