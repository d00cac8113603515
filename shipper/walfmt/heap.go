package walfmt

// Resource managers of tables and of their files.
const (
	rmgrStorage = 2
	rmgrHeap2   = 9
	rmgrHeap    = 10
)

// Kinds of their records.
const (
	heapKind         = 0x70
	heapInsert       = 0x00
	heapDelete       = 0x10
	heapUpdate       = 0x20
	heapTruncate     = 0x30
	heapHotUpdate    = 0x40
	heap2MultiInsert = 0x50

	storageTruncate = 0x20

	// deleteSuper is the flag of a deletion that takes back an insertion.
	deleteSuper = 1 << 3
)

// HeapKind is what a record does to the rows of a table.
type HeapKind uint8

// Kinds of changes. PostgreSQL writes HeapTruncate with wal_level = logical
// only; at any level the table's old file is among those that the commit drops
// (Record.Dropped), or is emptied (Record.FileTruncate).
const (
	HeapInsert HeapKind = iota + 1
	HeapMultiInsert
	HeapUpdate
	HeapHotUpdate // an update whose new row is in no index
	HeapDelete
	// HeapRetract takes back a row that an INSERT … ON CONFLICT of the same
	// transaction had put in just before it met the conflict.
	HeapRetract
	HeapTruncate
)

// HeapOp is a change of a table's rows.
type HeapOp struct {
	Kind HeapKind
	// Rel is the table; for HeapTruncate only its database is known.
	Rel RelFile
	// Rows is how many rows it changes; for HeapTruncate how many tables.
	Rows uint32
}

// HeapOp reads a change of rows; false for any other record, such as row locks,
// and for upkeep of pages.
func (r Record) HeapOp() (HeapOp, bool) {
	kind, ok := r.heapOpKind()
	if !ok {
		return HeapOp{}, false
	}
	var room [4]BlockRef
	b, err := r.decode(room[:0])
	if err != nil {
		return HeapOp{}, false
	}
	op := HeapOp{Kind: kind, Rows: 1}
	if kind == HeapTruncate {
		if len(b.main) < 12 {
			return HeapOp{}, false
		}
		op.Rel.Database, op.Rows = le.Uint32(b.main), le.Uint32(b.main[4:])
		return op, true
	}
	if len(b.blocks) == 0 || b.blocks[0].Fork != ForkMain {
		return HeapOp{}, false
	}
	op.Rel = b.blocks[0].RelFile
	switch kind {
	case HeapMultiInsert:
		if len(b.main) < 4 {
			return HeapOp{}, false
		}
		op.Rows = uint32(le.Uint16(b.main[2:]))
	case HeapDelete:
		if len(b.main) < 8 {
			return HeapOp{}, false
		}
		if b.main[7]&deleteSuper != 0 {
			op.Kind = HeapRetract
		}
	}
	return op, true
}

func (r Record) heapOpKind() (HeapKind, bool) {
	kind := r.Info & heapKind
	switch r.RMgr {
	case rmgrHeap2:
		return HeapMultiInsert, kind == heap2MultiInsert
	case rmgrHeap:
		switch kind {
		case heapInsert:
			return HeapInsert, true
		case heapDelete:
			return HeapDelete, true
		case heapUpdate:
			return HeapUpdate, true
		case heapHotUpdate:
			return HeapHotUpdate, true
		case heapTruncate:
			return HeapTruncate, true
		}
	}
	return 0, false
}

// FileTruncate is a relation's file cut short: by vacuum, or to nothing by a
// TRUNCATE of a table that the same transaction made.
type FileTruncate struct {
	Rel    RelFile
	Blocks uint32 // that are left
}

// FileTruncate reads the record of a file cut short; false for any other.
func (r Record) FileTruncate() (FileTruncate, bool) {
	if r.RMgr != rmgrStorage || r.Info&infoKind != storageTruncate {
		return FileTruncate{}, false
	}
	b, err := r.decode(nil)
	if err != nil || len(b.main) < 16 {
		return FileTruncate{}, false
	}
	return FileTruncate{Rel: relFile(b.main[4:]), Blocks: le.Uint32(b.main)}, true
}

// relFile reads a relation's three numbers.
func relFile(b []byte) RelFile {
	return RelFile{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
}
