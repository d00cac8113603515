package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
)

// Facts is what a running server says of itself.
type Facts struct {
	InRecovery bool
	Replay     pos.LSN // standby: end of the last replayed record
	Receive    pos.LSN // standby: flushed by the walreceiver since it started; zero when none ran
	Flush      pos.LSN // primary: end of flushed WAL; standby: the larger of Replay and Receive
	// Timeline is the one written by a primary, on a standby the one received,
	// or of the last restart point while nothing was received.
	Timeline  pos.Timeline
	Redo      pos.LSN // where a restart begins to replay
	OldestXID uint32  // of the last checkpoint
	Streaming bool    // standby: the walreceiver streams
	Paused    bool    // standby: replay is paused
}

const factsQuery = `select r,
 coalesce(pg_last_wal_replay_lsn()::text, '0/0'),
 coalesce(pg_last_wal_receive_lsn()::text, '0/0'),
 case when r then '0/0' else pg_current_wal_flush_lsn()::text end,
 case when r then coalesce((select received_tli from pg_stat_wal_receiver where received_tli > 0), c.timeline_id)::int8
   else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 end,
 c.redo_lsn::text, c.oldest_xid::text::int8,
 coalesce((select status = 'streaming' from pg_stat_wal_receiver), false),
 case when r then pg_is_wal_replay_paused() else false end
from pg_is_in_recovery() r, pg_control_checkpoint() c`

// Facts asks the running server.
func (s *Server) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	err := s.with(ctx, func(conn *pgx.Conn) error {
		var replay, receive, flush, redo string
		var tli, xid int64
		err := conn.QueryRow(ctx, factsQuery).Scan(&f.InRecovery, &replay, &receive, &flush, &tli, &redo, &xid, &f.Streaming, &f.Paused)
		if err != nil {
			return fmt.Errorf("ask the server for its position: %w", err)
		}
		f.Timeline, f.OldestXID = pos.Timeline(tli), uint32(xid)
		for _, p := range []struct {
			text string
			to   *pos.LSN
		}{{replay, &f.Replay}, {receive, &f.Receive}, {flush, &f.Flush}, {redo, &f.Redo}} {
			if *p.to, err = pos.ParseLSN(p.text); err != nil {
				return err
			}
		}
		return nil
	})
	if f.InRecovery {
		f.Flush = max(f.Replay, f.Receive)
	}
	return f, err
}

// Replayed is how far a standby has replayed, in whole records. It fails when
// the server is not in recovery, and is quicker than Facts.
func (s *Server) Replayed(ctx context.Context) (at pos.LSN, err error) {
	err = s.with(ctx, func(conn *pgx.Conn) error {
		text, err := ask(ctx, conn, "select case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn()::text, '0/0') else '' end")
		switch {
		case err != nil:
			return fmt.Errorf("ask how far was replayed: %w", err)
		case text == "":
			return errors.New("the server is not in recovery")
		}
		at, err = pos.ParseLSN(text)
		return err
	})
	return at, err
}

// CountsReceiver tells whether the walsender of that name is the synchronous
// one.
func (s *Server) CountsReceiver(ctx context.Context, name string) (state string, err error) {
	err = s.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select coalesce((select sync_state from pg_stat_replication
 where application_name = $1 and state = 'streaming' limit 1), '')`, name).Scan(&state)
	})
	if err != nil {
		return "", fmt.Errorf("ask whether the receiver %s counts: %w", name, err)
	}
	return state, nil
}

// StandbySettings are the settings of this server that a standby must match or
// exceed, by name.
func (s *Server) StandbySettings(ctx context.Context) (map[string]int, error) {
	out := make(map[string]int, len(standbyNames))
	err := s.with(ctx, func(conn *pgx.Conn) error {
		for _, n := range standbyNames {
			var v int
			if err := conn.QueryRow(ctx, "select current_setting($1)::int", n[1]).Scan(&v); err != nil {
				return fmt.Errorf("read setting %s: %w", n[1], err)
			}
			out[n[1]] = v
		}
		return nil
	})
	return out, err
}

// Checkpoint writes a checkpoint (a restart point on a standby) and waits for
// it.
func (s *Server) Checkpoint(ctx context.Context) error {
	return s.exec(ctx, "write checkpoint", "checkpoint")
}

func (s *Server) exec(ctx context.Context, what, sql string, args ...any) error {
	return s.with(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, sql, args...); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// EnsureSlot makes a physical replication slot that pins WAL from the last
// checkpoint on, unless it exists.
func (s *Server) EnsureSlot(ctx context.Context, name string) error {
	if err := slotName(name); err != nil {
		return err
	}
	// A crash on the way to a slot leaves one that holds nothing, for ever.
	err := s.exec(ctx, "drop slot "+name+", which holds no log", `select pg_drop_replication_slot(slot_name) from pg_replication_slots
where slot_name = $1 and restart_lsn is null and not active`, name)
	if err != nil {
		return err
	}
	return s.exec(ctx, "make slot "+name, `select pg_create_physical_replication_slot($1, true)
where not exists (select from pg_replication_slots where slot_name = $1::name)`, name)
}

// AdvanceSlot lets go of the WAL below lsn. A slot never moves back: a lower
// lsn changes nothing.
func (s *Server) AdvanceSlot(ctx context.Context, name string, lsn pos.LSN) error {
	if err := slotName(name); err != nil {
		return err
	}
	return s.with(ctx, func(conn *pgx.Conn) error {
		var ahead, empty bool
		err := conn.QueryRow(ctx, "select coalesce(restart_lsn < $2::text::pg_lsn, false), restart_lsn is null from pg_replication_slots where slot_name = $1", name, lsn.String()).Scan(&ahead, &empty)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("advance slot %s: it does not exist", name)
		}
		if err != nil {
			return fmt.Errorf("advance slot %s: %w", name, err)
		}
		if empty {
			return fmt.Errorf("advance slot %s: it holds no log", name)
		}
		if !ahead {
			return nil
		}
		if _, err := conn.Exec(ctx, "select pg_replication_slot_advance($1, $2::text::pg_lsn)", name, lsn.String()); err != nil {
			return fmt.Errorf("advance slot %s: %w", name, err)
		}
		return nil
	})
}

// DropSlot removes a slot if it exists.
func (s *Server) DropSlot(ctx context.Context, name string) error {
	if err := slotName(name); err != nil {
		return err
	}
	return s.exec(ctx, "drop slot "+name, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", name)
}

// KeepsSlots tells whether a standby of this version can keep logical slots
// like the primary's: those that are marked with failover, where
// sync_replication_slots and hot_standby_feedback are on.
func (in Install) KeepsSlots() bool { return in.Major >= 17 }

// DropOwnFailoverSlots removes from a standby the logical slots of its life as
// a primary that are marked with failover. Their names belong to the copies of
// the present primary's slots, which PostgreSQL refuses to make beside them. A
// standby has no others: such a slot cannot be made there.
func (s *Server) DropOwnFailoverSlots(ctx context.Context) error {
	if !s.KeepsSlots() {
		return nil
	}
	return s.exec(ctx, "drop logical slots of an earlier life", `select pg_drop_replication_slot(slot_name) from pg_replication_slots
where slot_type = 'logical' and failover and not synced and not active and pg_is_in_recovery()`)
}

func slotName(name string) error {
	if name == "" || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return fmt.Errorf("slot name %q: only lower-case letters, digits and '_' are possible", name)
	}
	return nil
}
