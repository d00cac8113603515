// Package walserver is the server side of PostgreSQL's streaming replication
// protocol, for one client: the walreceiver of the local standby. It feeds the
// node's durable log over a private unix socket and takes the standby's
// reports. See DESIGN.md.
package walserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/localsock"
	"understudy/shipper/pos"
)

// Log is the WAL to feed: contiguous bytes [Base, End). All methods are safe
// for use while the log grows, is trimmed at its base, or is cut at its end.
type Log interface {
	// ReadWAL copies bytes from at on into p and returns how many; fewer than
	// len(p) only where the log ends or for convenience. Zero without an
	// error does not happen below End.
	ReadWAL(p []byte, at pos.LSN) (int, error)
	// Wait returns the end of the log once that is beyond past; an error only
	// when ctx ends or the log is closed.
	Wait(ctx context.Context, past pos.LSN) (pos.LSN, error)
	// Base is the first byte the log still has.
	Base() pos.LSN
	// End is the byte after the last one that may be read.
	End() pos.LSN
}

// State is what the node currently serves.
type State struct {
	// SystemID is the database cluster's identifier.
	SystemID uint64
	// Lineage describes the bytes of the log. Its newest timeline is the only
	// one that IDENTIFY_SYSTEM names.
	Lineage pos.Lineage
	// ServerVersion is given to clients as server_version, such as "15.18".
	ServerVersion string
	// SegSize is the WAL segment size in bytes.
	SegSize int64
	// Limit is the byte at which feeding stops for now; 0 feeds all there is.
	Limit pos.LSN
	// Held keeps connections open, with keepalives, but without data: the
	// node is fenced.
	Held bool
	// Refuse, when set, is the reason why no session is served at all.
	Refuse string
}

// Feedback is one report of the standby.
type Feedback struct {
	Session  uint64       // number of the streaming session, growing
	Timeline pos.Timeline // that the session streams
	// Flushed, Written and Applied are the standby's words.
	Flushed, Written, Applied pos.LSN
	// Sent is the end of what this session has sent.
	Sent pos.LSN
	// Entry is the newest lineage entry that the session was checked
	// against. Who counts a flush compares it, under the lock that orders it
	// with the adoption of lineage, with the entry in force.
	Entry pos.Entry
	// Counted is how far the standby's flush may count as an
	// acknowledgement: min(Flushed, Sent) once this session has seen the
	// standby flush something new, else 0, because the first report is only
	// the standby's replay position. 0 while held, and while the session has
	// not yet been checked against a changed lineage.
	Counted pos.LSN
	// Xmin and CatalogXmin are full transaction ids, zero for none; they are
	// meaningful when HasFeedback is true.
	Xmin, CatalogXmin uint64
	// HasFeedback tells that hot standby feedback came in this session.
	HasFeedback bool
	At          time.Time // when the report arrived
}

// Config wires a server. All functions are called from several goroutines.
type Config struct {
	// Socket is the full path, DIR/.s.PGSQL.PORT, at most 107 bytes.
	Socket string
	// AllowUIDs are the accounts that may connect; empty means only that of
	// this process.
	AllowUIDs []uint32
	// WAL is the log to feed.
	WAL Log
	// State returns what to serve, and a channel that is closed when it
	// changes. It must be closed before the log is cut or holds bytes of
	// another lineage: bytes read before the close are sent as the old
	// lineage's.
	State func() (State, <-chan struct{})
	// History returns the contents of N.history; empty and true for ids that
	// were burned, false when the timeline may not be known to the standby.
	History func(pos.Timeline) ([]byte, bool)
	// OnFeedback takes each report on the goroutine that read it; it may be
	// nil and should be quick.
	OnFeedback func(Feedback)
	// OnSession tells that a streaming session began at, or ended having sent
	// up to, the position; it may be nil. Calls for different sessions do not
	// overlap.
	OnSession func(connected bool, at pos.LSN)
	// Proxy takes over connections that want a database, as slot
	// synchronization does; the startup message is consumed, c is closed
	// after it returned. It ends with ctx, and tells the client of failures
	// itself. nil refuses such connections with a clear error.
	Proxy func(ctx context.Context, startup *pgproto3.StartupMessage, c net.Conn) error
	// Logger receives connection events; nil discards.
	Logger *slog.Logger
}

const (
	maxConns    = 8
	maxTurned   = 4
	startupTime = 10 * time.Second
	clientQuiet = 60 * time.Second // a streaming client silent this long is dead
	writeGrace  = 200 * time.Millisecond
)

type server struct {
	cfg    Config
	log    *slog.Logger
	slots  chan struct{} // one token per connection
	turned chan struct{} // one token per client that is told why it may not connect

	stream  sync.Mutex // protects current and session
	current *session   // the one streaming session
	session uint64
}

// Serve listens on cfg.Socket until ctx ends, then closes all connections and
// returns nil after the last one is done. A socket file that nobody listens on
// is removed first.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.WAL == nil || cfg.State == nil || cfg.History == nil {
		return errors.New("serve WAL: log, state and history are required")
	}
	s := &server{cfg: cfg, log: cfg.Logger, slots: make(chan struct{}, maxConns), turned: make(chan struct{}, maxTurned)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	l, err := localsock.Listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("serve WAL: %w", err)
	}
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// On the derived context, so that its end is visible when accept fails.
	unhook := context.AfterFunc(ctx, func() { l.Close() })
	defer unhook()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve WAL: %w", err)
		}
		if no := s.admitConn(c); no != nil {
			s.turnAway(ctx, &conns, c, no)
			continue
		}
		conns.Go(func() {
			defer func() { <-s.slots }()
			s.serveConn(ctx, c)
		})
	}
}

// admitConn takes a place for the connection, or tells why it gets none.
// Strangers take no place from the walreceiver.
func (s *server) admitConn(c *net.UnixConn) error {
	uid, err := localsock.PeerUID(c)
	if err != nil {
		return fmt.Errorf("read peer credentials: %w", err)
	}
	if !localsock.Allowed(s.cfg.AllowUIDs, uid) {
		return refuse("28000", fmt.Sprintf("account %d may not connect to the replication socket", uid), "")
	}
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
		return refuse("53300", fmt.Sprintf("more than %d replication connections", maxConns), "")
	}
}

// turnAway tells the client why, unless too many are being told already. The
// startup message is read first: clients do not listen before it is out.
func (s *server) turnAway(ctx context.Context, conns *sync.WaitGroup, nc *net.UnixConn, why error) {
	s.log.Warn("replication connection refused", "error", why)
	select {
	case s.turned <- struct{}{}:
	default:
		nc.Close()
		return
	}
	conns.Go(func() {
		defer func() { <-s.turned }()
		defer nc.Close()
		nc.SetReadDeadline(time.Now().Add(writeGrace))
		c := &conn{s: s, net: nc}
		var no *refusal
		if _, err := c.startup(); err == nil && ctx.Err() == nil && errors.As(why, &no) {
			c.lastWords(no.msg)
		}
	})
}
