package tail

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// Bounds of a report.
const (
	maxTransactions = 10_000
	maxTables       = 1_000   // of one transaction
	maxAllTables    = 100_000 // of the committed transactions, and of the others
)

// decode reads the copy.
func (k *keeper) decode(ctx context.Context) (rep Report, err error) {
	src := &kept{cfg: k.cfg, dir: k.temp}
	defer func() { err = errors.Join(err, src.close()) }()
	start, err := k.start(src)
	if err != nil {
		return Report{}, err
	}
	d := decoder{open: map[uint32]*working{}, top: map[uint32]uint32{}}
	r := walfmt.NewReader(src, start, k.cfg.params())
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return Report{}, context.Cause(ctx)
		}
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Report{}, err
		}
		if rec.End > k.cfg.From {
			d.record(rec)
		}
	}
	end := r.End()
	rep = k.cfg.emptyReport()
	rep.Decoded = min(max(end.RecordEnd, k.cfg.From), k.cfg.To)
	if rep.Decoded < k.cfg.To {
		rep.Reason = end.Reason
		if rep.Partial, err = beginsRecord(src, rep.Decoded, k.cfg); err != nil {
			return Report{}, err
		}
	}
	d.finish()
	d.fill(&rep)
	return rep.Named(k.cfg.Resolve), nil
}

// start finds where records can be read: at the fork, which is a record
// boundary. Should it be none, then at the first record of its page, and should
// that have none, at the page's start, where the reader then says why.
func (k *keeper) start(src *kept) (pos.LSN, error) {
	whole, err := walfmt.HasWholeRecord(src, k.cfg.From, k.cfg.To, k.cfg.params())
	if whole {
		return k.cfg.From, nil
	}
	if err != nil && !errors.Is(err, walfmt.ErrNotBoundary) && !errors.Is(err, walfmt.ErrShort) {
		return 0, err
	}
	page := k.cfg.From - k.cfg.From%walfmt.PageSize
	if at, err := walfmt.FirstRecord(src, page, k.cfg.params()); err == nil {
		return at, nil
	}
	return page, nil
}

// beginsRecord tells whether something other than zeros begins at at, where no
// whole record does.
func beginsRecord(src *kept, at pos.LSN, cfg Config) (bool, error) {
	if at%walfmt.PageSize == 0 {
		at += 24 // the page's header
		if at%pos.LSN(cfg.SegSize) == 24 {
			at += 16
		}
	}
	if at >= cfg.To {
		return false, nil
	}
	b := make([]byte, min(8, cfg.To.Sub(at)))
	err := readFull(src, b, at)
	return slices.ContainsFunc(b, func(c byte) bool { return c != 0 }), err
}

// table names a table's file within the cluster.
type table struct{ database, relfilenode uint32 }

// working is a transaction, or a subtransaction, whose end was not met yet.
type working struct {
	prepared bool
	tables   map[table]*Table
}

func (w *working) table(f walfmt.RelFile) *Table {
	key := table{f.Database, f.Relfilenode}
	t := w.tables[key]
	if t == nil {
		t = &Table{Database: f.Database, Relfilenode: f.Relfilenode}
		w.tables[key] = t
	}
	return t
}

// decoder sorts the changes in a log to the transactions that made them.
type decoder struct {
	open map[uint32]*working
	// top has what is known early about subtransactions. Most become known by
	// the record that ends their transaction.
	top map[uint32]uint32
	// Each is bounded by itself, so that rolled back transactions do not crowd
	// out lost ones.
	committed, others listing
}

// listing is a bounded list of transactions.
type listing struct {
	items  []Transaction
	n      int // transactions, those beyond the bound counted
	tables int // in items
}

func (d *decoder) transaction(xid uint32) *working {
	w := d.open[xid]
	if w == nil {
		w = &working{tables: map[table]*Table{}}
		d.open[xid] = w
	}
	return w
}

func (d *decoder) record(r walfmt.Record) {
	if c, ok := r.Commit(); ok {
		if c.XID != 0 {
			d.end(r, c)
		}
		return
	}
	if p, ok := r.Prepare(); ok {
		d.merge(p.XID, p.Subxacts)
		d.transaction(p.XID).prepared = true
		return
	}
	if a, ok := r.Assignment(); ok {
		for _, sub := range a.Subxacts {
			d.top[sub] = a.Top
		}
		return
	}
	if r.XID == 0 {
		return // upkeep, of no transaction
	}
	w := d.transaction(r.XID)
	if top := r.TopXID(); top != 0 {
		d.top[r.XID] = top
	}
	if op, ok := r.HeapOp(); ok {
		w.change(op)
	} else if f, ok := r.FileTruncate(); ok && f.Blocks == 0 {
		w.table(f.Rel).Truncates++
	}
}

// change counts a change of rows. A TRUNCATE is counted by the files it drops.
func (w *working) change(op walfmt.HeapOp) {
	switch op.Kind {
	case walfmt.HeapInsert, walfmt.HeapMultiInsert:
		w.table(op.Rel).Inserts += uint64(op.Rows)
	case walfmt.HeapUpdate, walfmt.HeapHotUpdate:
		w.table(op.Rel).Updates += uint64(op.Rows)
	case walfmt.HeapDelete:
		w.table(op.Rel).Deletes += uint64(op.Rows)
	case walfmt.HeapRetract:
		if t := w.table(op.Rel); t.Inserts > 0 {
			t.Inserts--
		}
	}
}

// merge counts what subtransactions did to their transaction.
func (d *decoder) merge(xid uint32, subs []uint32) *working {
	w := d.transaction(xid)
	for _, sub := range subs {
		if from := d.open[sub]; from != nil && sub != xid {
			for _, t := range from.tables {
				to := w.table(walfmt.RelFile{Database: t.Database, Relfilenode: t.Relfilenode})
				to.Inserts += t.Inserts
				to.Updates += t.Updates
				to.Deletes += t.Deletes
				to.Truncates += t.Truncates
			}
			w.prepared = w.prepared || from.prepared
			delete(d.open, sub)
		}
		delete(d.top, sub)
	}
	return w
}

// end closes the transaction that c ends.
func (d *decoder) end(r walfmt.Record, c walfmt.Commit) {
	w := d.merge(c.XID, r.Subxacts())
	if !c.Aborted {
		for _, f := range r.Dropped() {
			w.table(f).Truncates++
		}
	}
	delete(d.open, c.XID)
	delete(d.top, c.XID)
	d.add(Transaction{XID: c.XID, Committed: !c.Aborted, End: r.End, Time: c.Time, Prepared: c.Prepared}, w)
}

// finish closes what the log does not end.
func (d *decoder) finish() {
	for sub, top := range d.top {
		if d.open[sub] != nil && top != sub {
			d.merge(top, []uint32{sub})
		}
	}
	for _, xid := range slices.Sorted(maps.Keys(d.open)) {
		d.add(Transaction{XID: xid, InFlight: true, Prepared: d.open[xid].prepared}, d.open[xid])
	}
}

func (d *decoder) add(t Transaction, w *working) {
	list := &d.others
	if t.Committed {
		list = &d.committed
	}
	if list.n++; list.n > maxTransactions {
		return
	}
	for _, table := range w.tables {
		if table.changes() > 0 { // not when every row was taken back
			t.Tables = append(t.Tables, *table)
		}
	}
	if room := min(maxTables, maxAllTables-list.tables); len(t.Tables) > room {
		slices.SortFunc(t.Tables, func(a, b Table) int { return cmp.Or(cmp.Compare(b.changes(), a.changes()), a.compare(b)) })
		t.MoreTables = len(t.Tables) - room
		t.Tables = slices.Clone(t.Tables[:room])
	}
	slices.SortFunc(t.Tables, Table.compare)
	list.tables += len(t.Tables)
	list.items = append(list.items, t)
}

// fill puts the transactions into the report: the committed ones first if there
// are too many.
func (d *decoder) fill(rep *Report) {
	committed, others := d.committed.items, d.others.items
	rep.Transactions = append(committed, others[:min(len(others), maxTransactions-len(committed))]...)
	rep.More = d.committed.n + d.others.n - len(rep.Transactions)
	rep.MoreCommitted = d.committed.n - len(committed)
	slices.SortFunc(rep.Transactions, func(a, b Transaction) int {
		if a.InFlight != b.InFlight {
			if a.InFlight {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.End, b.End), cmp.Compare(a.XID, b.XID))
	})
}
