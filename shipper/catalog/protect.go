package catalog

import (
	"slices"
	"time"

	"understudy/shipper/pos"
)

// Protection is what every one of some locations has.
type Protection struct {
	// Sets can be restored from each location alone, oldest first.
	Sets []string `json:"sets"`
	// Places say how each location stands, in the order they were given.
	Places []Standing `json:"places"`
}

// Standing is how one location, or several together, stand on the newest
// timeline.
type Standing struct {
	Locations []string `json:"locations"`
	Sets      []string `json:"sets"` // that can be restored from them alone, oldest first
	// Whole tells that the log is there from a set up to UpTo without a gap,
	// and Since is the first moment from which on that is so.
	Whole bool         `json:"whole"`
	Since time.Time    `json:"since,omitzero"`
	From  pos.LSN      `json:"from,omitempty"`
	UpTo  pos.LSN      `json:"up_to,omitempty"` // end of the newest log of the timeline
	Last  time.Time    `json:"last,omitzero"`   // latest commit that is known to be there
	On    pos.Timeline `json:"timeline"`
	// Gap is what is missing before UpTo when it is not whole.
	Gap *Gap `json:"gap,omitempty"`
}

// Protected says which sets are in all of the locations, each with the log
// that it needs, and how far each location is complete. Sets of left timelines
// do not count.
func Protected(c Catalog, locations []string) Protection {
	p := Protection{}
	for i, name := range locations {
		s := c.Stand(name)
		p.Places = append(p.Places, s)
		if i == 0 {
			p.Sets = slices.Clone(s.Sets)
		}
		p.Sets = slices.DeleteFunc(p.Sets, func(l string) bool { return !slices.Contains(s.Sets, l) })
	}
	return p
}

// Stand says how some locations together stand on the newest timeline; none
// given are all.
func (c Catalog) Stand(locations ...string) Standing {
	s := Standing{Locations: locations, On: c.Newest()}
	v, err := look(c, 0, Options{Locations: locations})
	if err != nil {
		return s
	}
	for _, p := range v.pieces {
		s.UpTo = max(s.UpTo, p.to)
	}
	var last *usable
	for i, u := range v.sets {
		s.Sets = append(s.Sets, u.Label)
		last = &v.sets[i]
	}
	if last == nil {
		return s
	}
	s.From, s.Whole = last.End, last.reach == s.UpTo
	if !s.Whole {
		g := v.gapAt(last.reach, s.UpTo)
		s.Gap = &g
	}
	for _, iv := range v.intervals(v.sets) {
		if iv.ToLSN == last.reach {
			if s.Since.IsZero() || iv.From.Before(s.Since) {
				s.Since, s.From = iv.From, iv.FromLSN
			}
			s.Last = later(s.Last, iv.To)
		}
	}
	return s
}

// Rates are what a restore was seen to do. A zero field is a cautious guess.
type Rates struct {
	Restore float64 // raw bytes of a set per second
	Replay  float64 // bytes of log per second
	Start   time.Duration
}

// The guesses for a host that has not restored anything yet.
const (
	guessRestore = 100e6
	guessReplay  = 40e6
	guessStart   = 5 * time.Second
)

// maxEstimate bounds what is said; beyond it a number says nothing.
const maxEstimate = 10 * 365 * 24 * time.Hour

// Estimate is how long a recovery will take: the set is copied, then the log
// replayed up to the stop.
func Estimate(c Choice, r Rates) time.Duration {
	if !(r.Restore > 0) {
		r.Restore = guessRestore
	}
	if !(r.Replay > 0) {
		r.Replay = guessReplay
	}
	if r.Start <= 0 {
		r.Start = guessStart
	}
	seconds := float64(max(c.RawBytes, c.Bytes, 0))/r.Restore + float64(c.WALBytes())/r.Replay + r.Start.Seconds()
	if seconds > maxEstimate.Seconds() {
		return maxEstimate
	}
	return time.Duration(seconds * float64(time.Second))
}

// WALBytes is how much log is replayed.
func (c Choice) WALBytes() (n uint64) {
	for _, s := range c.WAL {
		n += s.To.Sub(s.From)
	}
	return n
}
