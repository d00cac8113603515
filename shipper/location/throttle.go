package location

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// paceEvery is the time in which a throttled stream passes one piece: short
	// enough that the flow is even, long enough that pieces are large.
	paceEvery = 50 * time.Millisecond
	minPiece  = 512
	maxPiece  = 256 << 10
)

// pacer spreads bytes over time. It is pure; the zero value is ready.
type pacer struct {
	next time.Time // when the bytes let through so far have had their time
}

// take lets n bytes through and says how long to wait for them. Time that was
// not used is kept for one paceEvery, which evens out the delays of timers.
func (p *pacer) take(now time.Time, n int, perSecond int64) time.Duration {
	if perSecond <= 0 {
		p.next = time.Time{}
		return 0
	}
	if earliest := now.Add(-paceEvery); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(perSecond) * float64(time.Second)))
	return max(p.next.Sub(now), 0)
}

// piece is how many of n bytes to pass at once.
func piece(n int, perSecond int64) int {
	if perSecond <= 0 {
		return n
	}
	fit := perSecond / int64(time.Second/paceEvery)
	return int(min(int64(n), max(minPiece, min(fit, maxPiece))))
}

// budget is what the streams of a throttled location share.
type budget struct {
	perSecond func() int64

	mu sync.Mutex
	pacer
}

// wait lets n bytes through.
func (b *budget) wait(ctx context.Context, n int) error {
	b.mu.Lock()
	d := b.take(time.Now(), n, b.perSecond())
	b.mu.Unlock()
	return sleep(ctx, d)
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Throttled is loc with a bound on the bytes per second that all its uploads
// and readers together move. bytesPerSecond is asked again for every piece, so
// a change takes effect at once; 0 or less is no bound.
func Throttled(loc Location, bytesPerSecond func() int64) Location {
	return &throttled{loc, &budget{perSecond: bytesPerSecond}}
}

type throttled struct {
	Location
	*budget
}

// Create implements Location.
func (t *throttled) Create(ctx context.Context, key string, o CreateOptions) (Upload, error) {
	u, err := t.Location.Create(ctx, key, o)
	if err != nil {
		return nil, err
	}
	return &throttledUpload{u, ctx, t.budget}, nil
}

type throttledUpload struct {
	Upload
	ctx context.Context
	*budget
}

// Write implements Upload.
func (t *throttledUpload) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		k := piece(len(b), t.perSecond())
		if err := t.wait(t.ctx, k); err != nil {
			return n, err
		}
		k, err := t.Upload.Write(b[:k])
		n += k
		if err != nil {
			return n, err
		}
		b = b[k:]
	}
	return n, nil
}

// Open implements Location.
func (t *throttled) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := t.Location.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &throttledReader{r, ctx, t.budget}, nil
}

type throttledReader struct {
	io.ReadCloser
	ctx context.Context
	*budget
}

// Read implements io.Reader.
func (t *throttledReader) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b[:piece(len(b), t.perSecond())])
	if n > 0 {
		if werr := t.wait(t.ctx, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}
