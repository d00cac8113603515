// Package basestream reads one BASE_BACKUP from a PostgreSQL server, in the
// grammar of the server's version: a plan, then one tar archive after the
// other, then the server's manifest.
package basestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

// ErrServer is returned when PostgreSQL failed, as opposed to whoever takes
// the data.
var ErrServer = errors.New("read the base backup from PostgreSQL")

// Limits of BASE_BACKUP's MAX_RATE, in kB/s.
const (
	MinRate = 32
	MaxRate = 1 << 20
)

// maxLabel is the longest backup label, in bytes.
const maxLabel = 200

// Config says which server is copied and how.
type Config struct {
	// ConnString leads to the server, as a role with REPLICATION. The
	// replication parameter is added here.
	ConnString string
	// Application is the name that the server shows for the connection, unless
	// ConnString has one.
	Application string
	// Label goes into backup_label.
	Label string
	// RateKB bounds the copy in kB/s, MinRate to MaxRate; zero is no bound.
	RateKB int
	// Unverified leaves the page checksums to the reader.
	Unverified bool
	// Incremental asks for what changed since the backup whose manifest Upload
	// sends before Start. Servers before version 17 cannot.
	Incremental bool
}

// Validate checks the values that do not need a server.
func (c Config) Validate() error {
	if c.ConnString == "" {
		return errors.New("the connection string of the local PostgreSQL is empty")
	}
	if c.RateKB != 0 && (c.RateKB < MinRate || c.RateKB > MaxRate) {
		return fmt.Errorf("a copy rate of %d kB/s is outside %d to %d", c.RateKB, MinRate, MaxRate)
	}
	if strings.ContainsAny(c.Label, "\x00\n") || len(c.Label) > maxLabel {
		return fmt.Errorf("the backup label %q is longer than %d bytes or has a line break", c.Label, maxLabel)
	}
	return nil
}

// Plan is what the server says before the data.
type Plan struct {
	Start    pos.LSN // redo: recovery needs the log from here on
	Timeline pos.Timeline
	Estimate uint64 // PostgreSQL's guess of the bytes, made before the copy
	Spaces   []Space
}

// Space is a tablespace that is copied.
type Space struct {
	OID      uint32
	Location string // as the server names it
	InPlace  bool   // a plain directory below pg_tblspc
}

// Stream is a replication connection and, after Start, the backup that runs on
// it. It is for one goroutine, except Abort.
type Stream struct {
	// SystemID and Major name the database and its version.
	SystemID uint64
	Major    int

	cfg  Config
	conn *pgconn.PgConn
	wire *wire

	modern    bool   // one COPY for all parts, since version 15
	old       []Part // parts still to come, before version 15
	opened    bool
	announced *Part // announced by the message that ended the last part
	left      int   // unread bytes of the current message
	over      bool  // the current part has no more data
	ended     bool  // the whole stream has
}

// Open connects and asks who the server is.
func Open(ctx context.Context, cfg Config) (*Stream, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	pc, err := pgconn.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	pc.RuntimeParams["replication"] = "true"
	if pc.RuntimeParams["application_name"] == "" {
		pc.RuntimeParams["application_name"] = cfg.Application
	}
	if pc.ConnectTimeout == 0 {
		pc.ConnectTimeout = 10 * time.Second
	}
	s := &Stream{cfg: cfg, over: true}
	pc.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s.wire = newWire(r)
		return pgproto3.NewFrontend(s.wire, w)
	}
	if s.conn, err = pgconn.ConnectConfig(ctx, pc); err != nil {
		return nil, err
	}
	if err := s.identify(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) identify(ctx context.Context) error {
	res, err := s.conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return fmt.Errorf("identify the system: %w", err)
	}
	if len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) < 3 {
		return errors.New("identify the system: no row")
	}
	if s.SystemID, err = strconv.ParseUint(string(res[0].Rows[0][0]), 10, 64); err != nil {
		return fmt.Errorf("identify the system: %w", err)
	}
	version := s.conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	if s.Major, err = strconv.Atoi(version[:digits]); err != nil || s.Major < 14 {
		return fmt.Errorf("server version %q is older than 14 or unreadable", version)
	}
	s.modern = s.Major >= 15
	return nil
}

// Abort cuts the connection under a reader; the server ends the backup. It may
// be called from any goroutine.
func (s *Stream) Abort() { s.conn.Conn().SetDeadline(time.Unix(1, 0)) }

// Close ends the connection, and the backup when it still runs.
func (s *Stream) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.conn.Close(ctx)
}

// command is BASE_BACKUP in the grammar of the server's version. The server
// neither waits for its archive nor sends WAL: that comes on the road of every
// other byte of WAL. Without TABLESPACE_MAP the links to tablespaces are in
// the archive of the data directory as links.
func (s *Stream) command() string {
	label := "'" + strings.ReplaceAll(s.cfg.Label, "'", "''") + "'"
	rate := strconv.Itoa(s.cfg.RateKB)
	if !s.modern {
		q := "BASE_BACKUP LABEL " + label + " PROGRESS FAST NOWAIT"
		if s.cfg.RateKB > 0 {
			q += " MAX_RATE " + rate
		}
		if s.cfg.Unverified {
			q += " NOVERIFY_CHECKSUMS"
		}
		return q + " MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
	}
	q := "BASE_BACKUP (LABEL " + label + ", PROGRESS true, CHECKPOINT 'fast', WAIT false, WAL false"
	if s.cfg.RateKB > 0 {
		q += ", MAX_RATE " + rate
	}
	if s.cfg.Unverified {
		q += ", VERIFY_CHECKSUMS false"
	}
	if s.cfg.Incremental {
		q += ", INCREMENTAL"
	}
	return q + ", MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
}

// Start begins the backup and reads the two tables that stand before the data.
func (s *Stream) Start() (Plan, error) {
	var p Plan
	s.conn.Frontend().SendQuery(&pgproto3.Query{String: s.command()})
	if err := s.conn.Frontend().Flush(); err != nil {
		return p, fmt.Errorf("%w: %w", ErrServer, err)
	}
	rows, err := s.table()
	if err != nil {
		return p, err
	}
	if p.Start, p.Timeline, err = position(rows); err != nil {
		return p, err
	}
	if rows, err = s.table(); err != nil {
		return p, err
	}
	for _, r := range rows {
		if err := p.add(r); err != nil {
			return p, err
		}
	}
	for _, t := range p.Spaces {
		s.old = append(s.old, Part{OID: t.OID})
	}
	s.old = append(s.old, Part{}, Part{Manifest: true})
	return p, nil
}

// add reads one row of the list of tablespaces; the data directory is the one
// without an id.
func (p *Plan) add(row [][]byte) error {
	if len(row) < 3 {
		return fmt.Errorf("%w: the tablespace list has %d columns", ErrServer, len(row))
	}
	kb, err := strconv.ParseUint(string(row[2]), 10, 53)
	if err != nil {
		return fmt.Errorf("%w: size of a tablespace: %w", ErrServer, err)
	}
	p.Estimate += kb << 10
	if len(row[0]) == 0 {
		return nil
	}
	oid, err := strconv.ParseUint(string(row[0]), 10, 32)
	if err != nil {
		return fmt.Errorf("%w: id of a tablespace: %w", ErrServer, err)
	}
	at := string(row[1])
	p.Spaces = append(p.Spaces, Space{OID: uint32(oid), Location: at, InPlace: !filepath.IsAbs(at)})
	return nil
}

// Finish reads the table after the data and the end of the command. The
// recovery of the copy must reach the LSN to be consistent.
func (s *Stream) Finish() (pos.LSN, pos.Timeline, error) {
	rows, err := s.table()
	if err != nil {
		return 0, 0, err
	}
	lsn, tli, err := position(rows)
	if err != nil {
		return 0, 0, err
	}
	for {
		msg, err := s.receive()
		if err != nil {
			return 0, 0, err
		}
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return lsn, tli, nil
		}
	}
}

func position(rows [][][]byte) (pos.LSN, pos.Timeline, error) {
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, 0, fmt.Errorf("%w: no position", ErrServer)
	}
	lsn, err := pos.ParseLSN(string(rows[0][0]))
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrServer, err)
	}
	tli, err := strconv.ParseUint(string(rows[0][1]), 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: timeline: %w", ErrServer, err)
	}
	return lsn, pos.Timeline(tli), nil
}
