package doc

import "time"

// Phase is the change's last phase of that name: one that was tried again
// counts by its last attempt.
func (c Change) Phase(name string) (Phase, bool) {
	for i := len(c.Phases) - 1; i >= 0; i-- {
		if c.Phases[i].Name == name {
			return c.Phases[i], true
		}
	}
	return Phase{}, false
}

// Took is the time from the first phase to the opening; false while the change
// has not opened.
func (c Change) Took() (time.Duration, bool) {
	opened, ok := c.Phase(PhaseOpened)
	if !ok || !c.Opened {
		return 0, false
	}
	return time.Duration(max(0, opened.AfterNS)), true
}

// Outage is how long there was no writer, from the first phase that shut
// clients out, or the last sign of life, to the opening. It is not known while
// the change has not opened, nor when no phase says when the old primary stopped
// writing.
func (c Change) Outage() (time.Duration, bool) {
	opened, ok := c.Phase(PhaseOpened)
	if !ok || !c.Opened {
		return 0, false
	}
	for _, p := range c.Phases {
		if p.Name == PhaseLost || p.Name == PhaseFrozen || p.Name == PhaseStopped {
			// The clocks of two nodes may differ by more than there was.
			return time.Duration(max(0, opened.AfterNS-p.AfterNS)), true
		}
	}
	return 0, false
}

// Lossless tells whether the change proves by itself that nothing acknowledged
// was lost: a switchover in which everybody was heard, the old primary included,
// and nothing is missing. False means that the proof's sentence has to be read,
// not that something was lost.
func (c Change) Lossless() bool {
	p := c.Proof
	return c.Kind == KindSwitchover && p != nil && p.Lost == nil && p.MayLost == nil && !p.Provisional && len(p.Missing) == 0
}
