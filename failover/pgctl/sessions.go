package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// poll is the pace of questions whose answer somebody waits for while no
// server takes writes.
const poll = 2 * time.Millisecond

// activity is what pg_stat_activity is made of; the view itself takes longer to
// plan than all the rest.
const activity = "pg_stat_get_activity(null)"

// ordinary tells in activity the sessions of others than the daemon. A
// walsender of somebody else counts: in a database it takes statements too.
const ordinary = `(backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()
 and usesysid <> all (array_remove(array[to_regrole('` + roleName + `')::oid, to_regrole('` + RewindRole + `')::oid], null)))`

// Sessions is the number of ordinary client sessions of the running server.
func (s *Server) Sessions(ctx context.Context) (n int, err error) {
	err = s.with(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, "select count(*) from "+activity+" where "+ordinary).Scan(&n); err != nil {
			return fmt.Errorf("count sessions: %w", err)
		}
		return nil
	})
	return n, err
}

// TerminateSessions ends the ordinary client sessions that exist now and waits
// until they are gone or ctx ends; n is how many are. Sessions that begin
// meanwhile go on: lock clients out first where that matters.
func (s *Server) TerminateSessions(ctx context.Context) (n int, err error) {
	err = s.with(ctx, func(conn *pgx.Conn) error {
		var told []int32
		// In a where clause the server may end a session before it looks whose it is.
		const end = "select coalesce(array_agg(pid) filter (where told), '{}') from (select pid, case when " +
			ordinary + " then pg_terminate_backend(pid) else false end as told from " + activity + ") x"
		if err := conn.QueryRow(ctx, end).Scan(&told); err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
		for left := len(told); ; {
			n = len(told) - left
			if left == 0 {
				return nil
			}
			if err := pause(ctx, poll); err != nil {
				return fmt.Errorf("end sessions: %d still there: %w", left, err)
			}
			if err := conn.QueryRow(ctx, "select count(*) from "+activity+" where pid = any($1) and "+ordinary, told).Scan(&left); err != nil {
				return fmt.Errorf("look for ended sessions: %w", err)
			}
		}
	})
	return n, err
}

// endAll ends every ordinary session of a server that locks clients out, and
// returns when there is none. The rules are read when a connection is
// accepted, so one that was still logging in when they changed is let in by
// the old ones: it is in no view before it is in, and is looked for among the
// postmaster's children. Those that came later are of no concern: see reload.
// Those that do not finish within patience, in which our own connections are
// long in, are ended as well.
func (s *Server) endAll(ctx context.Context, conn *pgx.Conn, postmaster int) error {
	const patience = 25 * time.Millisecond
	began := time.Now()
	before, err := childrenOf(postmaster)
	if err != nil {
		return err
	}
	for {
		// Looked at before the view: else one slips from here into it.
		children := slices.DeleteFunc(slices.Clone(before), func(pid int) bool { return !mayBecomeSession(pid) })
		left, known, err := endSeen(ctx, conn)
		if err != nil {
			return err
		}
		strangers := slices.DeleteFunc(children, func(pid int) bool { return known[pid] || !mayBecomeSession(pid) })
		if left == 0 && len(strangers) == 0 {
			return nil
		}
		if time.Since(began) > patience {
			for _, pid := range strangers {
				s.Log.Info("ended a connection that was still logging in", "pid", pid)
				syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("end sessions: %d still there: %w", left+len(strangers), err)
		}
	}
}

// endSeen ends the ordinary sessions of activity; left is how many there were
// and known are all processes that it shows, but for those that are logging in,
// which 18 and newer show without a user.
func endSeen(ctx context.Context, conn *pgx.Conn) (left int, known map[int]bool, err error) {
	const sql = "select pid, case when " + ordinary + " then pg_terminate_backend(pid) end is not null from " + activity +
		" where usesysid is not null or backend_type not in ('client backend', 'walsender')"
	res, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return 0, nil, fmt.Errorf("end sessions: %w", err)
	}
	known = make(map[int]bool)
	for _, row := range res[0].Rows {
		pid, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return 0, nil, fmt.Errorf("end sessions: %w", err)
		}
		known[pid] = true
		if string(row[1]) == "t" {
			left++
		}
	}
	return left, known, nil
}

// mayBecomeSession tells whether a child of the postmaster that no view shows
// may be a client on its way in. The title of a client ends in its address or
// in what it does, never in a helper's name. False also for one that has ended.
func mayBecomeSession(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	title := strings.TrimRight(string(b), "\x00 ")
	return err == nil && title != "" && !strings.HasSuffix(title, ": logger") && !strings.HasSuffix(title, ": stats collector")
}

// childrenOf lists the child processes of pid.
func childrenOf(pid int) ([]int, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/children")
	if errors.Is(err, os.ErrNotExist) {
		if _, gone := os.Stat(dir); gone == nil {
			return scanChildren(pid), nil // a kernel without this file
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the server's processes: %w", err)
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// scanChildren is childrenOf by a look at every process.
func scanChildren(pid int) []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // has ended
		}
		end := strings.LastIndexByte(string(b), ')') // the name before it may hold anything
		f := strings.Fields(string(b[end+1:]))
		if len(f) < 2 || f[1] != strconv.Itoa(pid) {
			continue
		}
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// pause waits for d, or returns why it must not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// EndImpostors ends walsenders that use a name of ours under another role, and
// tells how many there were: one with the epoch's name would satisfy commits
// while our own receiver is away.
func (s *Server) EndImpostors(ctx context.Context) (n int, err error) {
	err = s.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select count(case when pg_terminate_backend(pid) then 1 end) from pg_stat_replication
 where application_name ~ '^understudy_[0-9]+_[0-9]+$' and usename <> $1`, roleName).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("look for impostors: %w", err)
	}
	return n, nil
}
