package rescue

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
	"understudy/standby/recover"
)

// A server that stops at its target says why, but neither where it stood nor
// what it had replayed last. The log in its pg_wal tells.

var (
	stopAtXID = regexp.MustCompile(`^recovery stopping (before|after) (?:commit|abort) (?:of transaction|prepared) ([0-9]+)`)
	stopAtLSN = regexp.MustCompile(`^recovery stopping (before|after) WAL location \(LSN\) "([0-9A-F]+/[0-9A-F]+)"`)
)

// stopPoint is the record at which a recovery stopped.
type stopPoint struct {
	before bool // that record was not replayed
	xid    uint32
	lsn    pos.LSN
}

// parseStop reads what a server said of its target; false where that names no
// record.
func parseStop(text string) (s stopPoint, ok bool) {
	if m := stopAtXID.FindStringSubmatch(text); m != nil {
		n, err := strconv.ParseUint(m[2], 10, 64)
		s.before, s.xid = m[1] == "before", uint32(n) // records have the low half
		return s, err == nil
	}
	if m := stopAtLSN.FindStringSubmatch(text); m != nil {
		l, err := pos.ParseLSN(m[2])
		s.before, s.lsn = m[1] == "before", l
		return s, err == nil
	}
	return s, false
}

// is tells whether a record is the one.
func (s stopPoint) is(rec walfmt.Record) bool {
	if s.lsn != 0 {
		return rec.LSN == s.lsn
	}
	c, ok := rec.Commit()
	return ok && c.XID == s.xid
}

// lookBack completes where a recovery stopped without opening: the end of the
// last record that was replayed, and the time of the last commit. What cannot
// be found stays as it is.
func (p *Plan) lookBack(r recover.Reached) recover.Reached {
	stop, named := parseStop(r.Stop)
	if !named && !strings.Contains(r.Stop, "reaching consistency") {
		return r
	}
	d := &dropped{dir: filepath.Join(p.DataDir, "pg_wal"), segSize: p.Steps.Server.SegSize, systemID: p.Steps.SystemID, major: p.Steps.Server.Major}
	src := &pathSource{dropped: d, path: p.holder}
	defer src.close()
	prm := walfmt.Params{SegSize: d.segSize, SystemID: d.systemID, Major: d.major}
	seg := pos.LSN(d.segSize)
	from := max(r.LSN, p.Steps.Start).SegStart(d.segSize)
	end, ok := max(r.LSN, p.Steps.End), true // that is where it is consistent
	if named {
		end, ok = stop.find(src, from, prm)
	}
	if !ok {
		return r
	}
	r.LSN = end
	for looked := 0; looked < maxLooked && from >= p.Steps.Start.SegStart(d.segSize); looked++ {
		if mark, _, ok := lastCommit(src, from, end, prm); ok {
			r.Time = mark.At
			break
		}
		if from < seg {
			break
		}
		from -= seg
	}
	return r
}

// find is the end of what was replayed, looked for from a segment on.
func (s stopPoint) find(src walfmt.Source, from pos.LSN, prm walfmt.Params) (pos.LSN, bool) {
	first, err := walfmt.FirstRecord(src, from, prm)
	if err != nil {
		return 0, false
	}
	for w := walfmt.NewReader(src, first, prm); ; {
		rec, err := w.Next()
		switch {
		case err != nil:
			return 0, false
		case s.is(rec) && s.before:
			return rec.LSN, true
		case s.is(rec):
			return rec.End, true
		}
	}
}

// holder is the timeline of the file that holds the segment at start.
func (p *Plan) holder(start pos.LSN) pos.Timeline {
	var t pos.Timeline
	for _, s := range p.choice.Path {
		if t == 0 || s.From < start+pos.LSN(p.Steps.Server.SegSize) {
			t = s.Timeline
		}
	}
	return t
}
