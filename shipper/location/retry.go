package location

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"understudy/shipper/flow"
)

// Policy says how often and when a failed call is repeated: a few times at
// once, as most faults of a network pass, then at growing intervals.
type Policy struct {
	// Quick is how many repetitions come after only Pause each.
	Quick int
	Pause time.Duration
	// Min and Max bound the waits after these; see flow.Backoff. Zero means 1 s
	// and 1 minute.
	Min, Max time.Duration
	// Attempts bounds the calls, the first counted; 0 is no bound.
	Attempts int
	// Stubborn repeats also what is Permanent, at Max: somebody may put it
	// right. Without it such an error is returned at once.
	Stubborn bool
	// Failed, when set, hears of every failure that is followed by another
	// attempt: the n-th call in a row failed with err, the next is after wait.
	// n above Quick+1 is the time for an incident.
	Failed func(n int, err error, wait time.Duration)
}

// The intervals of a Policy that names none.
const (
	defaultMin = time.Second
	defaultMax = time.Minute
)

// Wait is how long to wait after the n-th failure in a row, counted from 1; ok
// is false when it was the last attempt. rand is uniform in [0, 1).
func (p Policy) Wait(n int, rand float64) (wait time.Duration, ok bool) {
	switch {
	case p.Attempts > 0 && n >= p.Attempts:
		return 0, false
	case n <= p.Quick:
		return p.Pause, true
	}
	b := p.backoff()
	// The bound has long reached its largest value after so many.
	const doublings = 64
	for range min(n-p.Quick, doublings) - 1 {
		b.Next(rand)
	}
	return b.Next(rand), true
}

func (p Policy) backoff() flow.Backoff {
	b := flow.Backoff{Min: p.Min, Max: p.Max}
	if b.Max <= 0 {
		b.Max = defaultMax
	}
	if b.Min <= 0 {
		b.Min = min(defaultMin, b.Max)
	}
	return b
}

// final tells of errors that are answers rather than failures.
func final(err error) bool {
	return errors.Is(err, ErrNotExist) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrClosed) || errors.Is(err, ErrKey)
}

// Retry calls op until it succeeds, until ctx ends, or until p has no more
// attempts or the error is one that repeating does not mend; it returns the
// last error. When ctx ends while it waits, that is the cause of ctx joined
// with the last error.
func Retry(ctx context.Context, p Policy, op func(context.Context) error) error {
	for n := 1; ; n++ {
		err := op(ctx)
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		wait, ok := p.Wait(n, rand.Float64())
		switch {
		case !ok, Permanent(err) && !p.Stubborn:
			return err
		case Permanent(err):
			wait = p.backoff().Max
		}
		if p.Failed != nil {
			p.Failed(n, err, wait)
		}
		if cause := sleep(ctx, wait); cause != nil {
			return errors.Join(cause, err)
		}
	}
}
