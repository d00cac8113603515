package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Conn is one connection to the server. An error of the server is, or wraps, a
// *pgconn.PgError.
type Conn interface {
	// Exec runs one statement; it returns when ctx ends, and the connection is
	// of no more use then.
	Exec(ctx context.Context, sql string) error
	// Close returns soon, whatever the server does.
	Close()
}

// Connect makes a connection, until ctx ends.
type Connect func(ctx context.Context) (Conn, error)

// Dial is Connect for the server of a connection string, as a superuser: it is
// let in when all ordinary connections are in use, and its sessions stay out of
// the server's log of statements.
func Dial(dsn string) Connect {
	return func(ctx context.Context) (Conn, error) {
		cfg, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("connect a probe: %w", err)
		}
		// One attempt for as long as it takes: a hung server would collect
		// those that were given up.
		cfg.ConnectTimeout = 0
		for k, v := range map[string]string{
			"application_name": "understudy-probe", "synchronous_commit": "local", "default_transaction_read_only": "off",
			"statement_timeout": "60s", "lock_timeout": "60s", "idle_session_timeout": "0", "commit_delay": "0",
			"log_statement": "none", "log_duration": "off", "log_min_duration_statement": "-1", "log_min_duration_sample": "-1",
		} {
			cfg.RuntimeParams[k] = v
		}
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("connect a probe: %w", err)
		}
		return pgxConn{conn}, nil
	}
}

type pgxConn struct{ c *pgx.Conn }

func (p pgxConn) Exec(ctx context.Context, sql string) error {
	_, err := p.c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// Close waits a moment only. After a statement that was given up, pgx lets a
// goroutine of its own end the connection, within 15 s.
func (p pgxConn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	p.c.Close(ctx)
}

// statement is what a round runs. A primary that is still being promoted would
// call the writing one an error of its own.
func statement(m Mode) string {
	if m == Primary {
		return writing
	}
	return "select 1"
}

// writing puts a few bytes of log out and waits until they are durable here. It
// is no transaction of the database: it takes no id, waits for no other node,
// and is in nobody's list of commits. The COMMIT is what makes the server flush.
const writing = `do $$
declare at pg_lsn;
begin
	if pg_is_in_recovery() then return; end if;
	at := pg_logical_emit_message(false, 'understudy', 'probe');
	commit;
	while pg_current_wal_flush_lsn() < at loop
		perform pg_sleep(0.02);
	end loop;
end $$`

// Server probes one PostgreSQL over one connection that it keeps, so that it
// can ask when no other is to be had. One goroutine at a time may call Probe
// and Close; Hung may be called by any.
type Server struct {
	connect Connect
	conn    Conn
	now     func() time.Duration

	mu      sync.Mutex
	waiting bool          // no answer since
	since   time.Duration // then
}

// NewServer makes a Server that is not connected yet.
func NewServer(connect Connect) *Server {
	return &Server{connect: connect, now: machineTime}
}

// Probe is one round: on a primary a few bytes of log become durable, on a
// replica it asks. It returns when the server
// has answered or ctx has ended, so there is never more than one question. A
// connection that was lost is replaced at once.
func (s *Server) Probe(ctx context.Context, m Mode) []Finding {
	s.begin()
	kept := s.conn != nil
	err := s.ask(ctx, m)
	if err != nil && ctx.Err() == nil && kept && lost(err) {
		err = s.ask(ctx, m)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		s.Forget()
		return nil
	}
	v, findings := classify(err)
	if v != silent {
		s.Forget()
	}
	return findings
}

func (s *Server) ask(ctx context.Context, m Mode) error {
	if s.conn == nil {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	err := s.conn.Exec(ctx, statement(m))
	if err != nil && lost(err) {
		s.drop()
	}
	return err
}

func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting {
		s.waiting, s.since = true, s.now()
	}
}

// Forget ends the count of the time without an answer.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
}

// Hung tells how long the server has not answered; nothing while that is less
// than a second.
func (s *Server) Hung() []Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting || s.now()-s.since < tellAfter {
		return nil
	}
	return []Finding{{Kind: ServerHung, Text: "PostgreSQL does not answer, or cannot write its log", For: s.now() - s.since}}
}

// Close ends the connection; the next Probe makes another.
func (s *Server) Close() {
	s.drop()
	s.Forget()
}

func (s *Server) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// verdict is what the outcome of a question says.
type verdict int

const (
	answered verdict = iota + 1
	between          // it starts or ends
	full             // no connection to be had
	sick             // it says itself that it cannot go on
	odd              // it answers, and does not do what was asked
	silent           // no word of the server
)

// classify reads the outcome of a question. Only errors of storage and of the
// server's own consistency make it sick: a full lock table, a missing database
// or a refused login are for people, and another node would have them too.
func classify(err error) (verdict, []Finding) {
	if err == nil {
		return answered, nil
	}
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return silent, nil
	}
	text := pe.Message
	if pe.Detail != "" {
		text += " (" + pe.Detail + ")"
	}
	switch code := pe.Code; {
	case code == "57P01" || code == "57P02" || code == "57P03":
		return between, nil
	case code == "57014" || code == "57P05" || code == "55P03":
		return silent, nil // only our own limits speak
	case code == "53300":
		return full, []Finding{{Kind: Connections, Text: "all connections of PostgreSQL are in use, the reserved ones too: it cannot be probed"}}
	case code == "53100" || strings.HasPrefix(code, "58") || strings.HasPrefix(code, "XX"):
		return sick, []Finding{{Kind: ServerError, Text: "PostgreSQL reports an error: " + text}}
	}
	return odd, []Finding{{Kind: ServerOdd, Text: "PostgreSQL refuses to be probed: " + text}}
}

// lost tells that the connection is of no more use. An error of a statement
// leaves it as it was.
func lost(err error) bool {
	var pe *pgconn.PgError
	return !errors.As(err, &pe) || pe.Severity == "FATAL" || pe.Severity == "PANIC"
}
