package retention

import (
	"slices"
	"time"

	"understudy/shipper/pos"
)

// witness is a complete set of the newest history: where it ended in the log,
// and when by its own word.
type witness struct {
	end pos.LSN
	at  time.Time
}

// clock counts how old things are by what the backups themselves witness, so
// that a clock that jumped does not make everything look old.
type clock struct {
	now     time.Time
	seen    []witness       // that are believed, rising in log and time
	ages    []time.Duration // theirs
	longest time.Duration   // that a pause counts for
}

// recentN is how many of the newest pauses say what is usual.
const recentN = 15

// newClock takes the complete sets in the order of their log.
func newClock(all []witness, now time.Time) clock {
	c := clock{seen: rising(all)}
	n := len(c.seen)
	if n == 0 {
		return clock{now: now}
	}
	var pauses []time.Duration
	for i := max(1, n-recentN); i < n; i++ {
		pauses = append(pauses, c.seen[i].at.Sub(c.seen[i-1].at))
	}
	if len(pauses) > 0 {
		slices.Sort(pauses)
		usual := pauses[(len(pauses)-1)/2]
		c.longest = usual + usual/4
	}
	since := c.pause(c.seen[n-1].at, now)
	c.now = c.seen[n-1].at.Add(since)
	c.ages = make([]time.Duration, n)
	c.ages[n-1] = since
	for i := n - 2; i >= 0; i-- {
		c.ages[i] = c.ages[i+1] + c.pause(c.seen[i].at, c.seen[i+1].at)
	}
	return c
}

// pause is what the time between two witnesses counts for.
func (c clock) pause(from, to time.Time) time.Duration {
	return min(max(to.Sub(from), 0), c.longest)
}

// age is how old a moment is, at the least: as old as the first witness that
// is not before it.
func (c clock) age(t time.Time) time.Duration {
	for i, w := range c.seen {
		if !w.at.Before(t) {
			return c.ages[i]
		}
	}
	return c.pause(t, c.now)
}

// ageAt is how old a place of the newest history is, at the least: as old as
// the first witness that is not before it. What no witness has come after is
// new, whatever the time it gives.
func (c clock) ageAt(l pos.LSN) time.Duration {
	for i, w := range c.seen {
		if w.end >= l {
			return c.ages[i]
		}
	}
	return 0
}

// rising leaves out the fewest witnesses whose times stand out of order: those
// of a clock that had jumped and was set right again.
func rising(all []witness) []witness {
	// best[i] is the length of the longest rising choice that ends with i.
	best, before := make([]int, len(all)), make([]int, len(all))
	last := -1
	for i, w := range all {
		best[i], before[i] = 1, -1
		for j := range i {
			if !all[j].at.After(w.at) && best[j] >= best[i] {
				best[i], before[i] = best[j]+1, j
			}
		}
		// Of two that are as long, the earlier end: the future is not believed.
		if last < 0 || best[i] > best[last] || best[i] == best[last] && w.at.Before(all[last].at) {
			last = i
		}
	}
	var out []witness
	for i := last; i >= 0; i = before[i] {
		out = append(out, all[i])
	}
	slices.Reverse(out)
	return out
}
