package archive

import (
	"errors"
	"slices"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Status is how far a location has come.
type Status struct {
	Name string
	// Known is false until the location was looked at along the present
	// lineage; the positions say nothing before.
	Known bool
	// Archived is the end of what is stored without a gap since From, except
	// for Missing. It falls only when the log goes on from an earlier place on
	// a new timeline.
	Archived pos.LSN
	// Whole is the end of the whole segments among that: what a source may
	// forget, since a partial segment is stored anew from its start.
	Whole    pos.LSN
	Timeline pos.Timeline // at Archived
	Backlog  uint64       // committed bytes that are not stored
	// Err is why nothing goes on, nil when all is well; Since is since when.
	Err   error
	Since time.Time
	// Closed is until when the location's time window is closed; zero while it
	// is open.
	Closed  time.Time
	Rate    float64       // bytes of log per second
	Missing []catalog.Gap // what the source no longer had
}

// done tells whether nothing is left to do for a piece.
func (s *standing) done(p piece) bool {
	if _, ok := s.have[p.tli].at(p.start); ok && p.kind != open {
		return true
	}
	if _, ok := s.gone[p.tli].at(p.start); ok {
		return true
	}
	return p.kind == left && s.leftDone[p]
}

// skip is the end of the whole segments from at on that are there and within
// one timeline.
func (s *standing) skip(at pos.LSN, segSize int64) (pos.LSN, bool) {
	t := s.path.Holder(at, segSize)
	r, ok := s.have[t].at(at)
	if !ok {
		return 0, false
	}
	for _, l := range s.path {
		if l.Start > at { // the segment of the next fork has pieces of its own
			r.To = min(r.To, l.Start.SegStart(segSize))
		}
	}
	return r.To, r.To > at
}

// advance moves over what is done.
func (f *Feeder) advance(committed pos.LSN) {
	for s := f.st; s.next+pos.LSN(f.cfg.SegSize) <= committed; {
		if end, ok := s.skip(s.next, f.cfg.SegSize); ok {
			s.next, s.openEnd = min(end, committed.SegStart(f.cfg.SegSize)), 0
			continue
		}
		for _, p := range s.path.pieces(s.next, committed, f.cfg.SegSize) {
			if !s.done(p) {
				return
			}
		}
		s.next, s.openEnd = s.next+pos.LSN(f.cfg.SegSize), 0
	}
}

// report makes the status of what was found.
func (f *Feeder) report(committed pos.LSN, known bool) {
	if known {
		f.advance(committed)
	}
	archived := max(f.st.next, f.st.openEnd)
	for _, p := range f.st.path.pieces(f.st.next, committed, f.cfg.SegSize) {
		if p.kind == left && f.st.done(p) { // the end of a timeline nobody wrote on from yet
			archived = max(archived, p.end)
		}
	}
	now := time.Now()
	f.publish(func(s *Status) {
		s.Known, s.Archived, s.Whole, s.Closed = true, archived, f.st.next, time.Time{}
		s.Timeline = f.st.lin.TimelineAt(max(archived, 1) - 1)
		s.Backlog = committed.Sub(archived)
		s.Rate = f.rate.PerSecond(now)
		s.Missing = slices.Clone(f.st.missing)
	})
}

// publish changes the status and tells who waits for it.
func (f *Feeder) publish(change func(*Status)) {
	f.mu.Lock()
	before := f.status
	change(&f.status)
	s := f.status
	same := s.Known == before.Known && s.Archived == before.Archived && s.Whole == before.Whole && s.Backlog == before.Backlog &&
		errors.Is(s.Err, before.Err) && s.Closed.Equal(before.Closed) && len(s.Missing) == len(before.Missing)
	if !same {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	f.mu.Unlock()
	if !same {
		s.Missing = slices.Clone(s.Missing)
		f.cfg.OnProgress(s)
	}
}
