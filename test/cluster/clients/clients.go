// Package clients writes to a group as an application does, through an
// ordinary driver with a connection string of several hosts, and tells
// afterwards how long nobody could write and whether a row is missing.
//
// It knows nothing of the product: what it measures is what PostgreSQL's
// clients see, and it can be tested against plain servers.
package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// Deadline bounds the dial to one host, and one statement.
	Deadline = 300 * time.Millisecond
	// retryPause is how long a writer rests after a round over all hosts of
	// which none let it write.
	retryPause = 10 * time.Millisecond
	// roveAfter is how long a roving writer keeps a connection.
	roveAfter = 200 * time.Millisecond
	// startWithin is how long the first commits may take.
	startWithin = 20 * time.Second
)

// Config says who writes where.
type Config struct {
	// Hosts are the addresses, host:port, of all data nodes. A writer that
	// connects tries them in this order and takes the first that lets it write.
	Hosts []string
	// Writers is their number, each on a connection of its own.
	Writers int
	// Think is a writer's pause between two commits; zero is none.
	Think time.Duration
	// Table is made anew by Start; "outage_acked" when empty.
	Table string
	// Trace makes each connection ask which server it has, for CheckServers.
	// That takes one more round trip after each connect.
	Trace bool
	// Rove makes every other writer try the hosts in reverse order, and connect
	// anew every roveAfter, so that a second primary beside the first would be
	// found at once.
	Rove bool
	// Commit is the writers' synchronous_commit; the server's when empty.
	Commit string
	// Pad is how many bytes each row carries besides, uncompressed.
	Pad int
}

// DSN is the connection string of several hosts, for the one that takes
// writes.
func (c Config) DSN() string {
	return fmt.Sprintf("postgres://postgres@%s/postgres?target_session_attrs=read-write&sslmode=disable&default_query_exec_mode=exec&application_name=clients",
		strings.Join(c.Hosts, ","))
}

// dial is the driver's form of DSN.
func (c Config) dial() (*pgx.ConnConfig, error) {
	dial, err := pgx.ParseConfig(c.DSN())
	if err != nil {
		return nil, err
	}
	dial.ConnectTimeout = Deadline // for each host
	if c.Commit != "" {
		dial.RuntimeParams["synchronous_commit"] = c.Commit
	}
	return dial, nil
}

// Row is one row that a writer tried to insert. A writer tries each seq once,
// from zero on.
type Row struct {
	Writer int
	Seq    int64
}

// String is writer/seq.
func (r Row) String() string { return fmt.Sprintf("%d/%d", r.Writer, r.Seq) }

// ack is one acknowledged commit, in time since the clients' begin.
type ack struct {
	writer    int
	server    int // index in found
	began, at time.Duration
}

// Clients are writers at work, or what they remember after Stop.
type Clients struct {
	cfg  Config
	dial [2]*pgx.ConnConfig // the second has the hosts in reverse order
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	began time.Time

	mu    sync.Mutex
	acks  []ack    // in the order of at
	found []Server // whom the connections had, in order; the first is unknown
	acked [][]bool // by writer and seq: every row tried, true once acknowledged
	ended time.Time
	fails int
	last  error
}

// Start makes the table on the host that takes writes and starts the writers.
// It returns when each of them has had a commit acknowledged.
func Start(ctx context.Context, cfg Config) (*Clients, error) {
	if cfg.Table == "" {
		cfg.Table = "outage_acked"
	}
	c := &Clients{cfg: cfg, stop: make(chan struct{}), acked: make([][]bool, cfg.Writers), found: make([]Server, 1)}
	var err error
	if c.dial[0], err = cfg.dial(); err != nil {
		return nil, err
	}
	cfg.Hosts = slices.Clone(cfg.Hosts)
	slices.Reverse(cfg.Hosts)
	if c.dial[1], err = cfg.dial(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := c.makeTable(ctx); err != nil {
		return nil, fmt.Errorf("make the writers' table: %w", err)
	}
	c.began = time.Now()
	for i := range cfg.Writers {
		c.wg.Go(func() { c.write(i) })
	}
	if err := c.waitAll(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Clients) makeTable(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, c.dial[0].Copy())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// No key: a row that is there twice must be seen.
	sql := fmt.Sprintf("drop table if exists %s; create table %[1]s (writer int not null, seq bigint not null)", c.table())
	if c.cfg.Pad > 0 {
		sql += fmt.Sprintf("; alter table %s add pad text; alter table %[1]s alter pad set storage external", c.table())
	}
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (c *Clients) table() string { return pgx.Identifier{c.cfg.Table}.Sanitize() }

// waitAll waits for the first commit of every writer.
func (c *Clients) waitAll(ctx context.Context) error {
	for {
		missing := c.silent()
		if missing == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			_, last := c.Failures()
			return fmt.Errorf("%d of %d writers have not committed: %w", missing, c.cfg.Writers, errors.Join(context.Cause(ctx), last))
		case <-time.After(retryPause):
		}
	}
}

func (c *Clients) silent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	heard := map[int]bool{}
	for _, a := range c.acks {
		heard[a.writer] = true
	}
	return c.cfg.Writers - len(heard)
}

// write is one writer's life.
func (c *Clients) write(id int) {
	var conn *pgx.Conn
	var server, order int
	var connected time.Time
	if c.cfg.Rove {
		order = id % 2
	}
	defer func() {
		if conn != nil {
			drop(conn)
		}
	}()
	insert := fmt.Sprintf("insert into %s values ($1, $2)", c.table())
	if c.cfg.Pad > 0 {
		insert = fmt.Sprintf("insert into %s values ($1, $2, repeat('x', %d))", c.table(), c.cfg.Pad)
	}
	for !c.pause(c.cfg.Think) {
		if conn != nil && order == 1 && time.Since(connected) > roveAfter {
			drop(conn)
			conn = nil
		}
		if conn == nil {
			connected = time.Now()
			if conn, server = c.connect(order); conn == nil {
				if c.pause(retryPause) {
					return
				}
				continue
			}
		}
		seq, began := c.try(id), time.Now() // a row with an unknown end is never tried again
		ctx, cancel := context.WithTimeout(context.Background(), Deadline)
		_, err := conn.Exec(ctx, insert, id, seq)
		cancel()
		if err != nil {
			c.fail(err)
			drop(conn)
			conn = nil
			continue
		}
		c.note(id, seq, server, began)
	}
}

// connect tries every host once, in order or reverse order; it is nil when none takes writes. With it comes
// the index of its server.
func (c *Clients) connect(order int) (*pgx.Conn, int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(len(c.cfg.Hosts))*Deadline)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.dial[order].Copy())
	if err != nil {
		c.fail(err)
		return nil, 0
	}
	// What a cut way did not deliver is discarded at the end of the connection;
	// else the kernel would deliver it later, and rows would come after Stop.
	if tcp, ok := conn.PgConn().Conn().(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	if !c.cfg.Trace {
		return conn, 0
	}
	server, err := ask(ctx, conn)
	if err != nil {
		c.fail(err)
		drop(conn)
		return nil, 0
	}
	return conn, c.meet(server)
}

// drop closes the socket. The driver's own way waits for the server, which may
// be frozen.
func drop(conn *pgx.Conn) {
	if !conn.IsClosed() {
		conn.PgConn().Conn().Close()
	}
}

// pause rests for d and tells whether the writers are to end.
func (c *Clients) pause(d time.Duration) (over bool) {
	if d == 0 {
		select {
		case <-c.stop:
			return true
		default:
			return false
		}
	}
	select {
	case <-c.stop:
		return true
	case <-time.After(d):
		return false
	}
}

// try remembers the next row of a writer, whatever becomes of it.
func (c *Clients) try(id int) (seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[id] = append(c.acked[id], false)
	return int64(len(c.acked[id]) - 1)
}

func (c *Clients) note(id int, seq int64, server int, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[id][seq] = true
	// The clock is read under the lock, so that acks are in order.
	c.acks = append(c.acks, ack{writer: id, server: server, began: began.Sub(c.began), at: time.Since(c.began)})
}

func (c *Clients) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails++
	c.last = err
}

// Stop ends the writers and waits for them; a statement under way ends within
// its deadline.
func (c *Clients) Stop() {
	c.once.Do(func() {
		close(c.stop)
		c.wg.Wait()
		c.mu.Lock()
		c.ended = time.Now()
		c.mu.Unlock()
	})
}

// Acked is how many commits were acknowledged so far.
func (c *Clients) Acked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acks)
}

// Unknown is how many rows were tried whose commit was not acknowledged so
// far. Each may be there or not.
func (c *Clients) Unknown() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	tried := 0
	for _, rows := range c.acked {
		tried += len(rows)
	}
	return tried - len(c.acks)
}

// Failures is how many inserts and connects failed so far, and the last error.
func (c *Clients) Failures() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fails, c.last
}
