package sim

import (
	"sort"

	"understudy/shipper/pos"
)

// rec is one record of the log. Chain stands for its bytes and all before: two
// logs that hold the same chain are equal up to its end.
type rec struct {
	start, end  pos.LSN
	prev, chain uint64
	epoch       pos.Epoch // whose primary wrote it
	client      bool      // a client waits for it
}

// wal is a log from base to end; the last record may be cut off by end. Values
// share their records, which are never changed in place.
type wal struct {
	base, end pos.LSN
	recs      []rec
}

// whole is how many records end at or below x.
func (l wal) whole(x pos.LSN) int {
	return sort.Search(len(l.recs), func(i int) bool { return l.recs[i].end > x })
}

// recordEnd is the end of the last whole record at or below x.
func (l wal) recordEnd(x pos.LSN) pos.LSN {
	if n := l.whole(min(x, l.end)); n > 0 {
		return l.recs[n-1].end
	}
	return l.base
}

// cut is the log up to x, to be appended to independently.
func (l wal) cut(x pos.LSN) wal {
	if x >= l.end {
		return wal{l.base, l.end, l.recs[:len(l.recs):len(l.recs)]}
	}
	n := sort.Search(len(l.recs), func(i int) bool { return l.recs[i].start >= x })
	return wal{l.base, max(x, l.base), l.recs[:n:n]}
}

// cutRecords is the log up to the last whole record below x.
func (l wal) cutRecords(x pos.LSN) wal { return l.cut(l.recordEnd(x)) }

// piece is a stretch of log on its way.
type piece struct {
	from, to pos.LSN
	recs     []rec
}

func (l wal) slice(from, to pos.LSN) piece {
	lo := l.whole(from)
	hi := lo + sort.Search(len(l.recs)-lo, func(i int) bool { return l.recs[lo+i].start >= to })
	return piece{from, to, l.recs[lo:hi:hi]}
}

// join appends a piece that begins at the end; false when its bytes do not
// follow the log's.
func (l wal) join(p piece) (wal, bool) {
	recs := l.recs
	for _, r := range p.recs {
		if n := len(recs); n > 0 {
			last := recs[n-1]
			if last.start == r.start {
				if last.chain != r.chain {
					return l, false
				}
				continue
			}
			if last.chain != r.prev {
				return l, false
			}
		}
		recs = append(recs, r)
	}
	return wal{l.base, p.to, recs}, true
}

// holds tells whether the log has all of a record.
func (l wal) holds(r rec) bool {
	n := l.whole(r.end)
	return r.end <= l.end && n > 0 && l.recs[n-1].chain == r.chain
}

// common is up to where two logs hold the same whole records.
func (l wal) common(o wal) pos.LSN {
	n := min(l.whole(l.end), o.whole(o.end))
	k := sort.Search(n, func(i int) bool { return l.recs[i].chain != o.recs[i].chain })
	if k == 0 {
		return l.base
	}
	return l.recs[k-1].end
}

// mark stands for all bytes below x: the chain of the last whole record, and
// that of the one which x cuts off.
func (l wal) mark(x pos.LSN) [2]uint64 {
	var m [2]uint64
	n := l.whole(x)
	if n > 0 {
		m[0] = l.recs[n-1].chain
	} else if len(l.recs) > 0 {
		m[0] = l.recs[0].prev
	}
	if n < len(l.recs) && l.recs[n].start < x {
		m[1] = l.recs[n].chain
	}
	return m
}
