package pgctl_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/test/pgtest"
)

// founded starts a primary for whose commits nobody is waited.
func founded(t *testing.T) (*pgctl.Server, *guard.Client) {
	t.Helper()
	s := newServer(t)
	ctx := context30(t)
	if err := s.InitDB(ctx, "postgres"); err != nil {
		t.Fatal(err)
	}
	g := start(t, s, pgctl.Mode{Primary: true, Async: true, MinSettings: map[string]int{"max_prepared_transactions": 5}})
	if err := s.EnsureRole(ctx); err != nil {
		t.Fatal(err)
	}
	return s, g
}

// following is the mode of a standby that streams from another test server.
func following(from *pgctl.Server) pgctl.Mode {
	return pgctl.Mode{SyncName: pgctl.NoSyncName, PrimaryConninfo: from.DSN(false)}
}

// standbyOf makes a base of a running server; it is not started.
func standbyOf(t *testing.T, p *pgctl.Server) *pgctl.Server {
	t.Helper()
	s := newServer(t)
	c := pgtest.Cluster{Bin: p.BinDir, Socket: p.SocketDir, Port: p.Port}
	c.Tool(t, "pg_basebackup", "-D", s.DataDir, "-d", p.DSN(false), "--checkpoint=fast", "--no-sync", "-X", "stream")
	return s
}

// copyOf is a server of its own on a copy of the directory of a stopped one.
func copyOf(t *testing.T, s *pgctl.Server) *pgctl.Server {
	t.Helper()
	c := newServer(t)
	if out, err := exec.Command("cp", "-a", s.DataDir, c.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c
}

func do(t *testing.T, s *pgctl.Server, statements ...string) {
	t.Helper()
	ctx := context30(t)
	conn, err := s.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func stop(t *testing.T, g *guard.Client, mode guard.StopMode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.Stop(ctx, mode); err != nil {
		t.Fatal(err)
	}
}

// caughtUp waits until s has replayed all that p has written.
func caughtUp(t *testing.T, p, s *pgctl.Server) {
	t.Helper()
	end := query(t, p, "select pg_current_wal_flush_lsn()::text")
	pgtest.Eventually(t, 10*time.Second, "standby caught up", func() bool {
		return query(t, s, "select (pg_last_wal_replay_lsn() >= '"+end+"')::text") == "true"
	})
}

// tcp opens an ordinary session.
func tcp(t *testing.T, s *pgctl.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context30(t), "host=127.0.0.1 port="+strconv.Itoa(s.Port)+" user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

// tunnel is the way to a server's socket, with faults.
type tunnel struct {
	dir     string
	port    int
	accepts int   // connections after this many are dropped at once; 0: none are
	passes  int64 // bytes from the server per connection, then silence; 0: all
	stalled chan struct{}
}

func newTunnel(t *testing.T, to *pgctl.Server, accepts int, passes int64) *tunnel {
	t.Helper()
	u := &tunnel{dir: pgtest.Dir(t), port: to.Port, accepts: accepts, passes: passes, stalled: make(chan struct{})}
	path := filepath.Join(u.dir, ".s.PGSQL."+strconv.Itoa(u.port))
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", filepath.Join(to.SocketDir, filepath.Base(path)))
			if err != nil || u.accepts > 0 && n > u.accepts {
				c.Close()
				continue
			}
			mu.Lock()
			open = append(open, c, up)
			mu.Unlock()
			wg.Go(func() { io.Copy(up, c); up.Close() })
			wg.Go(func() { u.down(c, up) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return u
}

func (u *tunnel) down(c, up net.Conn) {
	if u.passes == 0 {
		io.Copy(c, up)
		c.Close()
		return
	}
	if _, err := io.CopyN(c, up, u.passes); err == nil {
		close(u.stalled)
		return // silence until the test ends
	}
	c.Close()
}
