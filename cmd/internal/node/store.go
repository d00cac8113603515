package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/configs"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/walfmt"
)

// takeLock makes sure that one daemon works on a node's files. The lock is the
// file with the daemon's process id, and ends with the process.
func takeLock(cfg *configs.Node) (*os.File, error) {
	path := filepath.Join(cfg.RunDir, "daemon.pid")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("take the daemon's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		return nil, fmt.Errorf("%s: run_dir %s is used by another daemon (process %s); stop it first", cfg.File(), cfg.RunDir, strings.TrimSpace(string(pid)))
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return f, nil
}

// The node's store is three things that live and die together: the spool with
// its fence, the Raft files, and the id that both carry. When one of them is
// missing the node has forgotten promises, and nothing that is left may speak
// for the old store: it is put aside and a new id begins.

func spoolDir(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "spool") }
func raftDir(cfg *configs.Node) string  { return filepath.Join(cfg.StateDir, "ledger") }
func idFile(cfg *configs.Node) string   { return filepath.Join(raftDir(cfg), "store") }

// renewFile asks the next start for a new store.
func renewFile(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "renew") }

// openStore opens the node's spool, or makes a new store when there is none or
// only part of one.
func openStore(cfg *configs.Node, group string, pgWAL string, log *slog.Logger) (*spool.Spool, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make state_dir: %w", err)
	}
	if r, err := readRenewal(cfg); err != nil {
		return nil, err
	} else if r != nil {
		return renewAs(cfg, group, *r, log)
	}
	if err := clearForReform(cfg); err != nil {
		return nil, fmt.Errorf("make room for a new ledger: %w", err)
	}
	id, idErr := os.ReadFile(idFile(cfg))
	sp, err := spool.Open(spool.Config{Dir: spoolDir(cfg), Log: log, Verify: verifyTail})
	switch {
	case err == nil && idErr == nil && strings.TrimSpace(string(id)) == sp.Store():
		if lostAcked(sp, pgWAL, log) {
			sp.Close()
			return renewStore(cfg, group, "the spool lost log that it had acknowledged", log)
		}
		return sp, nil
	case err == nil:
		sp.Close()
		return renewStore(cfg, group, "the ledger's files are missing or another store's", log)
	case errors.Is(err, spool.ErrNoStore) && errors.Is(idErr, os.ErrNotExist):
		return newStore(cfg, group, log)
	case errors.Is(err, spool.ErrNoStore):
		return renewStore(cfg, group, "the spool is missing", log)
	case errors.Is(err, spool.ErrCorrupt):
		return renewStore(cfg, group, err.Error(), log)
	}
	return nil, fmt.Errorf("open the spool: %w", err)
}

// renewAs carries out an order to begin with a new store. The order goes last,
// so that after a crash it is carried out again.
func renewAs(cfg *configs.Node, group string, r renewal, log *slog.Logger) (*spool.Spool, error) {
	sp, err := renewStore(cfg, group, r.Why, log)
	if err != nil {
		return nil, err
	}
	if r.Joins.Joined = false; r.Joins.ID != "" {
		err = writeName(identityPath(cfg), r.Joins)
	}
	if err == nil {
		err = os.Remove(renewFile(cfg))
	}
	if err != nil {
		sp.Close()
		return nil, err
	}
	return sp, nil
}

// renewStore puts what is left of a store aside and makes a new one.
func renewStore(cfg *configs.Node, group, why string, log *slog.Logger) (*spool.Spool, error) {
	aside := filepath.Join(cfg.StateDir, "lost-"+time.Now().UTC().Format("20060102T150405.000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return nil, fmt.Errorf("put the old store aside: %w", err)
	}
	for _, d := range []string{spoolDir(cfg), raftDir(cfg)} {
		if err := os.Rename(d, filepath.Join(aside, filepath.Base(d))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("put the old store aside: %w", err)
		}
	}
	log.Warn("this node begins with a new store and asks to be admitted anew", "why", why, "old_store", aside)
	return newStore(cfg, group, log)
}

func newStore(cfg *configs.Node, group string, log *slog.Logger) (*spool.Spool, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	id := hex.EncodeToString(b[:])
	sp, err := spool.Create(spool.Config{Dir: spoolDir(cfg), Log: log, Verify: verifyTail}, id, group)
	if err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	if err := os.MkdirAll(raftDir(cfg), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(idFile(cfg), []byte(id+"\n"), 0o600); err != nil {
		return nil, err
	}
	log.Info("made a new store", "store", id)
	return sp, nil
}

// verifyTail tells how far the bytes found beyond the last fsync are whole
// records that join what is before them.
func verifyTail(src spool.Source, from pos.LSN) (pos.LSN, error) {
	return validEnd(src, from, 0)
}

// validEnd is the end of whole records that begin in the page of from.
func validEnd(src spool.Source, from pos.LSN, segSize int64) (pos.LSN, error) {
	if segSize == 0 {
		id, err := identityAt(src, from)
		if err != nil {
			return from, err
		}
		segSize = id.SegSize
	}
	prm := walfmt.Params{SegSize: segSize}
	first, err := walfmt.FirstRecord(src, from.SegStart(segSize), prm)
	if err != nil || first > from {
		return from, err
	}
	end, err := walfmt.ExtendValid(src, first, prm)
	return max(end, from), err
}

// identityAt reads who the segment of lsn belongs to, trying every segment
// size that PostgreSQL has.
func identityAt(src spool.Source, lsn pos.LSN) (walfmt.Identity, error) {
	page := make([]byte, walfmt.PageSize)
	for size := int64(1 << 20); size <= 1<<30; size *= 2 {
		if n, err := src.ReadWAL(page, lsn.SegStart(size)); n < 64 || err != nil && n == 0 {
			continue
		}
		if id, err := walfmt.ParseLongHeader(page); err == nil && id.PageAddr == lsn.SegStart(size) {
			return id, nil
		}
	}
	return walfmt.Identity{}, errors.New("no segment header before the end of the log")
}

// holdsLog tells whether pg_wal has a segment of this log at or below its end.
func holdsLog(pgWAL string, m spool.Meta, end pos.LSN) bool {
	entries, err := os.ReadDir(pgWAL)
	if err != nil {
		return false
	}
	for _, e := range entries {
		tli, at, err := pos.ParseSegName(e.Name(), m.SegSize)
		if err == nil && at <= end && tli == m.Lineage.TimelineAt(at) {
			return true
		}
	}
	return false
}

// lostAcked takes what the local PostgreSQL flushed but the spool had not
// fsynced from pg_wal after a crash, and tells whether that was impossible
// although it may have been acknowledged.
func lostAcked(sp *spool.Spool, pgWAL string, log *slog.Logger) bool {
	m := sp.Meta()
	if m.Clean || !m.Fed || m.Base == 0 || pgWAL == "" {
		return false
	}
	src := spool.Dir(pgWAL, m.SegSize, m.Lineage)
	defer src.Close()
	end, err := validEnd(src, sp.End(), m.SegSize)
	if err != nil {
		log.Warn("the log in pg_wal does not join the spool", "spool_end", sp.End().String(), "error", err)
		return !holdsLog(pgWAL, m, sp.End()) // nothing there: what was acknowledged is gone
	}
	if end <= sp.End() {
		return false
	}
	if err := extendAlong(sp, src, end); err != nil {
		log.Warn("extend the spool from pg_wal", "error", err)
		return true
	}
	if _, err := sp.Sync(); err != nil {
		log.Warn("fsync the extended spool", "error", err)
		return true
	}
	log.Info("took the spool's missing tail from pg_wal", "end", end.String())
	return false
}

// extendAlong takes the bytes of src up to upto, one entry of the spool's
// lineage after the other.
func extendAlong(sp *spool.Spool, src spool.Source, upto pos.LSN) error {
	for sp.End() < upto {
		stop := upto
		for _, e := range sp.Lineage()[1:] {
			if e.Start > sp.End() && e.Start < stop {
				stop = e.Start
				break
			}
		}
		if err := sp.Extend(src, stop); err != nil {
			return err
		}
	}
	return nil
}
