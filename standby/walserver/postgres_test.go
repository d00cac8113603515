package walserver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/standby/walserver"
	"understudy/test/pgtest"
)

// track moves the log's end to the server's flush position until stopped.
func track(t *testing.T, c *pgtest.Cluster, l *testLog) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := c.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close(context.Background())
		for ctx.Err() == nil {
			var text string
			if err := conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
				return
			}
			if lsn, err := pos.ParseLSN(text); err == nil {
				l.setEnd(lsn)
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// follower makes a copy of c that streams from n.
func follower(t *testing.T, c *pgtest.Cluster, n *node) *pgtest.Cluster {
	t.Helper()
	f := pgtest.Init(t)
	if err := os.RemoveAll(f.Data); err != nil {
		t.Fatal(err)
	}
	c.Tool(t, "pg_basebackup", "-D", f.Data, "-c", "fast", "-X", "none", "--no-sync", "--no-manifest")
	dir, file := filepath.Split(n.cfg.Socket)
	f.AppendConf(t, fmt.Sprintf("primary_conninfo = 'host=%s port=%s user=postgres'\nwal_retrieve_retry_interval = 50ms\nhot_standby_feedback = on\nwal_receiver_status_interval = 1\n",
		dir, strings.TrimPrefix(file, ".s.PGSQL.")))
	signal := filepath.Join(f.Data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, signal)
	return f
}

func systemID(t *testing.T, c *pgtest.Cluster) uint64 {
	t.Helper()
	id, err := strconv.ParseUint(c.Query(t, "select system_identifier from pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func lsnOf(t *testing.T, c *pgtest.Cluster, expr string) pos.LSN {
	t.Helper()
	l, err := pos.ParseLSN(c.Query(t, "select "+expr))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (n *node) hasRows(t *testing.T, c *pgtest.Cluster, want int) {
	t.Helper()
	pgtest.Eventually(t, 10*time.Second, fmt.Sprintf("%d rows\n%s", want, c.Log()), func() bool {
		return c.Query(t, "select count(*) from a") == strconv.Itoa(want)
	})
}

func TestServe_RealStandby(t *testing.T) {
	c := pgtest.New(t, "fsync=off", "wal_keep_size=1GB", "autovacuum=off", "max_connections=20", "shared_buffers=16MB")
	c.Exec(t, "create table a(i int); insert into a values (1)")
	lineage := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: 1}}
	log := newLog(segSize, 0, pgWAL(c.Data, lineage))
	stopTracking := track(t, c, log)
	defer func() { stopTracking() }()
	st := walserver.State{SystemID: systemID(t, c), Lineage: lineage, ServerVersion: strings.Fields(c.Query(t, "show server_version"))[0], SegSize: segSize}
	var forkMu sync.Mutex
	var history []byte
	n := serve(t, log, st, nil)
	m := serve(t, log, st, func(cfg *walserver.Config) {
		cfg.History = func(tli pos.Timeline) ([]byte, bool) {
			forkMu.Lock()
			defer forkMu.Unlock()
			return history, tli == 2 && history != nil
		}
	})
	a, b := follower(t, c, n), follower(t, c, m)
	a.Start(t)
	b.Start(t)

	rows := 1
	insert := func(t *testing.T) {
		t.Helper()
		rows++
		c.Exec(t, "insert into a values ("+strconv.Itoa(rows)+")")
	}
	t.Run("ReplicatesAndReports", func(t *testing.T) {
		n.hasRows(t, a, rows)
		insert(t)
		end := lsnOf(t, c, "pg_current_wal_flush_lsn()")
		n.hasRows(t, a, rows)
		m.hasRows(t, b, rows)
		pgtest.Eventually(t, 5*time.Second, "flush, apply and xmin are reported", func() bool {
			f := n.last()
			return f.Flushed >= end && f.Applied >= end && f.Counted >= end && f.Sent >= end && f.HasFeedback && f.Xmin > 0 && f.Timeline == 1
		})
	})
	t.Run("AcrossSegments", func(t *testing.T) {
		c.Exec(t, "insert into a select generate_series(1, 600000); select pg_switch_wal()")
		rows += 600000
		insert(t)
		n.hasRows(t, a, rows)
		m.hasRows(t, b, rows)
	})
	t.Run("LimitHoldsReplayBack", func(t *testing.T) {
		limit := lsnOf(t, c, "pg_current_wal_flush_lsn()")
		n.set(func(s *walserver.State) { s.Limit = limit })
		insert(t)
		m.hasRows(t, b, rows)
		n.hasRows(t, a, rows-1)
		if f := n.last(); f.Sent > limit {
			t.Errorf("sent %s beyond the limit %s", f.Sent, limit)
		}
		n.set(func(s *walserver.State) { s.Limit = log.End() })
		n.hasRows(t, a, rows)
		n.set(func(s *walserver.State) { s.Limit = 0 })
	})
	t.Run("HeldKeepsConnection", func(t *testing.T) {
		before := n.last()
		n.set(func(s *walserver.State) { s.Held = true })
		insert(t)
		m.hasRows(t, b, rows)
		pgtest.Eventually(t, 5*time.Second, "reports go on", func() bool { return n.last().At.After(before.At) })
		n.hasRows(t, a, rows-1)
		if f := n.last(); f.Session != before.Session || f.Counted != 0 {
			t.Errorf("got session %d counted %s", f.Session, f.Counted)
		}
		n.set(func(s *walserver.State) { s.Held = false })
		n.hasRows(t, a, rows)
		if f := n.last(); f.Session != before.Session {
			t.Errorf("session %d, want %d", f.Session, before.Session)
		}
	})
	t.Run("Reconnect", func(t *testing.T) {
		n.stop(t)
		insert(t)
		n.start(t)
		n.hasRows(t, a, rows)
	})
	t.Run("WrongSystemID", func(t *testing.T) {
		n.stop(t)
		n.set(func(s *walserver.State) { s.SystemID++ })
		n.start(t)
		pgtest.Eventually(t, 5*time.Second, "the standby says why", func() bool {
			return strings.Contains(a.Log(), "database system identifier differs")
		})
		n.set(func(s *walserver.State) { s.SystemID-- })
		insert(t)
		n.hasRows(t, a, rows)
	})
	t.Run("TimelineSwitch", func(t *testing.T) {
		m.hasRows(t, b, rows)
		stopTracking()
		c.Stop(syscall.SIGINT)
		end := log.End()
		pgtest.Eventually(t, 5*time.Second, "replay is complete", func() bool {
			return lsnOf(t, a, "pg_last_wal_replay_lsn()") == end && lsnOf(t, b, "pg_last_wal_replay_lsn()") == end
		})
		before := b.PID()
		a.Exec(t, "select pg_promote()")
		n.stop(t)
		h, err := os.ReadFile(filepath.Join(a.Data, "pg_wal", "00000002.history"))
		if err != nil {
			t.Fatal(err)
		}
		fork, err := pos.ParseLSN(strings.Fields(string(h))[1])
		if err != nil {
			t.Fatal(err)
		}
		forkMu.Lock()
		history = h
		forkMu.Unlock()
		two := lineage.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: fork})
		m.set(func(s *walserver.State) { s.Lineage = two })
		log.mu.Lock()
		log.read = pgWAL(a.Data, two)
		log.mu.Unlock()
		stopTracking = track(t, a, log)
		a.Exec(t, "insert into a values (0)")
		rows++
		m.hasRows(t, b, rows)
		if got := b.Query(t, "select received_tli from pg_stat_wal_receiver"); got != "2" {
			t.Errorf("streams timeline %s", got)
		}
		if b.PID() != before || strings.Contains(b.Log(), "FATAL:  could not") {
			t.Errorf("the follower did not follow in good order:\n%s", b.Log())
		}
		b.Stop(syscall.SIGINT)
	})
}
