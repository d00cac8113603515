package recover

import (
	"sync"
	"sync/atomic"
	"time"
)

// counters are what Progress tells.
type counters struct {
	done, same, fetched atomic.Int64

	mu    sync.Mutex
	shown time.Time
}

type counts struct{ done, same, fetched int64 }

func (c *counters) now() counts { return counts{c.done.Load(), c.same.Load(), c.fetched.Load()} }

// reportEvery is the shortest time between two reports within a step.
const reportEvery = 250 * time.Millisecond

// report tells the progress; within StepFiles not too often.
func (x *execution) report(step string) {
	if x.o.Progress == nil {
		return
	}
	x.count.mu.Lock()
	defer x.count.mu.Unlock()
	now := time.Now()
	if step == StepFiles && now.Sub(x.count.shown) < reportEvery {
		return
	}
	x.count.shown = now
	c := x.count.now()
	x.o.Progress(Progress{
		Step: step, DoneBytes: c.done, TotalBytes: x.p.Bytes, SameBytes: c.same, FetchedBytes: c.fetched,
		Left: Remaining(uint64(c.done), uint64(x.p.Bytes), now.Sub(x.began)),
	})
}

// Remaining is how long the rest of a work will take when it goes on as it did
// so far; zero when that cannot be told yet or nothing is left.
func Remaining(done, total uint64, taken time.Duration) time.Duration {
	if done == 0 || done >= total || taken <= 0 {
		return 0
	}
	left := float64(taken) * (float64(total-done) / float64(done))
	const most = 365 * 24 * time.Hour
	return time.Duration(min(left, float64(most)))
}
