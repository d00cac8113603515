package sim

import "time"

// clock is virtual time: a queue of events, run one after the other. Events of
// the same instant run in the order in which they were made.
type clock struct {
	now  time.Duration
	seq  uint64
	heap []event
}

type event struct {
	at  time.Duration
	seq uint64
	fn  func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// after runs fn when d has passed.
func (c *clock) after(d time.Duration, fn func()) {
	c.seq++
	c.heap = append(c.heap, event{c.now + d, c.seq, fn})
	for i := len(c.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !c.heap[i].before(c.heap[up]) {
			break
		}
		c.heap[i], c.heap[up] = c.heap[up], c.heap[i]
		i = up
	}
}

// next runs the next event; it reports whether there was one.
func (c *clock) next() bool {
	if len(c.heap) == 0 {
		return false
	}
	top, last := c.heap[0], len(c.heap)-1
	c.heap[0] = c.heap[last]
	c.heap[last] = event{}
	c.heap = c.heap[:last]
	for i := 0; ; {
		small := i
		for _, k := range []int{2*i + 1, 2*i + 2} {
			if k < last && c.heap[k].before(c.heap[small]) {
				small = k
			}
		}
		if small == i {
			break
		}
		c.heap[i], c.heap[small] = c.heap[small], c.heap[i]
		i = small
	}
	c.now = top.at
	top.fn()
	return true
}
