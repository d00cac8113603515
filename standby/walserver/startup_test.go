package walserver_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/standby/walserver"
	"understudy/test/pgtest"
)

func TestServe_Startup(t *testing.T) {
	n := serve(t, memLog(segSize, segSize+1), state(oneTimeline), func(cfg *walserver.Config) {
		cfg.Proxy = func(_ context.Context, m *pgproto3.StartupMessage, c net.Conn) error {
			b, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: "00000", Message: "proxied " + m.Parameters["database"]}).Encode(nil)
			_, err := c.Write(b)
			return err
		}
	})
	none := serve(t, memLog(segSize, segSize+1), state(oneTimeline), func(cfg *walserver.Config) { cfg.AllowUIDs = nil })
	foreign := serve(t, memLog(segSize, segSize+1), state(oneTimeline), func(cfg *walserver.Config) { cfg.AllowUIDs = []uint32{uint32(os.Geteuid()) + 1} })
	refusing := state(oneTimeline)
	refusing.Refuse = "the data directory is being seeded"
	seeding := serve(t, memLog(segSize, segSize+1), refusing, nil)
	for name, tt := range map[string]struct {
		n    *node
		more string
		want string
	}{
		"Proxied":        {n, "", "proxied replication"},
		"LogicalProxied": {n, "replication=database", "proxied replication"},
		"NoProxy":        {none, "", "this socket serves physical replication only"},
		"ForeignAccount": {foreign, "replication=true", "may not connect"},
		"Refused":        {seeding, "replication=1", "the data directory is being seeded"},
	} {
		if _, err := dial(t, tt.n, tt.more); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if pg, err := dial(t, none, "replication=on"); err != nil {
		t.Errorf("own account: %v", err)
	} else {
		pg.Close(t.Context())
	}
	raw := func(in string) string {
		t.Helper()
		c, err := net.Dial("unix", n.cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, in)
		c.(*net.UnixConn).CloseWrite()
		b, _ := io.ReadAll(c)
		return string(b)
	}
	const ssl, gss = "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x00\x00\x00\x08\x04\xd2\x16\x30"
	if got := raw(ssl + gss); got != "NN" {
		t.Errorf("encryption requests: %q", got)
	}
	if got := raw("\xff\xff\xff\xff\x00\x03\x00\x00"); got != "" {
		t.Errorf("huge startup: %q", got)
	}
	if got := raw("\x00\x00\x00\x09\x00\x02\x00\x00\x00"); !strings.Contains(got, "unsupported frontend protocol 2.0") {
		t.Errorf("old protocol: %q", got)
	}
	if got := raw(startup32()); !strings.HasPrefix(got, "v") || !strings.Contains(got, "_pq_.x") {
		t.Errorf("newer minor: %q", got)
	}
}

func startup32() string {
	b, _ := (&pgproto3.StartupMessage{ProtocolVersion: 3<<16 | 2, Parameters: map[string]string{"replication": "true", "_pq_.x": "1"}}).Encode(nil)
	return string(b)
}

func TestServe_BoundsConnections(t *testing.T) {
	n := serve(t, memLog(segSize, segSize+1), state(oneTimeline), nil)
	var first *client
	for i := range 8 {
		if c := connect(t, n); i == 0 {
			first = c
		}
	}
	if _, err := dial(t, n, "replication=true"); err == nil || !strings.Contains(err.Error(), "more than 8 replication connections") {
		t.Errorf("ninth connection: %v", err)
	}
	first.pg.Close(t.Context())
	pgtest.Eventually(t, 5*time.Second, "a place is free again", func() bool {
		pg, err := dial(t, n, "replication=true")
		if err == nil {
			pg.Close(t.Context())
		}
		return err == nil
	})
}

func TestServe_Socket(t *testing.T) {
	n := serve(t, memLog(segSize, segSize+1), state(oneTimeline), nil)
	if err := walserver.Serve(t.Context(), n.cfg); err == nil || !strings.Contains(err.Error(), "another server listens") {
		t.Errorf("second server: %v", err)
	}
	cfg := n.cfg
	cfg.Socket = filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(cfg.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := walserver.Serve(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("file in the way: %v", err)
	}
	stale := filepath.Join(pgtest.Dir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Socket = stale
	ended := make(chan error, 1)
	go func() { ended <- walserver.Serve(ctx, cfg) }()
	pgtest.Eventually(t, 5*time.Second, "the stale socket is replaced", func() bool {
		c, err := net.Dial("unix", stale)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
