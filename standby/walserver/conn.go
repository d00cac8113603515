package walserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/standby/walserver/internal/replcmd"
)

const (
	maxStartup = 10_000
	// maxMessage bounds what a client may send at once: a command, or one
	// report.
	maxMessage = replcmd.MaxLen + 64
)

// errDone ends a connection in good order.
var errDone = errors.New("connection is done")

// conn is one client. One goroutine owns it; during a stream the session's
// other goroutines write, under its lock.
type conn struct {
	s   *server
	net *net.UnixConn
	in  *bufio.Reader
	buf []byte // body of the last message
	out []byte // scratch for answers
	// torn is set by a failed write; it is used by whoever may write now.
	torn bool
}

func (s *server) serveConn(ctx context.Context, nc *net.UnixConn) {
	defer nc.Close()
	c := &conn{s: s, net: nc}
	// Reads end when the server does; the writer of the last words sets its
	// own deadline.
	unhook := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	defer unhook()
	err := c.run(ctx)
	switch {
	case ctx.Err() != nil:
		c.lastWords(fatal("57P01", "terminating connection because the replication server stops", ""))
	case err == nil, errors.Is(err, errDone), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	default:
		var refusal *refusal
		if errors.As(err, &refusal) {
			c.lastWords(refusal.msg)
		}
		s.log.Warn("replication connection closed", "error", err)
	}
}

func (c *conn) run(ctx context.Context) error {
	c.net.SetReadDeadline(time.Now().Add(startupTime))
	m, err := c.startup()
	if err != nil {
		return err
	}
	if !physical(m) {
		if c.s.cfg.Proxy == nil {
			return refuse("0A000", "this socket serves physical replication only", "Connections to a database are not passed on to the primary here.")
		}
		c.net.SetReadDeadline(time.Time{})
		c.torn = true // only the proxy knows where in a message the client is
		return c.s.cfg.Proxy(ctx, m, c.net)
	}
	st, _ := c.s.cfg.State()
	if st.Refuse != "" {
		return refuse("57P03", st.Refuse, "")
	}
	c.net.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.in = bufio.NewReaderSize(c.net, 16<<10)
	if err := c.welcome(m, st); err != nil {
		return err
	}
	return c.commands(ctx)
}

// physical tells whether the client wants physical replication. The database
// is ignored then, as PostgreSQL does: walreceivers name "replication".
func physical(m *pgproto3.StartupMessage) bool {
	switch strings.ToLower(m.Parameters["replication"]) {
	case "true", "on", "yes", "1", "t", "y":
		return true
	}
	return false
}

// startup reads up to the startup message, unbuffered, so that a proxy finds
// every later byte in the socket.
func (c *conn) startup() (*pgproto3.StartupMessage, error) {
	const cancel, ssl, gss = 80877102, 80877103, 80877104
	for range 3 {
		var head [8]byte
		if _, err := io.ReadFull(c.net, head[:]); err != nil {
			return nil, fmt.Errorf("read startup: %w", err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < 8 || size > maxStartup {
			return nil, fmt.Errorf("read startup: packet of %d bytes", size)
		}
		body := make([]byte, size-4)
		copy(body, head[4:])
		if _, err := io.ReadFull(c.net, body[4:]); err != nil {
			return nil, fmt.Errorf("read startup: %w", err)
		}
		switch code := binary.BigEndian.Uint32(body); {
		case code == cancel:
			return nil, errDone
		case code == ssl || code == gss:
			if _, err := c.net.Write([]byte{'N'}); err != nil {
				return nil, fmt.Errorf("answer encryption request: %w", err)
			}
		case code>>16 != 3:
			return nil, refuse("0A000", fmt.Sprintf("unsupported frontend protocol %d.%d", code>>16, code&0xffff), "")
		default:
			minor := code & 0xffff
			binary.BigEndian.PutUint32(body, pgproto3.ProtocolVersion30)
			m := new(pgproto3.StartupMessage)
			if err := m.Decode(body); err != nil {
				return nil, refuse("08P01", "invalid startup packet", err.Error())
			}
			m.ProtocolVersion = 3<<16 | minor
			return m, nil
		}
	}
	return nil, errors.New("read startup: too many encryption requests")
}

// welcome answers the startup message.
func (c *conn) welcome(m *pgproto3.StartupMessage, st State) error {
	var unknown []string
	for k := range m.Parameters {
		if strings.HasPrefix(k, "_pq_.") {
			unknown = append(unknown, k)
		}
	}
	if m.ProtocolVersion&0xffff > 0 || len(unknown) > 0 {
		// The newest version as a whole, as PostgreSQL sends it.
		c.put(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: pgproto3.ProtocolVersion30, UnrecognizedOptions: unknown})
	}
	c.put(&pgproto3.AuthenticationOk{})
	encoding := m.Parameters["client_encoding"]
	if encoding == "" {
		encoding = "SQL_ASCII"
	}
	for _, kv := range [][2]string{
		{"server_version", st.ServerVersion}, {"server_encoding", "SQL_ASCII"}, {"client_encoding", encoding},
		{"application_name", m.Parameters["application_name"]}, {"DateStyle", "ISO, MDY"}, {"TimeZone", "UTC"},
		{"integer_datetimes", "on"}, {"standard_conforming_strings", "on"},
	} {
		c.put(&pgproto3.ParameterStatus{Name: kv[0], Value: kv[1]})
	}
	c.put(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: make([]byte, 4)})
	return c.ready()
}

// commands serves the idle connection until it ends.
func (c *conn) commands(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err() // a stream's end may have overwritten the read deadline
		}
		kind, body, err := c.read()
		if err != nil {
			return fmt.Errorf("read command: %w", err)
		}
		switch kind {
		case 'X':
			return errDone
		case 'Q':
		case 'c', 'd', 'f':
			continue // late words of a stream that has ended
		default:
			return refuse("08P01", "only simple queries are served on a replication connection", "")
		}
		if n := len(body); n == 0 || body[n-1] != 0 {
			return refuse("08P01", "invalid query message", "")
		}
		if err := c.command(ctx, string(body[:len(body)-1])); err != nil {
			return err
		}
	}
}

func (c *conn) command(ctx context.Context, text string) error {
	st, _ := c.s.cfg.State()
	if st.Refuse != "" {
		return refuse("57P03", st.Refuse, "")
	}
	cmd, err := replcmd.Parse(text)
	switch {
	case errors.Is(err, replcmd.ErrUnsupported):
		return c.reject("0A000", err.Error(), "")
	case err != nil:
		return c.reject("42601", err.Error(), "")
	}
	switch cmd.Kind {
	case replcmd.Empty:
		c.put(&pgproto3.EmptyQueryResponse{})
		return c.ready()
	case replcmd.IdentifySystem:
		return c.identify(st)
	case replcmd.Show:
		return c.show(st, cmd.Name)
	case replcmd.TimelineHistory:
		return c.history(cmd)
	}
	return c.startReplication(ctx, cmd, st)
}

// identify names only the newest recorded timeline, so that a follower never
// asks for one that the group has not agreed on.
func (c *conn) identify(st State) error {
	newest := st.Lineage.Last()
	if newest.Timeline == 0 {
		return c.reject("57P03", "the node does not yet know the group's timeline", "")
	}
	end := c.s.cfg.WAL.End()
	if st.Limit != 0 {
		end = min(end, st.Limit)
	}
	c.row([]column{{"systemid", oidText}, {"timeline", oidInt4}, {"xlogpos", oidText}, {"dbname", oidText}},
		[]byte(strconv.FormatUint(st.SystemID, 10)), strconv.AppendUint(nil, uint64(newest.Timeline), 10), []byte(end.String()), nil)
	c.put(&pgproto3.CommandComplete{CommandTag: []byte("IDENTIFY_SYSTEM")})
	return c.ready()
}

func (c *conn) show(st State, name string) error {
	var v string
	switch name {
	case "data_directory_mode":
		v = "0700"
	case "wal_segment_size":
		v = fmt.Sprintf("%dMB", st.SegSize>>20)
		if st.SegSize == 1<<30 {
			v = "1GB"
		}
	case "server_version":
		v = st.ServerVersion
	default:
		return c.reject("42704", fmt.Sprintf("unrecognized configuration parameter %q", name), "")
	}
	c.row([]column{{name, oidText}}, []byte(v))
	c.put(&pgproto3.CommandComplete{CommandTag: []byte("SHOW")})
	return c.ready()
}

func (c *conn) history(cmd replcmd.Command) error {
	b, ok := c.s.cfg.History(cmd.Timeline)
	if !ok {
		return c.reject("58P01", fmt.Sprintf("could not open file \"pg_wal/%08X.history\": No such file or directory", uint32(cmd.Timeline)), "")
	}
	if b == nil {
		b = []byte{} // a burned id: an empty file, not a null
	}
	c.row([]column{{"filename", oidText}, {"content", oidBytea}}, fmt.Appendf(nil, "%08X.history", uint32(cmd.Timeline)), b)
	c.put(&pgproto3.CommandComplete{CommandTag: []byte("TIMELINE_HISTORY")})
	return c.ready()
}
