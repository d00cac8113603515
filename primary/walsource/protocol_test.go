package walsource_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/primary/walsource"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

// fakeServer answers one replication client and then sends stream as it is.
func fakeServer(t *testing.T, stream []byte) walsource.Config {
	t.Helper()
	return serve(t, stream, false)
}

// serve is fakeServer; a deaf one takes nothing any more when it sends stream.
func serve(t *testing.T, stream []byte, deaf bool) walsource.Config {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5998"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := pgproto3.NewBackend(c, c)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		b.Flush()
		b.Receive() // IDENTIFY_SYSTEM
		var cols []pgproto3.FieldDescription
		for _, name := range []string{"systemid", "timeline", "xlogpos", "dbname"} {
			cols = append(cols, pgproto3.FieldDescription{Name: []byte(name), DataTypeOID: 25})
		}
		b.Send(&pgproto3.RowDescription{Fields: cols})
		b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("7"), []byte("1"), []byte("1/0"), nil}})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("IDENTIFY_SYSTEM")})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		b.Flush()
		b.Receive() // START_REPLICATION
		both, _ := (&pgproto3.CopyBothResponse{}).Encode(nil)
		if deaf {
			c.(*net.UnixConn).CloseRead()
		}
		c.Write(append(both, stream...)) // in one piece: the source may lose no byte of it
		for {
			if _, err := b.Receive(); err != nil {
				return
			}
		}
	}()
	return walsource.Config{ConnString: "host=" + dir + " port=5998 user=x", ApplicationName: appName, SystemID: 7, Timeline: 1, Start: 1000}
}

func walMessage(at pos.LSN, n int) []byte {
	b := append([]byte{'d'}, binary.BigEndian.AppendUint32(nil, uint32(4+25+n))...)
	b = append(b, 'w')
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint64(b, uint64(at)+uint64(n))
	b = append(b, make([]byte, 8+n)...)
	return b
}

func TestSource_ServerMisbehaves(t *testing.T) {
	good := append(walMessage(1000, 5), walMessage(1005, 100<<10)...)
	next := pos.LSN(1005 + 100<<10)
	shutdown, _ := (&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}).Encode(nil)
	fatal, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P02", Message: "crash"}).Encode(nil)
	for name, tt := range map[string]struct {
		then []byte
		want error
	}{
		"Shutdown":    {shutdown, walsource.ErrEnded},
		"TimelineEnd": {[]byte{'c', 0, 0, 0, 4}, walsource.ErrEnded},
		"Gap":         {walMessage(next+1, 5), walsource.ErrProtocol},
		"Overlap":     {walMessage(next-1, 5), walsource.ErrProtocol},
		"TooLong":     {walMessage(next, 1<<20), walsource.ErrProtocol},
		"TooShort":    {[]byte{'d', 0, 0, 0, 3}, walsource.ErrProtocol},
		"Negative":    {[]byte{'d', 0xff, 0xff, 0xff, 0xff}, walsource.ErrProtocol},
		"Cut":         {append(walMessage(next, 5)[:20:20], 'Z', 0), nil},
		"Unknown":     {[]byte{'T', 0, 0, 0, 4}, walsource.ErrProtocol},
		"EmptyCopy":   {[]byte{'d', 0, 0, 0, 4}, walsource.ErrProtocol},
		"Error":       {fatal, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := fakeServer(t, append(append([]byte(nil), good...), tt.then...))
			s, err := walsource.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := &recorder{start: cfg.Start}
			if tt.want == nil && name == "Cut" {
				r.then = func(end pos.LSN) {
					if end == next {
						go s.Close(t.Context())
					}
				}
			}
			err = s.Run(t.Context(), r)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && errors.Is(err, walsource.ErrEnded) {
				t.Errorf("Run: %v", err)
			}
			if got := len(r.bytes()); got != 5+100<<10 || s.Received() != next {
				t.Errorf("received %d bytes up to %s", got, s.Received())
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.Confirm(next, next); err == nil {
				t.Error("Confirm on a closed source succeeds")
			}
		})
	}
}

// A walsender that does not read must not hold the commit path up, and gets
// the newest values once it does.
func TestSource_ConfirmNeverBlocks(t *testing.T) {
	c := cluster(t, "fsync=off", "wal_sender_timeout=60s")
	cfg := config(t, c)
	s := run(t, cfg, &recorder{})
	pid, err := strconv.Atoi(c.Query(t, "select pid from pg_stat_replication where state in ('streaming', 'catchup')"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	end := s.Received()
	begin := time.Now()
	for i := range 5000 {
		if err := s.Confirm(end, end-pos.LSN(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if err := s.Feedback(701, 0); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	pgtest.Eventually(t, 5*time.Second, "the newest values arrive", func() bool {
		return c.Query(t, fmt.Sprintf("select replay_lsn = '%s' and flush_lsn = '%s' and backend_xmin = '701' from pg_stat_replication", end-5000, end)) == "t"
	})
}

// TestSource_EndIsReadWithoutAnAnswer: a server that ends asks for a status
// and closes; that nobody takes the status says nothing of why it ended.
func TestSource_EndIsReadWithoutAnAnswer(t *testing.T) {
	ask := append([]byte{'d', 0, 0, 0, 22, 'k'}, make([]byte, 16)...)
	ask = append(ask, 1)
	shutdown, err := (&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := serve(t, append(ask, shutdown...), true)
	s, err := walsource.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), &recorder{start: cfg.Start}); !errors.Is(err, walsource.ErrEnded) {
		t.Errorf("Run: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
