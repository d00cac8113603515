package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/failover"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/walfmt"
	"understudy/standby/tail"
)

func (p *plane) walDir() string { return filepath.Join(p.n.server.DataDir, "pg_wal") }

// along is the history to read a pg_wal by: a database that never was in a
// group has only its timeline.
func along(l pos.Lineage, t pos.Timeline) pos.Lineage {
	if len(l) == 0 {
		return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: t}}
	}
	return l
}

// OwnLog scans pg_wal from the redo point of c on and fsyncs what it read.
func (p *plane) OwnLog(c pgctl.Control, l pos.Lineage) (failover.OwnLog, error) {
	l = along(l, c.Timeline)
	src := spool.Dir(p.walDir(), c.SegSize, l)
	var own failover.OwnLog
	r := walfmt.NewReader(src, c.Redo, walfmt.Params{SegSize: c.SegSize, SystemID: c.SystemID, Major: p.n.server.Major})
	for {
		rec, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				src.Close()
				return own, err
			}
			break
		}
		ck, is := rec.Checkpoint()
		own.Shutdown = is && ck.Shutdown
	}
	end := r.End()
	own.End, own.RecordEnd = end.LogEnd, end.RecordEnd
	if own.RecordEnd <= c.Redo { // recovery begins at a record, always
		src.Close()
		return own, fmt.Errorf("%w: no record at %s in pg_wal (%s)", failover.ErrLogGone, c.Redo, end.Reason)
	}
	for at := c.Redo.SegStart(c.SegSize); at < own.End; at += pos.LSN(c.SegSize) {
		if err := p.syncSegment(at, c.SegSize, l); err != nil {
			src.Close()
			return own, err
		}
	}
	p.n.log.Info("scanned pg_wal", "from", c.Redo.String(), "end", own.End.String(), "last_record_end", own.RecordEnd.String(), "reason", end.Reason)
	oldest := &oldestLog{dir: p.walDir(), segSize: c.SegSize, timeline: l.Last().Timeline}
	p.setStopped(&shipper.Served{Lineage: l, Range: pos.Range{From: oldest.get(), To: own.End}, Log: src})
	return own, syncFile(p.walDir())
}

// syncSegment fsyncs the file, of whichever timeline, that holds a segment.
func (p *plane) syncSegment(at pos.LSN, segSize int64, l pos.Lineage) error {
	found := false
	for i := len(l) - 1; i >= 0; i-- {
		err := syncFile(filepath.Join(p.walDir(), pos.SegName(l[i].Timeline, at, segSize)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		found = found || err == nil
	}
	if !found {
		return fmt.Errorf("segment %s of pg_wal is gone", pos.SegName(l.TimelineAt(at), at, segSize))
	}
	return nil
}

// setStopped keeps the log of a stopped primary for nodes that need it.
func (p *plane) setStopped(s *shipper.Served) {
	p.mu.Lock()
	old := p.stopped
	p.stopped = s
	p.mu.Unlock()
	if old != nil {
		old.Log.(*spool.WALDir).Close()
	}
}

func (p *plane) stoppedLog() *shipper.Served {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n.agent.Returning() == "" {
		return nil
	}
	return p.stopped
}

// RecordEnd is the end of the last whole record of the received log that ends
// at or below upto.
func (p *plane) RecordEnd(from, upto pos.LSN) (pos.LSN, error) {
	return p.recordEnd(p.n.spool, from, upto)
}

// recordEnd is RecordEnd for any log.
func (p *plane) recordEnd(log spool.Source, from, upto pos.LSN) (pos.LSN, error) {
	m := p.n.spool.Meta()
	src := below{log, upto}
	r := walfmt.NewReader(src, from, walfmt.Params{SegSize: m.SegSize, SystemID: m.SystemID, Major: p.n.server.Major})
	for {
		if _, err := r.Next(); err != nil {
			if !errors.Is(err, io.EOF) {
				return 0, err
			}
			break
		}
	}
	end := r.End()
	if end.RecordEnd > upto {
		return upto, nil // the rounding of the last record's end
	}
	// What is left must be the beginning of one record.
	var head [4]byte
	if n, _ := src.ReadWAL(head[:], end.RecordEnd); n == len(head) {
		size := uint64(binary.LittleEndian.Uint32(head[:]))
		if left := upto.Sub(end.RecordEnd); size >= 24 && size+size/1024+64 < left {
			return 0, fmt.Errorf("%w at %s: %s", failover.ErrLogDamaged, end.RecordEnd, end.Reason)
		}
	}
	return end.RecordEnd, nil
}

// below is a log that ends at a byte.
type below struct {
	spool.Source
	end pos.LSN
}

func (b below) ReadWAL(p []byte, at pos.LSN) (int, error) {
	if at >= b.end {
		return 0, io.EOF
	}
	if left := b.end.Sub(at); left < uint64(len(p)) {
		n, err := b.Source.ReadWAL(p[:left], at)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return b.Source.ReadWAL(p, at)
}

// Copy appends a donor's log up to upto, durably.
func (p *plane) Copy(ctx context.Context, donor facts.Member, l pos.Lineage, upto pos.LSN, progress func()) error {
	sp := p.n.spool
	if len(l) == 0 {
		return errors.New("no common history to copy log of")
	}
	fence := sp.Fence()
	if err := sp.Adopt(l, fence); err != nil {
		return fmt.Errorf("adopt the history up to %s: %w", l.Last().Epoch, err)
	}
	// What the local standby has replayed is a record's end. What comes after it
	// is believed record by record, before it is made durable and reported.
	good := p.n.receiver.Snapshot().Applied
	told := time.Now()
	for sp.End() < upto {
		from := sp.End()
		if err := p.copySome(ctx, donor, l, upto, &good, func() {
			if time.Since(told) > time.Second {
				told = time.Now()
				progress()
			}
		}); err != nil {
			return err
		}
		if sp.End() == from {
			return fmt.Errorf("%s gives nothing beyond %s", donor.Name, from)
		}
	}
	_, err := sp.Sync()
	return err
}

func (p *plane) copySome(ctx context.Context, donor facts.Member, l pos.Lineage, upto pos.LSN, good *pos.LSN, more func()) error {
	n, sp := p.n, p.n.spool
	c, err := shipper.Dial(ctx, n.net, donor.Address, donor.Name, shipper.PurposeFetch)
	if err != nil {
		return err
	}
	defer c.Close()
	g := n.ledger.State().Group
	from := sp.End()
	crc, crcFrom, err := sp.TailCRC(from, shipper.CheckWindow)
	if err != nil {
		return err
	}
	_, err = shipper.Fetch(ctx, c, shipper.FetchAsk{
		Group: g.ID, Ledger: g.LedgerID, Node: n.cfg.Name, SystemID: g.SystemID, SegSize: g.SegSize,
		Lineage: l, From: from, To: upto, CRC: crc, CRCFrom: crcFrom,
	}, func(at pos.LSN, b []byte) error {
		src, end := piece{sp, at, b}, at+pos.LSN(len(b))
		if *good != 0 && *good >= sp.Base() && *good <= end {
			whole, err := p.recordEnd(src, *good, end)
			if err != nil {
				return fmt.Errorf("what %s gives: %w", donor.Name, err)
			}
			*good = min(whole, end)
		}
		err := extendAlong(sp, src, end)
		more()
		return err
	})
	if _, serr := sp.Sync(); serr != nil {
		return serr
	}
	return err
}

// piece is a log that goes on with bytes that were just received; what is
// before them is the spool's own, which both sides have compared.
type piece struct {
	before spool.Source
	at     pos.LSN
	b      []byte
}

func (s piece) ReadWAL(p []byte, at pos.LSN) (int, error) {
	n := 0
	for n < len(p) && at+pos.LSN(n) < s.at {
		from := at + pos.LSN(n)
		m, err := s.before.ReadWAL(p[n:min(uint64(len(p)), uint64(n)+s.at.Sub(from))], from)
		n += m
		if err != nil && (m == 0 || at+pos.LSN(n) < s.at) {
			return n, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	if off := (at + pos.LSN(n)).Sub(s.at); off < uint64(len(s.b)) {
		n += copy(p[n:], s.b[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Rebase makes the local pg_wal, from the segment of from on, this node's
// received log. What the spool held was of an earlier life as a standby, or is
// in pg_wal as well.
func (p *plane) Rebase(c pgctl.Control, l pos.Lineage, from, upto pos.LSN) error {
	sp := p.n.spool
	base := from.SegStart(c.SegSize)
	l = along(l, c.Timeline)
	if upto > base && sp.Meta().Base == 0 && !holdsSegment(p.walDir(), base, c.SegSize, l) {
		return fmt.Errorf("%w: pg_wal has no segment with %s", failover.ErrLogGone, base)
	}
	p.n.receiver.Cut() // it would go on where the log ended before
	if err := p.rebaseLineage(l); err != nil {
		return err
	}
	if sp.Meta().Base == 0 {
		if err := sp.Begin(c.SystemID, c.SegSize, base); err != nil {
			return err
		}
	} else if err := sp.Reset(base); err != nil {
		return err
	}
	src := spool.Dir(p.walDir(), c.SegSize, l)
	defer src.Close()
	if err := extendAlong(sp, src, upto); err != nil {
		return err
	}
	_, err := sp.Sync()
	p.setStopped(nil)
	return err
}

// holdsSegment tells whether a pg_wal has the segment that begins at a byte, of
// the timeline that a history has there, or of an ancestor that a fork copies.
func holdsSegment(dir string, at pos.LSN, segSize int64, l pos.Lineage) bool {
	for _, e := range l {
		if _, err := os.Stat(filepath.Join(dir, pos.SegName(e.Timeline, at, segSize))); err == nil {
			return true
		}
	}
	return false
}

// rebaseLineage makes the log's history the spool's, which is older: a primary
// adopts only what it writes itself. Newer entries than the spool's are adopted
// from the primary that ships.
func (p *plane) rebaseLineage(l pos.Lineage) error {
	sp := p.n.spool
	fence := sp.Fence()
	if fence.Less(l.Last().Epoch) {
		fence = l.Last().Epoch
	}
	if err := sp.Adopt(l, fence); err != nil && !errors.Is(err, spool.ErrPruned) {
		return err
	}
	return nil
}

// KeepTail keeps and decodes what pg_wal holds beyond fork.
func (p *plane) KeepTail(ctx context.Context, c pgctl.Control, l pos.Lineage, fork, end pos.LSN) (failover.Tail, error) {
	l = along(l, c.Timeline)
	src := spool.Dir(p.walDir(), c.SegSize, l)
	defer src.Close()
	e := l.At(end)
	rep, err := tail.Keep(ctx, tail.Config{
		Source: src, From: fork, To: end, SegSize: c.SegSize, SystemID: c.SystemID, Major: p.n.server.Major,
		Timeline: e.Timeline, Epoch: e.Epoch, Dir: filepath.Join(p.n.cfg.StateDir, "tails"),
	})
	if errors.Is(err, tail.ErrMissing) {
		err = fmt.Errorf("%w: %w", failover.ErrLogGone, err)
	}
	if err != nil {
		return failover.Tail{}, err
	}
	t := failover.Tail{Dir: rep.Path}
	for _, x := range rep.Transactions {
		if !x.Committed {
			continue
		}
		if len(t.Transactions) == facts.MaxClosingTransactions {
			t.More++
			continue
		}
		lost := facts.LostTransaction{XID: x.XID, End: x.End, Time: x.Time}
		for _, tb := range x.Tables[:min(len(x.Tables), 16)] {
			name := tb.Name
			if name == "" {
				name = fmt.Sprintf("%d/%d", tb.Database, tb.Relfilenode)
			}
			lost.Tables = append(lost.Tables, name)
		}
		t.Transactions = append(t.Transactions, lost)
	}
	t.More += rep.MoreCommitted
	return t, nil
}

// Renew gives this node's store up.
func (p *plane) Renew(why string) error {
	n := p.n
	if err := n.renew(renewal{Why: why, Joins: n.named.get()}); err != nil {
		return err
	}
	n.notify("store-given-up", facts.SeverityError, why+"; this node begins anew", p.Promised())
	n.later(errRenewKeep)
	return errors.New(why)
}

// DropWAL removes the segments of pg_wal from the one with from on. They come
// again through the log server, which gives a standby only what it may replay.
func (p *plane) DropWAL(segSize int64, from pos.LSN) error {
	entries, err := os.ReadDir(p.walDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, at, err := pos.ParseSegName(strings.TrimSuffix(e.Name(), ".partial"), segSize)
		if err != nil || at < from.SegStart(segSize) {
			continue
		}
		if err := os.Remove(filepath.Join(p.walDir(), e.Name())); err != nil {
			return err
		}
	}
	return syncFile(p.walDir())
}
