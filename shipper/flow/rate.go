package flow

import (
	"math"
	"time"
)

// Rate estimates how many bytes per second pass. An amount counts with a weight
// that halves every HalfLife. The zero HalfLife is DefaultHalfLife. It is not
// safe for concurrent use; instants are given by the caller.
type Rate struct {
	HalfLife time.Duration

	first, last time.Time
	sum         float64 // weighted bytes as of last
}

// DefaultHalfLife settles within seconds and does not jump with every chunk.
const DefaultHalfLife = 2 * time.Second

// Add counts n bytes that passed at the instant now. An instant before the last
// one counts as the last one.
func (r *Rate) Add(now time.Time, n uint64) {
	if r.first.IsZero() {
		// Bytes of the first call passed in a time not known; they only mark
		// the beginning.
		r.first, r.last = now, now
		return
	}
	r.decay(now)
	r.sum += float64(n)
}

// PerSecond is the estimate in bytes per second at the instant now: zero before
// the second Add, and falling towards zero while nothing passes.
func (r *Rate) PerSecond(now time.Time) float64 {
	if r.first.IsZero() {
		return 0
	}
	r.decay(now)
	// The weights of a steady flow since first add up to this many seconds, so
	// that a young estimate is not too low.
	tau := r.tau()
	weight := tau * (1 - math.Exp(-r.last.Sub(r.first).Seconds()/tau))
	if weight <= 0 {
		return 0
	}
	return r.sum / weight
}

// TimeFor is how long n bytes take at the present rate; ok is false when
// nothing passes, or so little that the time is beyond a year.
func (r *Rate) TimeFor(now time.Time, n uint64) (d time.Duration, ok bool) {
	const year = 365 * 24 * 3600
	if n == 0 {
		return 0, true
	}
	per := r.PerSecond(now)
	if per <= 0 || float64(n)/per > year {
		return 0, false
	}
	return time.Duration(float64(n) / per * float64(time.Second)), true
}

func (r *Rate) decay(now time.Time) {
	if d := now.Sub(r.last).Seconds(); d > 0 {
		r.sum *= math.Exp(-d / r.tau())
		r.last = now
	}
}

// tau is the time in seconds in which a weight falls to 1/e.
func (r *Rate) tau() float64 {
	h := r.HalfLife
	if h <= 0 {
		h = DefaultHalfLife
	}
	return h.Seconds() / math.Ln2
}
