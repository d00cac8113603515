package walfmt

import (
	"time"

	"understudy/shipper/pos"
)

// Kinds of records, in the high half of Info; the low half is the writer's.
const (
	infoKind = 0xF0

	xlogCheckpointShutdown  = 0x00
	xlogCheckpointOnline    = 0x10
	xlogSwitch              = 0x40
	xlogEndOfRecovery       = 0x90
	xlogOverwriteContrecord = 0xD0

	xactKind           = 0x70
	xactCommit         = 0x00
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactHasInfo        = 0x80
)

// What a commit or abort record holds after its time, by bits of its info
// word, in the order of the record.
const (
	xactHasDatabase     = 1 << 0
	xactHasSubxacts     = 1 << 1
	xactHasRelations    = 1 << 2
	xactHasDroppedStats = 1 << 8
	xactHasInvals       = 1 << 3
	xactHasTwoPhase     = 1 << 4
)

// Sizes, in bytes, of what a commit or abort record counts.
const (
	databaseSize = 8
	subxactSize  = 4
	relationSize = 12
	invalSize    = 16
)

// Identifiers of the parts of a record's body before its data.
const (
	partTopXID    = 252
	partOrigin    = 253
	partDataLong  = 254
	partDataShort = 255
)

// Commit is the end of a transaction.
type Commit struct {
	XID      uint32    // the transaction; of a prepared one, that which was prepared
	Time     time.Time // when it ended by the server's clock, UTC
	Prepared bool      // COMMIT PREPARED or ROLLBACK PREPARED
	Aborted  bool      // a rollback
}

// Commit reads a commit or abort record; false for any other record.
func (r Record) Commit() (Commit, bool) {
	if r.RMgr != rmgrXact {
		return Commit{}, false
	}
	c := Commit{XID: r.XID}
	switch r.Info & xactKind {
	case xactCommit:
	case xactAbort:
		c.Aborted = true
	case xactCommitPrepared:
		c.Prepared = true
	case xactAbortPrepared:
		c.Prepared, c.Aborted = true, true
	default:
		return Commit{}, false
	}
	b, ok := r.mainData()
	if !ok || len(b) < 8 {
		return Commit{}, false
	}
	c.Time = pgTime(b)
	if c.Prepared {
		if r.Info&xactHasInfo == 0 {
			return Commit{}, false
		}
		if c.XID, ok = preparedXID(b[8:], versionOfMajor(r.major)); !ok {
			return Commit{}, false
		}
	}
	return c, true
}

// preparedXID finds the transaction that was prepared in what follows the time
// of a commit or abort record.
func preparedXID(b []byte, v version) (uint32, bool) {
	if len(b) < 4 {
		return 0, false
	}
	has := le.Uint32(b)
	b = b[4:]
	if has&xactHasTwoPhase == 0 {
		return 0, false
	}
	if has&xactHasDatabase != 0 {
		if len(b) < databaseSize {
			return 0, false
		}
		b = b[databaseSize:]
	}
	for _, list := range []struct {
		bit  uint32
		item int
	}{
		{xactHasSubxacts, subxactSize},
		{xactHasRelations, relationSize},
		{xactHasDroppedStats, v.statsItem},
		{xactHasInvals, invalSize},
	} {
		if has&list.bit == 0 {
			continue
		}
		if len(b) < 4 {
			return 0, false
		}
		skip := 4 + uint64(le.Uint32(b))*uint64(list.item)
		if skip > uint64(len(b)) {
			return 0, false
		}
		b = b[skip:]
	}
	if len(b) < 4 {
		return 0, false
	}
	return le.Uint32(b), true
}

// Checkpoint is a checkpoint record.
type Checkpoint struct {
	Redo         pos.LSN      // where recovery from this checkpoint begins
	Timeline     pos.Timeline // the timeline it is on
	PrevTimeline pos.Timeline // the one before, if this one began with it
	Shutdown     bool         // written by a clean stop, not during operation
}

// Checkpoint reads a checkpoint record; false for any other record.
func (r Record) Checkpoint() (Checkpoint, bool) {
	kind := r.Info & infoKind
	if r.RMgr != rmgrXLog || kind != xlogCheckpointShutdown && kind != xlogCheckpointOnline {
		return Checkpoint{}, false
	}
	b, ok := r.mainData()
	if !ok || len(b) < 16 {
		return Checkpoint{}, false
	}
	return Checkpoint{
		Redo:         pos.LSN(le.Uint64(b)),
		Timeline:     pos.Timeline(le.Uint32(b[8:])),
		PrevTimeline: pos.Timeline(le.Uint32(b[12:])),
		Shutdown:     kind == xlogCheckpointShutdown,
	}, true
}

// EndOfRecovery is the first record of a new timeline.
type EndOfRecovery struct {
	Time         time.Time // of the promotion, by the server's clock, UTC
	Timeline     pos.Timeline
	PrevTimeline pos.Timeline
}

// EndOfRecovery reads an end-of-recovery record; false for any other record.
// A promotion that ends with a checkpoint instead writes none.
func (r Record) EndOfRecovery() (EndOfRecovery, bool) {
	if r.RMgr != rmgrXLog || r.Info&infoKind != xlogEndOfRecovery {
		return EndOfRecovery{}, false
	}
	b, ok := r.mainData()
	if !ok || len(b) < 16 {
		return EndOfRecovery{}, false
	}
	return EndOfRecovery{
		Time:         pgTime(b),
		Timeline:     pos.Timeline(le.Uint32(b[8:])),
		PrevTimeline: pos.Timeline(le.Uint32(b[12:])),
	}, true
}

// OverwriteContrecord reads the record that PostgreSQL writes after a crash
// that cut a record off: the start of the record that is void. False for any
// other record.
func (r Record) OverwriteContrecord() (pos.LSN, bool) {
	if r.RMgr != rmgrXLog || r.Info&infoKind != xlogOverwriteContrecord {
		return 0, false
	}
	b, ok := r.mainData()
	if !ok || len(b) < 8 {
		return 0, false
	}
	return pos.LSN(le.Uint64(b)), true
}

// mainData is the record's own data, of a record that refers to no block; the
// records read here never do.
func (r Record) mainData() ([]byte, bool) {
	if len(r.Data) < recordHeaderSize {
		return nil, false
	}
	for b := r.Data[recordHeaderSize:]; len(b) >= 2; {
		switch b[0] {
		case partDataShort:
			return b[2:], int(b[1]) == len(b)-2
		case partDataLong:
			if len(b) < 5 {
				return nil, false
			}
			return b[5:], uint64(le.Uint32(b[1:])) == uint64(len(b)-5)
		case partOrigin:
			if len(b) < 3 {
				return nil, false
			}
			b = b[3:]
		case partTopXID:
			if len(b) < 5 {
				return nil, false
			}
			b = b[5:]
		default:
			return nil, false
		}
	}
	return nil, false
}

// pgTime reads microseconds since 2000-01-01 UTC.
func pgTime(b []byte) time.Time {
	const year2000 = 946684800 * 1_000_000
	return time.UnixMicro(int64(le.Uint64(b)) + year2000).UTC()
}
