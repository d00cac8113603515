package frame

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"understudy/shipper/pos"
)

// Sizes in bytes of the fixed payloads.
const (
	DataHeadSize = 64
	AckSize      = 97
	BeatSize     = 68
	BeatAckSize  = 36

	scratchSize = AckSize // the largest of them
)

// hasFeedback is the flag of an Ack whose Xmin, CatalogXmin and Feedback count.
const hasFeedback = 1 << 0

// DataHead stands before the WAL bytes of a Data frame.
type DataHead struct {
	// Epoch is the primaryship in which the frame is sent. A receiver that has
	// fenced a newer one refuses it.
	Epoch pos.Epoch
	// LSN is the position of the first byte.
	LSN pos.LSN
	// Committed is the highest position that a majority holds durably.
	Committed pos.LSN
	// Voters is the version of the voter set that Committed was counted by.
	Voters uint64
	// LineageEpoch is the epoch of the lineage entry that the bytes belong to.
	LineageEpoch pos.Epoch
	// FlushedAt is when the primary's receiver first saw PostgreSQL's flush
	// pointer at or beyond the end of this data, in Unix nanoseconds; zero for
	// data that is sent to catch up.
	FlushedAt int64
	// SourceEnd is the newest byte known on the primary.
	SourceEnd pos.LSN
}

// Ack tells how far a peer is.
type Ack struct {
	Epoch  pos.Epoch // the primaryship that the ack counts in
	Voters uint64    // version of the voter set the peer knows
	// Received, Durable and Applied are the ends of what has arrived, what has
	// been fsynced and what PostgreSQL has replayed. Only Durable counts
	// towards a majority.
	Received, Durable, Applied pos.LSN
	LineageEpoch               pos.Epoch // of the last lineage entry adopted durably
	Redo                       pos.LSN   // where crash recovery of the peer's PostgreSQL would begin
	// Xmin and CatalogXmin are full transaction ids, wraparound epoch<<32 | xid;
	// zero means none. They count only with HasFeedback.
	Xmin, CatalogXmin uint64
	HasFeedback       bool
	Feedback          int64 // when the standby gave its feedback, Unix nanoseconds
	FlushedAt         int64 // echo of the newest durable data's DataHead.FlushedAt
}

// Beat is the primary's heartbeat.
type Beat struct {
	Epoch                       pos.Epoch
	Seq                         uint64
	SentAt                      int64 // sender's monotonic clock in nanoseconds; meaningless elsewhere
	Committed, SourceEnd, Floor pos.LSN
	Voters                      uint64
	Test                        uint64 // number of the periodic test record
}

// BeatAck answers a Beat.
type BeatAck struct {
	Epoch  pos.Epoch
	Seq    uint64 // echo
	SentAt int64  // echo
	Test   uint64 // number of the newest test record seen
}

// encoder appends to a scratch buffer that is known to be large enough.
type encoder struct{ b []byte }

func (e *encoder) u64(v uint64)  { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) i64(v int64)   { e.u64(uint64(v)) }
func (e *encoder) lsn(v pos.LSN) { e.u64(uint64(v)) }
func (e *encoder) epoch(v pos.Epoch) {
	e.b = binary.LittleEndian.AppendUint32(e.b, v.Gen)
	e.u64(v.Num)
}

// decoder consumes a payload whose length has been checked.
type decoder struct{ b []byte }

func (d *decoder) u64() uint64 {
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}
func (d *decoder) i64() int64   { return int64(d.u64()) }
func (d *decoder) lsn() pos.LSN { return pos.LSN(d.u64()) }
func (d *decoder) epoch() pos.Epoch {
	gen := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return pos.Epoch{Gen: gen, Num: d.u64()}
}

func (h DataHead) encode(s *[scratchSize]byte) []byte {
	e := encoder{s[:0]}
	e.epoch(h.Epoch)
	e.epoch(h.LineageEpoch)
	e.lsn(h.LSN)
	e.lsn(h.Committed)
	e.lsn(h.SourceEnd)
	e.u64(h.Voters)
	e.i64(h.FlushedAt)
	return e.b
}

// DecodeData splits a Data payload into its head and the WAL bytes, which are
// part of payload. It refuses bytes that would run past the end of all LSNs.
func DecodeData(payload []byte) (DataHead, []byte, error) {
	if len(payload) < DataHeadSize {
		return DataHead{}, nil, sizeError(Data, payload)
	}
	d := decoder{payload}
	h := DataHead{Epoch: d.epoch(), LineageEpoch: d.epoch()}
	h.LSN, h.Committed, h.SourceEnd = d.lsn(), d.lsn(), d.lsn()
	h.Voters, h.FlushedAt = d.u64(), d.i64()
	if uint64(len(d.b)) > math.MaxUint64-uint64(h.LSN) {
		return DataHead{}, nil, fmt.Errorf("decode %s frame: %w: %d bytes at %s", Data, ErrPayload, len(d.b), h.LSN)
	}
	return h, d.b, nil
}

func (a Ack) encode(s *[scratchSize]byte) []byte {
	e := encoder{s[:0]}
	e.epoch(a.Epoch)
	e.epoch(a.LineageEpoch)
	e.u64(a.Voters)
	e.lsn(a.Received)
	e.lsn(a.Durable)
	e.lsn(a.Applied)
	e.lsn(a.Redo)
	e.u64(a.Xmin)
	e.u64(a.CatalogXmin)
	e.i64(a.Feedback)
	e.i64(a.FlushedAt)
	var flags byte
	if a.HasFeedback {
		flags |= hasFeedback
	}
	return append(e.b, flags)
}

// DecodeAck reads an AckFrame's payload.
func DecodeAck(payload []byte) (Ack, error) {
	if len(payload) != AckSize {
		return Ack{}, sizeError(AckFrame, payload)
	}
	d := decoder{payload}
	a := Ack{Epoch: d.epoch(), LineageEpoch: d.epoch(), Voters: d.u64()}
	a.Received, a.Durable, a.Applied, a.Redo = d.lsn(), d.lsn(), d.lsn(), d.lsn()
	a.Xmin, a.CatalogXmin = d.u64(), d.u64()
	a.Feedback, a.FlushedAt = d.i64(), d.i64()
	flags := d.b[0]
	if flags&^hasFeedback != 0 {
		return Ack{}, fmt.Errorf("decode %s frame: %w: unknown flags %#02x", AckFrame, ErrPayload, flags)
	}
	a.HasFeedback = flags&hasFeedback != 0
	return a, nil
}

func (b Beat) encode(s *[scratchSize]byte) []byte {
	e := encoder{s[:0]}
	e.epoch(b.Epoch)
	e.u64(b.Seq)
	e.i64(b.SentAt)
	e.lsn(b.Committed)
	e.lsn(b.SourceEnd)
	e.lsn(b.Floor)
	e.u64(b.Voters)
	e.u64(b.Test)
	return e.b
}

// DecodeBeat reads a BeatFrame's payload.
func DecodeBeat(payload []byte) (Beat, error) {
	if len(payload) != BeatSize {
		return Beat{}, sizeError(BeatFrame, payload)
	}
	d := decoder{payload}
	b := Beat{Epoch: d.epoch(), Seq: d.u64(), SentAt: d.i64()}
	b.Committed, b.SourceEnd, b.Floor = d.lsn(), d.lsn(), d.lsn()
	b.Voters, b.Test = d.u64(), d.u64()
	return b, nil
}

func (b BeatAck) encode(s *[scratchSize]byte) []byte {
	e := encoder{s[:0]}
	e.epoch(b.Epoch)
	e.u64(b.Seq)
	e.i64(b.SentAt)
	e.u64(b.Test)
	return e.b
}

// DecodeBeatAck reads a BeatAckFrame's payload.
func DecodeBeatAck(payload []byte) (BeatAck, error) {
	if len(payload) != BeatAckSize {
		return BeatAck{}, sizeError(BeatAckFrame, payload)
	}
	d := decoder{payload}
	return BeatAck{Epoch: d.epoch(), Seq: d.u64(), SentAt: d.i64(), Test: d.u64()}, nil
}

// DecodeJSON reads a payload that WriteJSON wrote into v. Unknown fields are
// passed over, so that a newer peer may say more.
func DecodeJSON(t Type, payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("decode %s frame: %w: %w", t, ErrPayload, err)
	}
	return nil
}

func sizeError(t Type, payload []byte) error {
	return fmt.Errorf("decode %s frame: %w: %d bytes", t, ErrPayload, len(payload))
}
