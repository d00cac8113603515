package catalog

import (
	"time"

	"understudy/shipper/pos"
)

// Usable is a set that can be restored along a timeline.
type Usable struct {
	Label string `json:"label"`
	// Ready is the first moment that can be restored with it, and Until the time
	// of the latest commit behind it as far as the log goes; zero when none is
	// known.
	Ready time.Time `json:"ready"`
	Until time.Time `json:"until,omitzero"`
	// Reach is the end of the log that follows the set without a gap.
	Reach     pos.LSN  `json:"reach"`
	Locations []string `json:"locations"` // with a complete copy, nearest first
	// Damaged: pages were corrupt when it, or a set it is built on, was taken.
	Damaged bool `json:"damaged,omitempty"`
}

// Usable are the sets that can be restored along a timeline (zero: the newest)
// from the locations of o, by their end, oldest first. Sets with damaged pages
// are among them.
func (c Catalog) Usable(t pos.Timeline, o Options) ([]Usable, error) {
	v, err := look(c, t, o)
	if err != nil {
		return nil, err
	}
	var out []Usable
	for _, u := range v.sets {
		if o.Set == "" || o.Set == u.Label {
			out = append(out, Usable{Label: u.Label, Ready: u.ready, Until: u.until, Reach: u.reach, Locations: u.from, Damaged: u.Damaged})
		}
	}
	return out, nil
}
