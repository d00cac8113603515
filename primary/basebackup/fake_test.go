package basebackup_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer speaks the replication protocol of a major version, for the
// versions that are not installed and for faults.
type fakeServer struct {
	dir     string
	major   int
	content []byte // of base/1/5
	fail    bool   // in the middle of the base archive
}

func newFakeServer(t *testing.T, major int, content []byte, fail ...bool) *fakeServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{dir: dir, major: major, content: content, fail: len(fail) > 0}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	return s
}

func (s *fakeServer) dsn() string {
	return fmt.Sprintf("host=%s port=5432 user=u dbname=d sslmode=disable", s.dir)
}

func (s *fakeServer) serve(c net.Conn) {
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: fmt.Sprintf("%d.3 (Debian)", s.major)})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	b.Flush()
	for {
		msg, err := b.Receive()
		if err != nil {
			return
		}
		q, ok := msg.(*pgproto3.Query)
		switch {
		case !ok:
			return
		case q.String == "IDENTIFY_SYSTEM":
			table(b, []string{"42", "1", "0/100", ""})
		case s.major < 15 && strings.HasPrefix(q.String, "BASE_BACKUP LABEL '"), s.major >= 15 && strings.HasPrefix(q.String, "BASE_BACKUP (LABEL '"):
			if !s.backup(b) {
				return
			}
		default:
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "syntax error: " + q.String})
		}
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
	}
}

func table(b *pgproto3.Backend, rows ...[]string) {
	b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("c")}}})
	for _, r := range rows {
		var d pgproto3.DataRow
		for _, v := range r {
			d.Values = append(d.Values, []byte(v))
		}
		b.Send(&d)
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT")})
}

func (s *fakeServer) backup(b *pgproto3.Backend) bool {
	table(b, []string{"0/200", "1"})
	table(b, []string{"77", "/spaces/77", "1"}, []string{"", "", "4096"})
	space := tarOf(s.major, map[string]string{"PG_x/1": "space"}, "PG_x/1")
	base := tarOf(s.major, map[string]string{"PG_VERSION": "v", "base/1/5": string(s.content)}, "PG_VERSION", "./pg_wal/", "base/1/5")
	out := func() { b.Send(&pgproto3.CopyOutResponse{}) }
	data := func(kind string, p []byte) {
		for len(p) > 0 {
			n := min(len(p), 30001)
			b.Send(&pgproto3.CopyData{Data: append([]byte(kind), p[:n]...)})
			p = p[n:]
			if b.Flush() != nil {
				return
			}
		}
	}
	done := func() { b.Send(&pgproto3.CopyDone{}) }
	if s.fail {
		base = base[:1024]
	}
	if s.major >= 15 {
		out()
		data("", []byte("n77.tar\x00/spaces/77\x00"))
		data("d", space)
		data("", []byte("p\x00\x00\x00\x00\x00\x00\x00\x01"))
		data("", []byte("nbase.tar\x00\x00"))
		data("d", base)
		if s.fail {
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "58030", Message: "could not read"})
			b.Flush()
			return false
		}
		data("", []byte("m"))
		data("d", []byte("manifest"))
		done()
	} else {
		for _, p := range [][]byte{space, base, []byte("manifest")} {
			out()
			data("", p)
			done()
		}
	}
	table(b, []string{"0/300", "1"})
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("BASE_BACKUP")})
	return b.Flush() == nil
}

// tarOf packs files; a name that ends in a slash is a directory. Servers
// before 15 leave out the blocks of zeros at the end.
func tarOf(major int, files map[string]string, order ...string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range order {
		h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		w.WriteHeader(h)
		w.Write([]byte(files[name]))
	}
	if major < 15 {
		w.Flush()
	} else {
		w.Close()
	}
	return buf.Bytes()
}
