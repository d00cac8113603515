package basebackup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

// errSource marks a failure of the local PostgreSQL, as opposed to the peer's.
var errSource = errors.New("read the base backup from PostgreSQL")

// readBuffer is the size of the buffer between PostgreSQL and the copy.
const readBuffer = 256 << 10

// identity names a database.
type identity struct {
	SystemID uint64
	Major    int
}

// source is a replication connection and, after start, the backup that runs on
// it. It is for one goroutine, except abort.
type source struct {
	conn *pgconn.PgConn
	id   identity
}

// open connects and asks who the server is.
func open(ctx context.Context, cfg Config) (*source, error) {
	pc, err := pgconn.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	pc.RuntimeParams["replication"] = "true"
	if pc.RuntimeParams["application_name"] == "" {
		pc.RuntimeParams["application_name"] = "understudy seed"
	}
	if pc.ConnectTimeout == 0 {
		pc.ConnectTimeout = 10 * time.Second
	}
	// The driver reads in 8 KiB pieces by default; messages have 32 KiB.
	pc.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	s := &source{conn: conn}
	if err := s.identify(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *source) identify(ctx context.Context) error {
	res, err := s.conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return fmt.Errorf("identify the system: %w", err)
	}
	if len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) < 3 {
		return errors.New("identify the system: no row")
	}
	if s.id.SystemID, err = strconv.ParseUint(string(res[0].Rows[0][0]), 10, 64); err != nil {
		return fmt.Errorf("identify the system: %w", err)
	}
	version := s.conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	if s.id.Major, err = strconv.Atoi(version[:digits]); err != nil || s.id.Major < 14 {
		return fmt.Errorf("server version %q is older than 14 or unreadable", version)
	}
	return nil
}

// abort cuts the connection under a reader; the server ends the backup.
func (s *source) abort() { s.conn.Conn().SetDeadline(time.Unix(1, 0)) }

func (s *source) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.conn.Close(ctx)
}

// command is BASE_BACKUP in the grammar of the server's version. The server
// neither waits for its archive nor sends WAL: that comes on the road of every
// other byte of WAL.
func (s *source) command(cfg Config) string {
	label := "'" + strings.ReplaceAll(cfg.Label, "'", "''") + "'"
	if s.id.Major < 15 {
		q := "BASE_BACKUP LABEL " + label + " PROGRESS FAST NOWAIT"
		if cfg.MaxRate > 0 {
			q += " MAX_RATE " + strconv.Itoa(cfg.MaxRate)
		}
		return q + " MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
	}
	q := "BASE_BACKUP (LABEL " + label + ", PROGRESS true, CHECKPOINT 'fast', WAIT false, WAL false"
	if cfg.MaxRate > 0 {
		q += ", MAX_RATE " + strconv.Itoa(cfg.MaxRate)
	}
	return q + ", MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
}

// start begins the backup and reads the two tables that stand before the data.
func (s *source) start(cfg Config) (Plan, error) {
	p := Plan{SystemID: s.id.SystemID, Major: s.id.Major}
	s.conn.Frontend().SendQuery(&pgproto3.Query{String: s.command(cfg)})
	if err := s.conn.Frontend().Flush(); err != nil {
		return p, fmt.Errorf("%w: %w", errSource, err)
	}
	rows, err := s.table()
	if err != nil {
		return p, err
	}
	if p.StartLSN, p.Timeline, err = position(rows); err != nil {
		return p, err
	}
	if rows, err = s.table(); err != nil {
		return p, err
	}
	for _, r := range rows {
		if len(r) < 3 {
			return p, fmt.Errorf("%w: the tablespace list has %d columns", errSource, len(r))
		}
		kb, err := strconv.ParseUint(string(r[2]), 10, 54)
		if err != nil {
			return p, fmt.Errorf("%w: size of a tablespace: %w", errSource, err)
		}
		p.EstimateBytes += kb << 10
		if len(r[0]) == 0 {
			continue // the data directory itself
		}
		oid, err := strconv.ParseUint(string(r[0]), 10, 32)
		if err != nil {
			return p, fmt.Errorf("%w: id of a tablespace: %w", errSource, err)
		}
		p.Tablespaces = append(p.Tablespaces, describe(uint32(oid), string(r[1])))
	}
	return p, nil
}

func describe(oid uint32, location string) Tablespace {
	t := Tablespace{OID: oid, Location: location, InPlace: !filepath.IsAbs(location)}
	if t.InPlace {
		return t
	}
	if fi, err := os.Stat(location); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			t.Device, t.Inode = uint64(st.Dev), st.Ino
		}
	}
	return t
}

// finish reads the table after the data and the end of the command.
func (s *source) finish() (pos.LSN, pos.Timeline, error) {
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

// table reads one result of the simple protocol.
func (s *source) table() ([][][]byte, error) {
	var rows [][][]byte
	for {
		msg, err := s.receive()
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			row := make([][]byte, len(m.Values))
			for i, v := range m.Values {
				row[i] = append([]byte(nil), v...)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		case *pgproto3.RowDescription, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return nil, fmt.Errorf("%w: unexpected message %T", errSource, msg)
		}
	}
}

// receive is the next message; an error message of the server is an error.
func (s *source) receive() (pgproto3.BackendMessage, error) {
	msg, err := s.conn.ReceiveMessage(context.Background())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSource, err)
	}
	if e, ok := msg.(*pgproto3.ErrorResponse); ok {
		return nil, fmt.Errorf("%w: %w", errSource, pgconn.ErrorResponseToPgError(e))
	}
	return msg, nil
}

// copyOpen waits for the start of a COPY.
func (s *source) copyOpen() error {
	for {
		msg, err := s.receive()
		if err != nil {
			return err
		}
		switch msg.(type) {
		case *pgproto3.CopyOutResponse:
			return nil
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("%w: unexpected message %T", errSource, msg)
		}
	}
}

// copyData is the next piece of a COPY, valid until the next call; io.EOF
// after the last.
func (s *source) copyData() ([]byte, error) {
	for {
		msg, err := s.receive()
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			return m.Data, nil
		case *pgproto3.CopyDone:
			return nil, io.EOF
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return nil, fmt.Errorf("%w: unexpected message %T", errSource, msg)
		}
	}
}

func position(rows [][][]byte) (pos.LSN, pos.Timeline, error) {
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, 0, fmt.Errorf("%w: no position", errSource)
	}
	lsn, err := pos.ParseLSN(string(rows[0][0]))
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", errSource, err)
	}
	tli, err := strconv.ParseUint(string(rows[0][1]), 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: timeline: %w", errSource, err)
	}
	return lsn, pos.Timeline(tli), nil
}
