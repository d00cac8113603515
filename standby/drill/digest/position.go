package digest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
)

var (
	// ErrPaused is returned when replay is paused already: somebody else's
	// pause is not ours to end.
	ErrPaused = errors.New("replay is paused")
	// ErrBusy is returned when no moment could be had in time: replay did not
	// come to a stop, or went on meanwhile.
	ErrBusy = errors.New("no moment of rest could be had")
)

// AtPosition computes digests at a position that is known exactly.
//
// On a standby replay pauses until every database has its snapshot. The pause
// is one statement of the server, which resumes replay itself at the end of
// Hold, also when this process is gone by then.
//
// On a primary, tables that can be locked against writers at once, without
// waiting, are locked until every database has its snapshot; the others are
// left out. The server drops the locks when this process hangs or is gone. A
// restore point is written after the position, so that a recovery finds a
// record to stop at.
//
// The snapshots are kept while digests are computed, at most for Time, and hold
// back the removal of dead rows.
func AtPosition(ctx context.Context, dial Dial, l Limits) (Snapshot, error) {
	s, err := atPosition(ctx, dial, l)
	if err != nil {
		return s, fmt.Errorf("compute digests at a position: %w", err)
	}
	return s, nil
}

func atPosition(ctx context.Context, dial Dial, l Limits) (Snapshot, error) {
	s := Snapshot{At: time.Now()}
	control, err := connect(ctx, dial, maintenance)
	if err != nil {
		return s, err
	}
	defer hangUp(control)
	rows, err := ask(ctx, control, "select pg_is_in_recovery()")
	if err != nil {
		return s, err
	}
	standby := rows[0][0] == "t"
	hold := primaryHold
	if standby {
		hold = standbyHold
	}
	l = l.or(lockedTables, hold)
	rs, err := open(ctx, dial, l, &s)
	if err != nil {
		return s, err
	}
	defer closeAll(rs)
	f := &freezing{dial: dial, control: control, readers: rs, hold: l.Hold, s: &s}
	if standby {
		err = f.standby(ctx)
	} else {
		err = f.primary(ctx)
	}
	if err != nil {
		return s, err
	}
	return s, compute(ctx, rs, l, &s)
}

// freezing gives every reader a snapshot of one moment.
type freezing struct {
	dial    Dial
	control *pgx.Conn
	readers []*reader
	hold    time.Duration
	s       *Snapshot
}

const begin = "begin isolation level repeatable read read only; select 1"

func (f *freezing) begin(ctx context.Context) error {
	for _, r := range f.readers {
		if err := run(ctx, r.conn, begin); err != nil {
			return err
		}
	}
	return nil
}

// pauseSQL pauses replay until nobody holds the advisory lock any more, which
// this process does, or until the time is over, and resumes it. The handler
// keeps a cancelled statement from ending without that. client_connection_check
// is off in the session: the server does not look whether we are there.
const pauseSQL = `do $$ declare until timestamptz := clock_timestamp() + interval '%d ms';
begin
  perform pg_wal_replay_pause();
  begin
    while not pg_try_advisory_xact_lock(%d) and clock_timestamp() < until loop perform pg_sleep(0.002); end loop;
  exception when query_canceled or others then null;
  end;
  perform pg_wal_replay_resume();
end $$`

const replaySQL = "select pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()"

// standby pauses replay.
func (f *freezing) standby(ctx context.Context) error {
	gate, err := connect(ctx, f.dial, maintenance)
	if err != nil {
		return err
	}
	defer hangUp(gate)
	switch state, _, err := replay(ctx, gate); {
	case err != nil:
		return err
	case state != "not paused":
		return fmt.Errorf("%w: %s", ErrPaused, state)
	}
	key := rand.Int64()
	if err := run(ctx, gate, fmt.Sprintf("select pg_advisory_lock(%d)", key)); err != nil {
		return err
	}
	ended := make(chan error, 1)
	// Not with ctx: cancelling it would hang up in the midst of the statement.
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.hold+5*time.Second)
		defer cancel()
		ended <- run(ctx, f.control, fmt.Sprintf(pauseSQL, f.hold.Milliseconds(), key))
	}()
	err = f.whilePaused(ctx, gate)
	// Hanging up lets go of the lock, whatever state the session is in.
	hangUp(gate)
	if perr := <-ended; perr != nil {
		return errors.Join(err, perr, f.resume(ctx))
	}
	return err
}

// whilePaused takes the snapshots, and proves that nothing was replayed
// meanwhile.
func (f *freezing) whilePaused(ctx context.Context, gate *pgx.Conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, f.hold, ErrBusy)
	defer cancel()
	var at pos.LSN
	for {
		state, lsn, err := replay(ctx, gate)
		if err != nil {
			return cause(ctx, err)
		}
		if at = lsn; state == "paused" {
			break
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: replay is %s", context.Cause(ctx), state)
		}
	}
	if err := f.begin(ctx); err != nil {
		return cause(ctx, err)
	}
	switch state, lsn, err := replay(ctx, gate); {
	case err != nil:
		return cause(ctx, err)
	case state != "paused" || lsn != at:
		return fmt.Errorf("%w: replay went on from %s to %s", ErrBusy, at, lsn)
	}
	f.s.LSN, f.s.At = at, time.Now()
	return nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func replay(ctx context.Context, c *pgx.Conn) (state string, at pos.LSN, err error) {
	rows, err := ask(ctx, c, replaySQL)
	if err != nil {
		return "", 0, err
	}
	at, err = pos.ParseLSN(rows[0][1])
	return rows[0][0], at, err
}

// resume ends a pause of ours whose statement was ended by force, the one thing
// that keeps the server from doing it.
func (f *freezing) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	c, err := connect(ctx, f.dial, maintenance)
	if err != nil {
		return fmt.Errorf("replay may be paused; resume it with pg_wal_replay_resume(): %w", err)
	}
	defer hangUp(c)
	if rows, err := ask(ctx, c, "select pg_is_in_recovery() and pg_get_wal_replay_pause_state() <> 'not paused'"); err != nil || rows[0][0] != "t" {
		return err
	}
	return run(ctx, c, "select pg_wal_replay_resume()")
}

// lockSQL locks tables against writers as far as that needs no waiting. Each in
// a block of its own, so that one that is in use leaves the others locked.
const lockSQL = `begin; set local statement_timeout = %[1]d; set local idle_in_transaction_session_timeout = %[1]d;
do %[3]s declare t text;
begin
  foreach t in array array[%[2]s]::text[] loop
    begin
      execute 'lock table only ' || t || ' in share mode nowait';
    exception when lock_not_available or undefined_table or wrong_object_type or invalid_schema_name then null;
    end;
  end loop;
end %[3]s;
select relation from pg_locks where pid = pg_backend_pid() and locktype = 'relation' and mode = 'ShareLock' and granted`

// primary locks tables.
func (f *freezing) primary(ctx context.Context) error {
	var lockers []*pgx.Conn
	defer func() {
		for _, c := range lockers {
			hangUp(c)
		}
	}()
	for _, r := range f.readers {
		c, err := connect(ctx, f.dial, r.database)
		if err != nil {
			return err
		}
		lockers = append(lockers, c)
	}
	hctx, cancel := context.WithTimeoutCause(ctx, f.hold, ErrBusy)
	defer cancel()
	err := f.locked(hctx, lockers)
	for _, c := range lockers {
		hangUp(c)
	}
	if err != nil {
		return cause(hctx, err)
	}
	return run(ctx, f.control, "select pg_create_restore_point('understudy digest')")
}

// locked locks, reads the position and takes the snapshots.
func (f *freezing) locked(ctx context.Context, lockers []*pgx.Conn) error {
	// No name of a table can end the body: nobody knows this tag.
	tag := fmt.Sprintf("$u%x$", rand.Uint64())
	for i, r := range f.readers {
		var names []string
		for _, t := range r.tables {
			names = append(names, literal(t.name))
		}
		rows, err := ask(ctx, lockers[i], fmt.Sprintf(lockSQL, f.hold.Milliseconds(), strings.Join(names, ","), tag))
		if err != nil {
			return err
		}
		r.tables = slices.DeleteFunc(r.tables, func(t table) bool {
			busy := !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == fmt.Sprint(t.oid) })
			if busy {
				f.s.Left = append(f.s.Left, Left{Database: r.database, Table: t.name, Why: "it was being written to, or cannot be locked"})
			}
			return busy
		})
	}
	rows, err := ask(ctx, f.control, "select pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	if f.s.LSN, err = pos.ParseLSN(rows[0][0]); err != nil {
		return err
	}
	f.s.At = time.Now()
	return f.begin(ctx)
}

// literal quotes a string for SQL, whatever standard_conforming_strings is.
func literal(s string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}
