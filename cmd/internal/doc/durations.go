package doc

import "math"

// The parts of a change that are timed.
const (
	PartDetect  = "detect"   // the last sign of life until a new epoch begins
	PartFreeze  = "freeze"   // the order until clients are shut out
	PartStop    = "stop"     // until the old server has ended
	PartFence   = "fence"    // the epoch until a majority has fenced
	PartElect   = "elect"    // until the new primary is assigned
	PartCopy    = "copy"     // of electing: until the candidate has the donor's log
	PartCatchUp = "catch-up" // until its whole log is applied
	PartPromote = "promote"
	PartOpen    = "open"    // until clients are let in
	PartReseed  = "re-seed" // the opening until the old primary follows again
)

// Duration is how long a part of a change took.
type Duration struct {
	Part         string  `json:"phase"`
	Milliseconds float64 `json:"ms"`
	// In is the part that this one is within, and that counts it.
	In string `json:"in,omitempty"`
	// Approximate: the clocks of two hosts differ by more than it took.
	Approximate bool `json:"approximate,omitempty"`
}

// Durations are the parts of a change by its phases. A phase that came again
// counts by the last time; a part whose beginning or end is not recorded is left
// out.
func Durations(phases []Phase) []Duration {
	c := Change{Phases: phases}
	out := []Duration{}
	for _, part := range []struct{ name, from, to, in string }{
		{PartFreeze, PhaseOrdered, PhaseFrozen, ""},
		{PartStop, PhaseFrozen, PhaseStopped, ""},
		{PartDetect, PhaseLost, PhaseEpoch, ""},
		{PartFence, PhaseEpoch, PhaseFenced, ""},
		{PartElect, PhaseFenced, PhaseAssigned, ""},
		{PartCopy, PhaseFenced, PhaseCopied, PartElect},
		{PartCatchUp, PhaseAssigned, PhaseReplayed, ""},
		{PartPromote, PhaseReplayed, PhasePromoted, ""},
		{PartOpen, PhasePromoted, PhaseOpened, ""},
		{PartReseed, PhaseOpened, PhaseReturned, ""},
	} {
		from, ok := c.Phase(part.from)
		to, also := c.Phase(part.to)
		if !ok || !also {
			continue
		}
		d := Duration{Part: part.name, Milliseconds: math.Round(float64(to.AfterNS-from.AfterNS)/1e5) / 10, In: part.in}
		if to.AfterNS < from.AfterNS {
			d.Milliseconds, d.Approximate = 0, true
		}
		if n := len(out); part.in != "" && n > 0 && out[n-1].Part == part.in && d.Milliseconds > out[n-1].Milliseconds {
			d.Milliseconds, d.Approximate = out[n-1].Milliseconds, true
		}
		out = append(out, d)
	}
	return out
}
