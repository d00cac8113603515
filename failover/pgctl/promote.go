package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/shipper/pos"
)

// PreparePromotion makes a running standby, which has replayed everything it
// will be given, ready to become the primary: nobody but the daemon is
// connected or let in, commits wait for syncName alone (for nobody when async),
// and it asks for log no more, neither a sender nor an archive. It returns when
// all that is in force, and can be repeated. ErrForeignSetting tells that
// something else decides whom commits wait for.
func (s *Server) PreparePromotion(ctx context.Context, syncName string, async bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	want := ""
	if !async {
		v, err := syncValue(syncName)
		if err != nil {
			return err
		}
		want = v
	}
	pid, err := s.running()
	if err != nil {
		return err
	}
	// The kept session has taken earlier reloads over before the files change:
	// what it shows then is ours.
	conn, err := s.reload(ctx, s.borrow(ctx), func() (string, error) {
		return s.putAccess(true, map[string]string{"synchronous_standby_names": want,
			"primary_conninfo": "", "restore_command": "", "primary_slot_name": "", applyDelay: "0"})
	})
	if err != nil {
		return err
	}
	defer s.giveBack(ctx, conn)
	if err := s.inForce(ctx, conn, want); err != nil {
		return err
	}
	return s.endAll(ctx, conn, pid)
}

// ask returns the first column of the one row of sql, as text, in one round
// trip.
func ask(ctx context.Context, conn *pgx.Conn, sql string) (string, error) {
	res, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("ask the server: %w", err)
	}
	if len(res) == 0 || len(res[0].Rows) == 0 {
		return "", errors.New("ask the server: no row")
	}
	return string(res[0].Rows[0][0]), nil
}

// inForce asks a session that shows the reload whether what was written holds:
// a rule in error keeps the old rules, and other files may override ours. Who
// else decided is asked only when the names are wrong, since that is slow.
func (s *Server) inForce(ctx context.Context, conn *pgx.Conn, want string) error {
	answer, err := ask(ctx, conn, "select current_setting('synchronous_standby_names') || e'\n' || coalesce((select 'line ' || line_number || ': ' || error from pg_hba_file_rules where error is not null limit 1), '')")
	if err != nil {
		return fmt.Errorf("check names and access rules: %w", err)
	}
	names, problem, _ := strings.Cut(answer, "\n")
	if problem != "" {
		return fmt.Errorf("%w: %s %s", ErrNotReloaded, s.hbaFile(), problem)
	}
	if names == want {
		return nil
	}
	return s.checkNames(ctx, conn, want)
}

// Promotion is what a promoted server says of itself.
type Promotion struct {
	Timeline pos.Timeline // the one it writes
	Fork     pos.LSN      // where that one begins; zero on a first timeline
}

// Promote ends recovery and waits until the server writes; a server that does
// already just says where. PreparePromotion comes before. When ctx ends first,
// the promotion may still happen.
func (s *Server) Promote(ctx context.Context) (Promotion, error) {
	var p Promotion
	err := s.with(ctx, func(conn *pgx.Conn) error {
		_, err := ask(ctx, conn, "select case when pg_is_in_recovery() then pg_promote(false) end")
		var pe *pgconn.PgError
		if err != nil && !(errors.As(err, &pe) && pe.Code == notInRecovery) {
			return fmt.Errorf("promote: %w", err)
		}
		for {
			tli, err := ask(ctx, conn, "select case when pg_is_in_recovery() then '' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end")
			if err != nil {
				return fmt.Errorf("promote: %w", err)
			}
			if tli != "" {
				n, err := strconv.ParseUint(tli, 16, 32)
				p.Timeline = pos.Timeline(n)
				return err
			}
			if err := pause(ctx, poll); err != nil {
				return fmt.Errorf("promote: still in recovery: %w", err)
			}
		}
	})
	if err != nil {
		return Promotion{}, err
	}
	p.Fork, err = s.fork(p.Timeline)
	return p, err
}

// notInRecovery is the code of the error with which pg_promote answers once
// recovery has ended.
const notInRecovery = "55000"

// fork reads from its history where timeline t begins.
func (s *Server) fork(t pos.Timeline) (pos.LSN, error) {
	if t == 1 {
		return 0, nil
	}
	b, err := os.ReadFile(s.historyFile(t))
	if err != nil {
		return 0, fmt.Errorf("read the history of timeline %d: %w", t, err)
	}
	lines, err := ParseHistory(b)
	if err != nil {
		return 0, fmt.Errorf("read the history of timeline %d: %w", t, err)
	}
	if len(lines) == 0 {
		return 0, fmt.Errorf("read the history of timeline %d: it is empty", t)
	}
	return lines[len(lines)-1].End, nil
}
