// Package flow paces what is done towards one peer: the pauses between attempts
// to reach it, and the rate at which it takes what it is sent.
//
// The package is pure: it reads no clock, draws no random number and sends
// nothing.
package flow

import "time"

// Backoff spaces the attempts to reach a peer: the bound on the wait doubles
// from Min to Max, and each wait is drawn from the upper half below the bound,
// so that peers which lost each other at once do not return at once.
//
// Min and Max are positive, Min at most Max; a Backoff outside of that waits
// for Max. It is not safe for concurrent use.
type Backoff struct {
	Min, Max time.Duration
	bound    time.Duration // of the last wait; zero before the first
}

// Next is the time to wait before the next attempt. rand is uniform in [0, 1).
func (b *Backoff) Next(rand float64) time.Duration {
	switch {
	case b.bound == 0:
		b.bound = min(b.Min, b.Max)
	case b.bound > b.Max/2: // compared so that doubling cannot overflow
		b.bound = b.Max
	default:
		b.bound *= 2
	}
	if b.bound <= 0 {
		b.bound = b.Max
	}
	half := b.bound / 2
	return b.bound - half + time.Duration(min(max(rand, 0), 1)*float64(half))
}

// Reset makes the next wait the shortest again. It is called when a session
// has proven to work, not when a connection was made: a peer that accepts and
// then fails is not to be tried without a pause.
func (b *Backoff) Reset() { b.bound = 0 }
