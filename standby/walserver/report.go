package walserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"understudy/shipper/pos"
)

// report is what the reading goroutine knows of the standby.
type report struct {
	Feedback
	seen  bool    // a position report came
	first pos.LSN // the flush position in it: where replay was, not what was flushed
}

// readReports takes the client's side of the COPY to its end: nil at its
// CopyDone.
func (ss *session) readReports(serving context.Context) error {
	for {
		ss.c.net.SetReadDeadline(time.Now().Add(clientQuiet))
		// The deadline that ends this read at once may have been overwritten.
		if serving.Err() != nil || ss.failed() {
			return context.Canceled
		}
		kind, body, err := ss.c.read()
		if err != nil {
			return fmt.Errorf("read report: %w", err)
		}
		switch kind {
		case 'd':
			if err := ss.copyData(body); err != nil {
				return err
			}
		case 'c':
			return nil
		case 'X':
			return errDone
		case 'f':
			return refuse("57014", "COPY was failed by the client", "")
		default:
			return refuse("08P01", fmt.Sprintf("unexpected message %q during streaming", kind), "")
		}
	}
}

// copyData takes one report.
func (ss *session) copyData(b []byte) error {
	r := &ss.report
	be := binary.BigEndian
	switch {
	case len(b) == 34 && b[0] == 'r':
		r.Written, r.Flushed, r.Applied = pos.LSN(be.Uint64(b[1:])), pos.LSN(be.Uint64(b[9:])), pos.LSN(be.Uint64(b[17:]))
		if !r.seen {
			r.seen, r.first = true, r.Flushed
		}
		ss.top.Store(max(ss.top.Load(), uint64(max(r.Written, r.Flushed, r.Applied))))
		if b[33] != 0 {
			select {
			case ss.ask <- struct{}{}:
			default:
			}
		}
	case len(b) == 25 && b[0] == 'h':
		r.HasFeedback = true
		r.Xmin, r.CatalogXmin = fullXid(be.Uint32(b[9:]), be.Uint32(b[13:])), fullXid(be.Uint32(b[17:]), be.Uint32(b[21:]))
	default:
		return refuse("08P01", fmt.Sprintf("unexpected standby message of %d bytes", len(b)), "")
	}
	if err := ss.pastFork(); err != nil {
		return err
	}
	if ss.c.s.cfg.OnFeedback == nil {
		return nil
	}
	r.Session, r.Timeline, r.Sent, r.At = ss.id, ss.tli, pos.LSN(ss.sent.Load()), time.Now()
	r.Counted, r.Entry = 0, pos.Entry{}
	if v := ss.seen.Load(); v != nil {
		r.Entry = v.lineage.Last()
		// A flush position above the first one was reached by an fsync of
		// what this session sent.
		if r.Flushed > r.first && ss.inForce(v) {
			r.Counted = min(r.Flushed, r.Sent)
		}
	}
	ss.c.s.cfg.OnFeedback(r.Feedback)
	return nil
}

// inForce tells whether v still describes the node: the pump may be busy with
// a write and not yet know that the log was cut below what it has sent.
func (ss *session) inForce(v *view) bool {
	if !isClosed(v.changed) {
		return !v.held
	}
	st, _ := ss.c.s.cfg.State()
	return !v.held && !st.Held && st.Refuse == "" && slices.Equal(v.lineage, st.Lineage)
}

func fullXid(xid, epoch uint32) uint64 {
	if xid == 0 {
		return 0
	}
	return uint64(epoch)<<32 | uint64(xid)
}
