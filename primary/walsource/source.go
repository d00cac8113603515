// Package walsource receives the WAL of the local primary PostgreSQL over its
// unix socket, as a physical streaming standby without a slot, and tells that
// PostgreSQL what the group has committed.
//
// The confirmed position is an acknowledgement to waiting clients: what Confirm
// sends as flushed releases every synchronous commit at or below it. The
// package therefore never invents a position; before the first Confirm it
// reports none.
package walsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

var (
	// ErrSystemID is returned by Open when the server belongs to another
	// database cluster than Config.SystemID. It is permanent.
	ErrSystemID = errors.New("server has another system identifier")
	// ErrTimeline is returned by Open when the server writes another timeline
	// than Config.Timeline. It is permanent for this epoch.
	ErrTimeline = errors.New("server is on another timeline")
	// ErrEnded is returned by Run when the server ended the COPY: it has
	// shut down and all its WAL was confirmed, or it left the timeline.
	ErrEnded = errors.New("server ended the stream")
	// ErrProtocol is returned by Run when the server sent something that no
	// walsender sends, a gap in the WAL included.
	ErrProtocol = errors.New("walsender broke the protocol")
)

// Config describes one stream.
type Config struct {
	// ConnString is a keyword/value or URL connection string for the local
	// server, over its unix socket; replication mode is set by Open.
	ConnString string
	// ApplicationName is what synchronous_standby_names must list.
	ApplicationName string
	// SystemID must be the server's system identifier.
	SystemID uint64
	// Timeline must be the timeline that the server writes.
	Timeline pos.Timeline
	// Start is the first byte wanted. It may not be beyond the server's
	// flush position, and everything below it counts as received.
	Start pos.LSN
	// Log receives one line per connection; nil discards.
	Log *slog.Logger
}

// Sink takes what the stream brings. Both methods run on the goroutine of Run,
// in WAL order; while they block, nothing more is received, but statuses to
// the server go on.
type Sink interface {
	// Data takes the bytes [at, at+len(p)). They follow the previous call
	// without a gap. p is valid only during the call. serverEnd is the
	// server's flush position, first seen by us at seen. An error ends Run.
	Data(at pos.LSN, p []byte, serverEnd pos.LSN, seen time.Time) error
	// ServerEnd takes the flush position that a keepalive carried.
	ServerEnd(l pos.LSN, seen time.Time)
}

// Source is one open replication stream. Run is called once, by one
// goroutine; all other methods are safe from any goroutine.
type Source struct {
	cfg      Config
	log      *slog.Logger
	conn     net.Conn
	received atomic.Uint64 // end of the WAL handed, or being handed, to the sink

	started atomic.Bool
	done    chan struct{} // closed when Run has returned
	result  error         // what Run returned; read after done
	closing sync.Once

	out status
}

// Open connects, checks the server's system identifier and timeline, and
// starts streaming at cfg.Start without a slot. The connection is bound to ctx
// only until Open returns.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	if cfg.Start == 0 || cfg.Timeline == 0 || cfg.SystemID == 0 || cfg.ApplicationName == "" {
		return nil, errors.New("open WAL source: system identifier, timeline, start and application name are required")
	}
	pg, err := connect(ctx, cfg, cfg.ApplicationName)
	if err != nil {
		return nil, err
	}
	conn, err := startStream(ctx, pg, cfg)
	if err != nil {
		abandon(pg)
		return nil, err
	}
	s := &Source{cfg: cfg, log: cfg.Log, conn: conn, done: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.received.Store(uint64(cfg.Start))
	if err := s.out.init(conn); err != nil {
		conn.Close()
		return nil, err
	}
	s.log.Info("wal source streaming", "application_name", cfg.ApplicationName, "timeline", cfg.Timeline, "start", cfg.Start)
	return s, nil
}

// connect opens a physical replication connection whose socket is a gate.
func connect(ctx context.Context, cfg Config, name string) (*pgconn.PgConn, error) {
	c, err := pgconn.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	c.RuntimeParams["replication"] = "true"
	c.RuntimeParams["application_name"] = name
	// The stream owns the bare socket after the start, so there is no place
	// for TLS; a unix socket has none anyway.
	c.TLSConfig, c.Fallbacks = nil, nil
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &gate{Conn: raw}, nil
	}
	pg, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connect for replication: %w", err)
	}
	return pg, nil
}

// startStream checks identity and begins the COPY; the returned connection's
// next byte is the first of the stream.
func startStream(ctx context.Context, pg *pgconn.PgConn, cfg Config) (net.Conn, error) {
	id, err := pglogrepl.IdentifySystem(ctx, pg)
	if err != nil {
		return nil, fmt.Errorf("identify system: %w", err)
	}
	sysID, err := strconv.ParseUint(id.SystemID, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("identify system: %w", err)
	}
	if sysID != cfg.SystemID {
		return nil, fmt.Errorf("%w: it is %d, this group's is %d", ErrSystemID, sysID, cfg.SystemID)
	}
	if pos.Timeline(id.Timeline) != cfg.Timeline {
		return nil, fmt.Errorf("%w: it writes %d, the epoch's is %d", ErrTimeline, id.Timeline, cfg.Timeline)
	}
	if flushed := pos.LSN(id.XLogPos); cfg.Start > flushed {
		// PostgreSQL would say so only after it has begun the COPY.
		return nil, fmt.Errorf("start replication at %s: it is ahead of the server's WAL, which ends at %s", cfg.Start, flushed)
	}
	if err := startReplication(ctx, pg, cfg); err != nil {
		return nil, fmt.Errorf("start replication at %s on timeline %d: %w", cfg.Start, cfg.Timeline, err)
	}
	hc, err := pg.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	g, ok := hc.Conn.(*gate)
	if !ok {
		hc.Conn.Close()
		return nil, errors.New("take over connection: not the socket that was dialed")
	}
	if err := g.Conn.SetDeadline(time.Time{}); err != nil {
		g.Conn.Close()
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	return g.Conn, nil
}

// startReplication sends the command itself: pglogrepl.StartReplication always
// writes the word SLOT, which is a syntax error without a slot's name.
func startReplication(ctx context.Context, pg *pgconn.PgConn, cfg Config) error {
	pg.Frontend().SendQuery(&pgproto3.Query{
		String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", cfg.Start, cfg.Timeline),
	})
	if err := pg.Frontend().Flush(); err != nil {
		return err
	}
	for {
		msg, err := pg.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.RowDescription, *pgproto3.DataRow, *pgproto3.CommandComplete:
			// The timeline is historic and ends at the start: there is nothing to stream.
			return fmt.Errorf("%w: it has left timeline %d", ErrTimeline, cfg.Timeline)
		default:
			return fmt.Errorf("%w: %T instead of the start of the stream", ErrProtocol, msg)
		}
	}
}

func abandon(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	pg.Close(ctx)
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,63}$`)

// Show asks the server for a setting over a replication connection of its
// own, so that it works in a server that admits replication only.
func (s *Source) Show(ctx context.Context, setting string) (string, error) {
	if !settingName.MatchString(setting) {
		return "", fmt.Errorf("show %q: not a setting's name", setting)
	}
	pg, err := connect(ctx, s.cfg, "understudy_show")
	if err != nil {
		return "", fmt.Errorf("show %s: %w", setting, err)
	}
	defer abandon(pg)
	res, err := pg.Exec(ctx, "SHOW "+setting).ReadAll()
	if err != nil {
		return "", fmt.Errorf("show %s: %w", setting, err)
	}
	if len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) != 1 {
		return "", fmt.Errorf("show %s: %w: no single value", setting, ErrProtocol)
	}
	return string(res[0].Rows[0][0]), nil
}

// Received is the end of what was handed to the sink, the call in progress
// included; Config.Start before the first byte.
func (s *Source) Received() pos.LSN { return pos.LSN(s.received.Load()) }

// Wait blocks until Run has returned and gives its error: ErrEnded after an
// orderly end. A server in fast shutdown ends the stream only once its
// shutdown checkpoint is confirmed, so Run and Confirm must go on meanwhile;
// the caller's deadline is in ctx.
func (s *Source) Wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.result
	case <-ctx.Done():
		return fmt.Errorf("wait for the stream's end: %w", context.Cause(ctx))
	}
}

// Close tells the server goodbye, closes the connection and waits for Run to
// return. Unconfirmed commits stay waiting in the server.
func (s *Source) Close(ctx context.Context) error {
	var err error
	s.closing.Do(func() {
		s.out.goodbye()
		err = s.conn.Close()
	})
	if s.started.Load() {
		select {
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("close WAL source: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		return fmt.Errorf("close WAL source: %w", err)
	}
	return nil
}

// rawConn is the descriptor of a connection that can be written without
// blocking.
func rawConn(c net.Conn) (syscall.RawConn, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("take over connection: %T has no descriptor", c)
	}
	return sc.SyscallConn()
}
