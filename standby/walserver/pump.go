package walserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"understudy/shipper/pos"
)

const (
	maxData  = 128 << 10 // WAL in one message, as a walsender's
	pageSize = 8 << 10
	dataHead = 30 // CopyData header, kind, start, end, time
)

// pgEpoch is PostgreSQL's zero time, in microseconds since 1970.
const pgEpoch = 946684800_000000

func putLSN(b []byte, l pos.LSN)    { binary.BigEndian.PutUint64(b, uint64(l)) }
func putTime(b []byte, t time.Time) { binary.BigEndian.PutUint64(b, uint64(t.UnixMicro()-pgEpoch)) }

// copyHeader makes b a CopyData message of the given kind.
func copyHeader(b []byte, kind byte) {
	b[0] = 'd'
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	b[5] = kind
}

// pump is what only the sending goroutine knows.
type pump struct {
	st       State
	changed  <-chan struct{}
	lineage  pos.Lineage // of the last state; empty before the first
	admitted bool        // the start was found good
	end      pos.LSN     // of the log, as last heard
	buf      []byte

	// One context per state: it ends when the state changes, so that a wait
	// for the log does too.
	waitCtx  context.Context
	stopWait context.CancelFunc
	waiters  sync.WaitGroup
}

// pumpWAL sends until the timeline ends (nil), the session does, or the stream
// no longer fits the state.
func (ss *session) pumpWAL(ctx context.Context) error {
	p := &ss.pump
	p.buf = make([]byte, dataHead+maxData)
	defer p.waiters.Wait()
	defer p.dropWait()
	if err := ss.refresh(); err != nil {
		return err
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if isClosed(p.changed) {
			if err := ss.refresh(); err != nil {
				return err
			}
		}
		sent, tliEnd := pos.LSN(ss.sent.Load()), pos.LSN(ss.tliEnd.Load())
		stop := p.end
		if p.st.Limit != 0 {
			stop = min(stop, p.st.Limit)
		}
		if tliEnd != 0 {
			stop = min(stop, tliEnd)
		}
		var err error
		switch {
		case p.st.Held:
			p.awaitChange(ctx)
		case tliEnd != 0 && sent >= tliEnd:
			return ss.endCopy()
		case sent < stop:
			err = ss.sendData(sent, stop)
		case p.st.Limit != 0 && sent >= p.st.Limit:
			p.awaitChange(ctx)
		default:
			err = ss.awaitLog(ctx, sent)
		}
		if err != nil {
			return err
		}
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// refresh takes the newest state and checks that the stream still fits it.
func (ss *session) refresh() error {
	p := &ss.pump
	p.dropWait()
	st, changed := ss.c.s.cfg.State()
	p.st, p.changed = st, changed
	p.end = ss.c.s.cfg.WAL.End()
	if st.Refuse != "" {
		return refuse("57P03", st.Refuse, "")
	}
	if len(p.lineage) > 0 && !slices.Equal(p.lineage, st.Lineage) {
		have := pos.LSN(max(ss.sent.Load(), ss.top.Load()))
		if fork, _ := p.lineage.Fork(st.Lineage); have > fork {
			return refuse("XX000", fmt.Sprintf("the group's history changed at %s, this stream has gone to %s", fork, have), "")
		}
	}
	p.lineage = st.Lineage
	if !p.admitted && !st.Held {
		if err := admit(st, ss.c.s.cfg.WAL, ss.start, ss.tli); err != nil {
			return err
		}
		p.admitted = true
	}
	end, _, known := timelineEnd(st.Lineage, ss.tli)
	if p.admitted && !known {
		return refuse("XX000", fmt.Sprintf("timeline %d has left the group's history", ss.tli), "")
	}
	ss.tliEnd.Store(uint64(end))
	if err := ss.pastFork(); err != nil {
		return err
	}
	ss.seen.Store(&view{changed: changed, lineage: st.Lineage, held: st.Held || !p.admitted})
	return nil
}

// pastFork refuses a standby that has WAL of its timeline from beyond the
// place where the lineage left it: it has diverged.
func (ss *session) pastFork() error {
	end, top := pos.LSN(ss.tliEnd.Load()), pos.LSN(ss.top.Load())
	if end == 0 || top <= end {
		return nil
	}
	return refuse("XX000", fmt.Sprintf("the standby has gone to %s on timeline %d", top, ss.tli),
		fmt.Sprintf("This server's history forked from timeline %d at %s.", ss.tli, end))
}

func (p *pump) awaitChange(ctx context.Context) {
	select {
	case <-p.changed:
	case <-ctx.Done():
	}
}

// awaitLog waits until the log grows beyond past, or the state changes.
func (ss *session) awaitLog(ctx context.Context, past pos.LSN) error {
	p := &ss.pump
	if p.waitCtx == nil {
		p.waitCtx, p.stopWait = context.WithCancel(ctx)
		wctx, stop, changed := p.waitCtx, p.stopWait, p.changed
		p.waiters.Go(func() {
			defer stop()
			select {
			case <-changed:
			case <-wctx.Done():
			}
		})
	}
	end, err := ss.c.s.cfg.WAL.Wait(p.waitCtx, past)
	switch {
	case err == nil:
		p.end = end
	case p.waitCtx.Err() == nil:
		return fmt.Errorf("wait for WAL after %s: %w", past, err)
	}
	return nil
}

func (p *pump) dropWait() {
	if p.stopWait != nil {
		p.stopWait()
	}
	p.waitCtx, p.stopWait = nil, nil
}

// sendData sends one message of the WAL [sent, stop), cut at a page boundary
// when it is too much for one, as a walsender does.
func (ss *session) sendData(sent, stop pos.LSN) error {
	p, log := &ss.pump, ss.c.s.cfg.WAL
	upTo := stop
	if stop-sent > maxData {
		upTo = (sent + maxData) / pageSize * pageSize
	}
	n, err := log.ReadWAL(p.buf[dataHead:dataHead+int(upTo-sent)], sent)
	if isClosed(p.changed) {
		return nil // the bytes may be of another lineage: look again
	}
	if n <= 0 || n > int(upTo-sent) {
		if base := log.Base(); sent < base {
			return refuse("58P01", fmt.Sprintf("requested WAL at %s has already been removed, the oldest is %s", sent, base), "")
		}
		if err == nil {
			err = errors.New("log gave no bytes")
		}
		return fmt.Errorf("read WAL at %s: %w", sent, err)
	}
	b := p.buf[:dataHead+n]
	copyHeader(b, 'w')
	putLSN(b[6:], sent)
	putLSN(b[14:], stop)
	putTime(b[22:], time.Now())
	ss.write.Lock()
	defer ss.write.Unlock()
	if ss.copyDone {
		return nil
	}
	// Before the write, since the report of its flush may be read before the
	// write returns.
	ss.sent.Store(uint64(sent) + uint64(n))
	if err := ss.c.send(b); err != nil {
		return fmt.Errorf("send WAL at %s: %w", sent, err)
	}
	return nil
}
