package walserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

func dial(t testing.TB, n *node, more string) (*pgconn.PgConn, error) {
	t.Helper()
	dir, file := filepath.Split(n.cfg.Socket)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		pg, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%s user=postgres database=replication %s", dir, strings.TrimPrefix(file, ".s.PGSQL."), more))
		if !errors.Is(err, syscall.ECONNREFUSED) || ctx.Err() != nil {
			return pg, err
		}
	}
}

// client is a streaming client under the test's control.
type client struct {
	t  testing.TB
	pg *pgconn.PgConn
}

func connect(t testing.TB, n *node) *client {
	t.Helper()
	pg, err := dial(t, n, "replication=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		pg.Close(ctx)
	})
	return &client{t, pg}
}

func (c *client) query(sql string) ([][]byte, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := c.pg.Exec(ctx, sql).ReadAll()
	if err != nil || len(res) == 0 || len(res[0].Rows) == 0 {
		return nil, err
	}
	return res[0].Rows[0], nil
}

func (c *client) send(m pgproto3.FrontendMessage) {
	c.t.Helper()
	c.pg.Frontend().Send(m)
	if err := c.pg.Frontend().Flush(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (pgproto3.BackendMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.pg.ReceiveMessage(ctx)
}

func (c *client) start(sql string) {
	c.t.Helper()
	c.send(&pgproto3.Query{String: sql})
	m, err := c.receive()
	if _, ok := m.(*pgproto3.CopyBothResponse); !ok {
		c.t.Fatalf("%s: %T %v", sql, m, err)
	}
}

// wal receives data up to end exactly, checking every byte; keepalives are
// skipped.
func (c *client) wal(from, end pos.LSN) {
	c.t.Helper()
	for from < end {
		m, err := c.receive()
		d, ok := m.(*pgproto3.CopyData)
		if !ok {
			c.t.Fatalf("at %s: %T %+v %v", from, m, m, err)
		}
		if d.Data[0] == 'k' {
			continue
		}
		x, err := pglogrepl.ParseXLogData(d.Data[1:])
		if err != nil || pos.LSN(x.WALStart) != from || len(x.WALData) == 0 || len(x.WALData) > 128<<10 {
			c.t.Fatalf("at %s: got %d bytes at %s, %v", from, len(x.WALData), x.WALStart, err)
		}
		want := make([]byte, len(x.WALData))
		fill(want, from)
		if !bytes.Equal(want, x.WALData) {
			c.t.Fatalf("bytes at %s differ", from)
		}
		from += pos.LSN(len(want))
		if from < end && len(want) > 64<<10 && from%8192 != 0 {
			c.t.Fatalf("cut at %s, not at a page", from)
		}
	}
	if from != end {
		c.t.Fatalf("got data up to %s, want %s", from, end)
	}
}

func (c *client) report(written, flushed, applied pos.LSN, ask bool) {
	c.t.Helper()
	b := []byte{'r'}
	for _, v := range []uint64{uint64(written), uint64(flushed), uint64(applied), 0} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, 0)
	if ask {
		b[33] = 1
	}
	c.send(&pgproto3.CopyData{Data: b})
}

// ended reads to the connection's end and returns the server's last words.
func (c *client) ended() string {
	c.t.Helper()
	var words string
	for {
		m, err := c.receive()
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) {
			return pgErr.Message
		}
		if err != nil {
			return words
		}
		if e, ok := m.(*pgproto3.ErrorResponse); ok {
			words = e.Message
		}
	}
}

// idle reads a COPY's end; row tells whether the next timeline was named.
func (c *client) idle(row bool) {
	c.t.Helper()
	var got []string
	for {
		m, err := c.receive()
		if err != nil {
			c.t.Fatalf("after %v: %v", got, err)
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			continue
		case *pgproto3.DataRow:
			got = append(got, string(bytes.Join(m.Values, []byte(" "))))
		case *pgproto3.RowDescription:
		case *pgproto3.CommandComplete, *pgproto3.CopyDone:
			got = append(got, fmt.Sprintf("%T", m)[len("*pgproto3."):])
		case *pgproto3.ReadyForQuery:
			want := "[CopyDone CommandComplete CommandComplete]"
			if row {
				want = "[2 0/1000200 CommandComplete CommandComplete]"
			}
			if fmt.Sprint(got) != want {
				c.t.Errorf("got %v, want %s", got, want)
			}
			return
		}
	}
}
