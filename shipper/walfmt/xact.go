package walfmt

import (
	"bytes"
	"time"
)

// More kinds of a transaction's records.
const (
	xactPrepare    = 0x10
	xactAssignment = 0x50
)

// Subxacts are the subtransactions that a commit, an abort or a prepare record
// carries along with its transaction: those that were not rolled back before.
// Nil for any other record.
func (r Record) Subxacts() []uint32 {
	if p, ok := r.Prepare(); ok {
		return p.Subxacts
	}
	return numbers(r.xactList(xactHasSubxacts))
}

// Dropped are the relations whose files go with a commit: dropped ones, and the
// old files of truncated and rewritten ones, each index and TOAST table by
// itself. With an abort they are those that the transaction had made. Nil for
// any other record.
func (r Record) Dropped() []RelFile {
	b := r.xactList(xactHasRelations)
	var out []RelFile
	for ; len(b) >= relationSize; b = b[relationSize:] {
		out = append(out, relFile(b))
	}
	return out
}

// xactList is one of the first two lists of a commit or abort record, or nil.
func (r Record) xactList(want uint32) []byte {
	if _, ok := r.Commit(); !ok || r.Info&xactHasInfo == 0 {
		return nil
	}
	b, ok := r.mainData()
	if !ok || len(b) < 12 {
		return nil
	}
	has := le.Uint32(b[8:])
	b = b[12:]
	if has&xactHasDatabase != 0 {
		b = b[min(len(b), databaseSize):]
	}
	for _, list := range []struct {
		bit  uint32
		item int
	}{{xactHasSubxacts, subxactSize}, {xactHasRelations, relationSize}} {
		if has&list.bit == 0 {
			continue
		}
		if len(b) < 4 {
			return nil
		}
		size := uint64(le.Uint32(b)) * uint64(list.item)
		if b = b[4:]; size > uint64(len(b)) {
			return nil
		}
		if list.bit == want {
			return b[:size]
		}
		b = b[size:]
	}
	return nil
}

// numbers reads a list of transactions.
func numbers(b []byte) []uint32 {
	var out []uint32
	for ; len(b) >= subxactSize; b = b[subxactSize:] {
		out = append(out, le.Uint32(b))
	}
	return out
}

// Assignment tells to which transaction subtransactions belong.
type Assignment struct {
	Top      uint32
	Subxacts []uint32
}

// Assignment reads the record that PostgreSQL writes for every 64
// subtransactions of one transaction; false for any other record.
func (r Record) Assignment() (Assignment, bool) {
	if r.RMgr != rmgrXact || r.Info&xactKind != xactAssignment {
		return Assignment{}, false
	}
	b, ok := r.mainData()
	if !ok || len(b) < 8 {
		return Assignment{}, false
	}
	subs := b[8:]
	if uint64(le.Uint32(b[4:]))*subxactSize > uint64(len(subs)) {
		return Assignment{}, false
	}
	return Assignment{Top: le.Uint32(b), Subxacts: numbers(subs[:le.Uint32(b[4:])*subxactSize])}, true
}

// Prepare is the first half of a two-phase commit: the transaction is durable
// but its outcome is not decided.
type Prepare struct {
	XID      uint32
	GID      string    // the name it was prepared under
	Time     time.Time // when, by the server's clock, UTC
	Subxacts []uint32
}

// Prepare reads a PREPARE TRANSACTION record; false for any other record.
func (r Record) Prepare() (Prepare, bool) {
	if r.RMgr != rmgrXact || r.Info&xactKind != xactPrepare {
		return Prepare{}, false
	}
	// The header ends with: flag 1, padding 1, length of the name 2, position 8,
	// time 8. The counts before it are two more since dropped statistics are
	// counted.
	lenAt, size := 46, 64
	if versionOfMajor(r.major).statsItem > 0 {
		lenAt, size = 54, 72
	}
	b, ok := r.mainData()
	if !ok || len(b) < size {
		return Prepare{}, false
	}
	p := Prepare{XID: le.Uint32(b[8:]), Time: pgTime(b[16:])}
	gid, subs := int(le.Uint16(b[lenAt:])), uint64(le.Uint32(b[28:]))*subxactSize
	after := size + int(alignUp(uint32(gid)))
	if after > len(b) || subs > uint64(len(b)-after) {
		return Prepare{}, false
	}
	name, _, _ := bytes.Cut(b[size:size+gid], []byte{0})
	p.GID, p.Subxacts = string(name), numbers(b[after:uint64(after)+subs])
	return p, true
}
