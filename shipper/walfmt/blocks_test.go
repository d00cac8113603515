package walfmt_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"understudy/shipper/walfmt"
)

// bodyOf makes a record with this body in the log of a version and reads it
// back.
func bodyOf(t testing.TB, magic uint16, rmgr, info uint8, body []byte) walfmt.Record {
	t.Helper()
	w := newWriter(start)
	w.magic = magic
	w.add(7, rmgr, info, body)
	got, end := readAll(t, w, start, params())
	if len(got) != 1 {
		t.Fatalf("%d records, %+v", len(got), end)
	}
	return got[0]
}

// ints appends little-endian numbers: uint8, uint16, uint32 or bytes.
func ints(v ...any) []byte {
	var b []byte
	for _, v := range v {
		if s, ok := v.([]byte); ok {
			b = append(b, s...)
			continue
		}
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

var table = []byte{1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0} // tablespace 1, database 2, file 3

// Short names, for the tables below.
type (
	u8  = uint8
	u16 = uint16
	u32 = uint32
)

func TestRecord_Blocks(t *testing.T) {
	const (
		v14 = 0xD10D
		v15 = 0xD110
		v18 = 0xD118
	)
	zeros := func(n int) []byte { return make([]byte, n) }
	rel := walfmt.RelFile{Tablespace: 1, Database: 2, Relfilenode: 3}
	plain := ints(u8(0), u8(0), u16(0), table, u32(9))
	image := func(size, offset uint16, info uint8, hole ...uint16) []byte {
		b := ints(u8(0), u8(0x10), u16(0), size, offset, info)
		for _, h := range hole {
			b = ints(b, h)
		}
		return ints(b, table, u32(9), zeros(int(size)))
	}
	one := []walfmt.BlockRef{{RelFile: rel, Block: 9}}
	withImage := []walfmt.BlockRef{{RelFile: rel, Block: 9, Image: true}}

	for name, tt := range map[string]struct {
		magic uint16
		body  []byte
		want  []walfmt.BlockRef // nil with bad
		top   uint32
		bad   bool
	}{
		"Empty":          {magic: v15, body: nil},
		"MainOnly":       {magic: v15, body: ints(u8(255), u8(3), zeros(3))},
		"MainLong":       {magic: v15, body: ints(u8(254), u32(300), zeros(300))},
		"OriginAndTop":   {magic: v15, body: ints(u8(253), u16(5), u8(252), u32(77), u8(255), u8(1), zeros(1)), top: 77},
		"Block":          {magic: v15, body: plain, want: one},
		"BlockAndMain":   {magic: v15, body: ints(plain, u8(255), u8(2), zeros(2)), want: one},
		"BlockWithData":  {magic: v15, body: ints(u8(0), u8(0x20), u16(4), table, u32(9), u8(255), u8(2), zeros(6)), want: one},
		"SameRelation":   {magic: v15, body: ints(plain, u8(32), u8(0x82), u16(0), u32(10)), want: []walfmt.BlockRef{one[0], {ID: 32, RelFile: rel, Fork: walfmt.ForkVM, Block: 10}}},
		"WholeImage":     {magic: v15, body: image(8192, 0, 0x02), want: withImage},
		"ImageWithHole":  {magic: v15, body: image(8000, 24, 0x03), want: withImage},
		"Compressed":     {magic: v15, body: image(100, 0, 0x04), want: withImage},
		"CompressedHole": {magic: v18, body: image(100, 24, 0x11, 500), want: withImage},
		"Compressed14":   {magic: v14, body: image(100, 24, 0x03, 500), want: withImage},
		"Whole14":        {magic: v14, body: image(8192, 0, 0x04), want: withImage},
		// What is compressed in one version is damaged in the other.
		"Compressed14In15": {magic: v15, body: image(100, 0, 0x02), bad: true},
		"Compressed15In14": {magic: v14, body: image(100, 0, 0x08), bad: true},

		"UnknownPart":       {magic: v15, body: ints(u8(33), u8(0)), bad: true},
		"SameAsNone":        {magic: v15, body: ints(u8(0), u8(0x80), u16(0), u32(9)), bad: true},
		"OutOfOrder":        {magic: v15, body: ints(plain, plain), bad: true},
		"DataWithoutFlag":   {magic: v15, body: ints(u8(0), u8(0), u16(4), table, u32(9), zeros(4)), bad: true},
		"FlagWithoutData":   {magic: v15, body: ints(u8(0), u8(0x20), u16(0), table, u32(9)), bad: true},
		"HoleWithoutOffset": {magic: v15, body: image(8000, 0, 0x03), bad: true},
		"OffsetWithoutHole": {magic: v15, body: image(8192, 24, 0x02), bad: true},
		"ImageTooLarge":     {magic: v15, body: image(8193, 24, 0x03), bad: true},
		"CutHeader":         {magic: v15, body: plain[:19], bad: true},
		"CutMain":           {magic: v15, body: ints(u8(255), u8(3), zeros(2)), bad: true},
		"TooMuch":           {magic: v15, body: ints(u8(255), u8(3), zeros(4)), bad: true},
		"HugeMain":          {magic: v15, body: ints(u8(254), u32(0xFFFFFFFF), zeros(4)), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := bodyOf(t, tt.magic, 10, 0, tt.body)
			got, err := r.Blocks()
			if errors.Is(err, walfmt.ErrBody) != tt.bad || err != nil && !tt.bad || !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, %v", got, err)
			}
			if top := r.TopXID(); top != tt.top {
				t.Errorf("top transaction %d", top)
			}
		})
	}
}

func TestRecord_HeapOp(t *testing.T) {
	rel := walfmt.RelFile{Tablespace: 1, Database: 2, Relfilenode: 3}
	block := ints(u8(0), u8(0), u16(0), table, u32(9))
	main := func(v ...any) []byte {
		m := ints(v...)
		return ints(block, u8(255), u8(len(m)), m)
	}
	for name, tt := range map[string]struct {
		rmgr, info uint8
		body       []byte
		want       walfmt.HeapOp
	}{
		"Insert":        {10, 0x80, main(u16(1), u8(0)), walfmt.HeapOp{Kind: walfmt.HeapInsert, Rel: rel, Rows: 1}},
		"Update":        {10, 0x20, main(u32(1), u32(2)), walfmt.HeapOp{Kind: walfmt.HeapUpdate, Rel: rel, Rows: 1}},
		"HotUpdate":     {10, 0x40, main(u32(1), u32(2)), walfmt.HeapOp{Kind: walfmt.HeapHotUpdate, Rel: rel, Rows: 1}},
		"Delete":        {10, 0x10, main(u32(7), u16(1), u8(0), u8(0x16)), walfmt.HeapOp{Kind: walfmt.HeapDelete, Rel: rel, Rows: 1}},
		"Retract":       {10, 0x10, main(u32(7), u16(1), u8(0), u8(0x08)), walfmt.HeapOp{Kind: walfmt.HeapRetract, Rel: rel, Rows: 1}},
		"MultiInsert":   {9, 0xD0, main(u8(0), u8(0), u16(300)), walfmt.HeapOp{Kind: walfmt.HeapMultiInsert, Rel: rel, Rows: 300}},
		"Truncate":      {10, 0x30, ints(u8(255), u8(20), u32(2), u32(2), u32(0), u32(11), u32(12)), walfmt.HeapOp{Kind: walfmt.HeapTruncate, Rel: walfmt.RelFile{Database: 2}, Rows: 2}},
		"ShortDelete":   {10, 0x10, main(u32(7), u16(1), u8(0)), walfmt.HeapOp{}},
		"ShortMulti":    {9, 0x50, main(u8(0), u8(0), u8(0)), walfmt.HeapOp{}},
		"NoBlock":       {10, 0x00, ints(u8(255), u8(1), u8(0)), walfmt.HeapOp{}},
		"BadBody":       {10, 0x00, ints(u8(200)), walfmt.HeapOp{}},
		"Lock":          {10, 0x60, main(u32(1), u32(2)), walfmt.HeapOp{}},
		"Confirm":       {10, 0x50, main(u32(1), u32(2)), walfmt.HeapOp{}},
		"Prune":         {9, 0x10, main(u32(1), u32(2)), walfmt.HeapOp{}},
		"Index":         {11, 0x00, main(u32(1), u32(2)), walfmt.HeapOp{}},
		"ShortTruncate": {10, 0x30, ints(u8(255), u8(8), u32(2), u32(2)), walfmt.HeapOp{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := bodyOf(t, 0xD110, tt.rmgr, tt.info, tt.body).HeapOp()
			if got != tt.want || ok != (tt.want.Kind != 0) {
				t.Errorf("got %+v, %v", got, ok)
			}
		})
	}
}

func TestRecord_TransactionLists(t *testing.T) {
	at := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, magic := range []uint16{0xD10D, 0xD110, 0xD118} {
		statsItem := map[uint16]int{0xD10D: 0, 0xD110: 12, 0xD118: 16}[magic]
		r := bodyOf(t, magic, 1, 0xB0, commitBody(at, statsItem))
		if got := r.Subxacts(); !slices.Equal(got, []uint32{0, 0, 0}) {
			t.Errorf("magic %04X: subtransactions %v", magic, got)
		}
		if got := r.Dropped(); len(got) != 2 {
			t.Errorf("magic %04X: relations %v", magic, got)
		}

		micros := uint64(at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())
		p := ints(u32(0), u32(0), u32(11), u32(5), micros, u32(10), u32(2), u32(0), u32(0))
		if statsItem > 0 {
			p = ints(p, u32(0), u32(0))
		}
		p = ints(p, u32(0), u16(0), u16(5), uint64(0), uint64(0), []byte("name\x00\x00\x00\x00"), u32(12), u32(13))
		r = bodyOf(t, magic, 1, 0x10, ints(u8(255), u8(len(p)), p))
		got, ok := r.Prepare()
		if !ok || got.XID != 11 || got.GID != "name" || !got.Time.Equal(at) || !slices.Equal(got.Subxacts, []uint32{12, 13}) || !slices.Equal(r.Subxacts(), got.Subxacts) {
			t.Errorf("magic %04X: %+v, %v", magic, got, ok)
		}
		p = p[:len(p)-1]
		if got, ok := bodyOf(t, magic, 1, 0x10, ints(u8(255), u8(len(p)), p)).Prepare(); ok {
			t.Errorf("magic %04X: a cut record gives %+v", magic, got)
		}
	}
	a, ok := bodyOf(t, 0xD110, 1, 0x50, ints(u8(255), u8(16), u32(5), u32(2), u32(6), u32(7))).Assignment()
	if !ok || a.Top != 5 || !slices.Equal(a.Subxacts, []uint32{6, 7}) {
		t.Errorf("assignment %+v, %v", a, ok)
	}
	if a, ok := bodyOf(t, 0xD110, 1, 0x50, ints(u8(255), u8(16), u32(5), u32(0x40000002), u32(6), u32(7))).Assignment(); ok {
		t.Errorf("a wrong count gives %+v", a)
	}
	f, ok := bodyOf(t, 0xD110, 2, 0x20, ints(u8(255), u8(20), u32(4), table, u32(7))).FileTruncate()
	if want := (walfmt.FileTruncate{Rel: walfmt.RelFile{Tablespace: 1, Database: 2, Relfilenode: 3}, Blocks: 4}); !ok || f != want {
		t.Errorf("file truncation %+v, %v", f, ok)
	}
}

// FuzzRecord decodes any body, with a right checksum, as any kind of record of
// any version.
func FuzzRecord(f *testing.F) {
	magics := []uint16{0xD10D, 0xD110, 0xD113, 0xD116, 0xD118}
	block := ints(u8(0), u8(0), u16(0), table, u32(9))
	f.Add(uint8(10), uint8(0x10), uint8(1), ints(block, u8(255), u8(8), u32(7), u16(1), u8(0), u8(8)))
	f.Add(uint8(9), uint8(0x50), uint8(4), ints(block, u8(1), u8(0xA0), u16(2), u32(3), u8(255), u8(4), u16(0), u16(2), u16(0)))
	f.Add(uint8(10), uint8(0), uint8(0), ints(u8(0), u8(0x10), u16(0), u16(3), u16(24), u8(3), u16(80), table, u32(9), u8(1), u16(1)))
	f.Add(uint8(1), uint8(0xB0), uint8(1), commitBody(time.Unix(0, 0), 12))
	f.Add(uint8(1), uint8(0x10), uint8(1), ints(u8(255), u8(80), make([]byte, 80)))
	f.Add(uint8(1), uint8(0x50), uint8(1), ints(u8(252), u32(8), u8(255), u8(12), u32(5), u32(1), u32(6)))
	f.Add(uint8(2), uint8(0x20), uint8(1), ints(u8(255), u8(20), u32(4), table, u32(7)))
	f.Fuzz(func(t *testing.T, rmgr, info, version uint8, data []byte) {
		if len(data) > 3*page {
			return
		}
		r := bodyOf(t, magics[int(version)%len(magics)], rmgr%22, info, data)
		blocks, err := r.Blocks()
		if (err != nil) != errors.Is(err, walfmt.ErrBody) || err != nil && blocks != nil {
			t.Fatalf("%v, %v", blocks, err)
		}
		room := len(data)
		for i, b := range blocks {
			room -= 8 // the least that a reference takes
			if b.ID > 32 || b.Fork > 15 || i > 0 && b.ID <= blocks[i-1].ID || room < 0 {
				t.Fatalf("block %d of %+v", i, blocks)
			}
		}
		if op, ok := r.HeapOp(); ok && (err != nil || op.Kind != walfmt.HeapTruncate && op.Rel != blocks[0].RelFile) {
			t.Fatalf("%+v of %+v, %v", op, blocks, err)
		}
		if _, ok := r.FileTruncate(); ok && err != nil {
			t.Fatal(err)
		}
		// A transaction's records have no blocks and lists that fit in.
		lists := len(r.Subxacts())*4 + len(r.Dropped())*12
		if a, ok := r.Assignment(); ok {
			lists += len(a.Subxacts) * 4
		}
		if p, ok := r.Prepare(); ok {
			lists += len(p.GID)
		}
		if lists > len(data) {
			t.Fatalf("%d bytes of lists in %d", lists, len(data))
		}
		if _, ok := r.Commit(); ok && (err != nil || len(blocks) > 0) {
			t.Fatalf("a commit with the blocks %+v, %v", blocks, err)
		}
	})
}
