package clients

import (
	"cmp"
	"slices"
	"time"
)

// Outage is the longest time without an acknowledged commit of any writer,
// from the last one before since on until now, or until Stop. A gap that has
// not ended counts as far as it has come.
func (c *Clients) Outage(since time.Time) time.Duration {
	return c.OutageBetween(since, time.Now())
}

// OutageBetween is Outage up to the moment to.
func (c *Clients) OutageBetween(since, to time.Time) time.Duration {
	acks, from, until := c.window(since, to)
	return longestGap(acks, from, until)
}

// SlowestWriter is the longest time between since and to that any single
// writer went without an acknowledged commit. It is never less than the
// outage: that one ends with the first writer who is served again.
func (c *Clients) SlowestWriter(since, to time.Time) time.Duration {
	acks, from, until := c.window(since, to)
	slowest := time.Duration(0)
	for w := range c.cfg.Writers {
		own := slices.DeleteFunc(slices.Clone(acks), func(a ack) bool { return a.writer != w })
		slowest = max(slowest, longestGap(own, from, until))
	}
	return slowest
}

// FirstBegun is when the first commit was acknowledged whose statement was
// sent at or after the given time, so by a server that lived then.
func (c *Clients) FirstBegun(after time.Time) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := after.Sub(c.began)
	for _, a := range c.acks[before(c.acks, from):] {
		if a.began >= from {
			return c.began.Add(a.at), true
		}
	}
	return time.Time{}, false
}

// window is what was acknowledged up to to, and the span as time since the
// begin.
func (c *Clients) window(since, to time.Time) (acks []ack, from, until time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended.IsZero() && to.After(c.ended) {
		to = c.ended
	}
	return c.acks[:len(c.acks):len(c.acks)], since.Sub(c.began), to.Sub(c.began)
}

// before is how many acks were earlier than at.
func before(acks []ack, at time.Duration) int {
	n, _ := slices.BinarySearchFunc(acks, at, func(a ack, at time.Duration) int { return cmp.Compare(a.at, at) })
	return n
}

// longestGap is the longest time between two neighbours of acks, which are in
// order, from the last one before from to until. Without one before from it
// begins at from, but never before the writers did.
func longestGap(acks []ack, from, until time.Duration) time.Duration {
	i := before(acks, from)
	last := max(from, 0)
	if i > 0 {
		last = acks[i-1].at
	}
	longest := time.Duration(0)
	for _, a := range acks[i:] {
		if a.at > until {
			break
		}
		longest = max(longest, a.at-last)
		last = a.at
	}
	return max(longest, until-last)
}
