package backup

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"understudy/shipper/backupset"
)

// cleanTimeout bounds the removal of what a failed backup left at a location.
const cleanTimeout = 30 * time.Second

// block is a stretch of stored bytes on its way to the locations. Nobody
// writes to it while refs is above zero.
type block struct {
	buf  []byte
	refs atomic.Int32
}

// deliverer gives the same objects to all locations, each at its own pace
// within the bounds of the blocks there are.
type deliverer struct {
	log      *slog.Logger
	patience time.Duration
	cancel   context.CancelCauseFunc // ends the backup
	ended    func() error            // not nil once it has
	free     chan *block
	dests    []*dest
	began    time.Time
	judged   time.Time   // the watcher's
	starving atomic.Bool // the backup waits for a block
	digest   string      // of set.json
	running  sync.WaitGroup
}

func newDeliverer(ctx context.Context, cancel context.CancelCauseFunc, cfg Config) *deliverer {
	n := cfg.Workers + 2 + queueBlocks
	d := &deliverer{log: cfg.Log, patience: cfg.Patience, cancel: cancel, ended: ctx.Err, free: make(chan *block, n), began: time.Now(), judged: time.Now()}
	for range n {
		d.free <- &block{}
	}
	for _, to := range cfg.Dests {
		d.dests = append(d.dests, newDest(ctx, to, cfg, d))
	}
	for _, t := range d.dests {
		d.running.Go(t.run)
	}
	return d
}

// block is an empty block, once the locations left one.
func (d *deliverer) block(ctx context.Context) (*block, error) {
	select {
	case b := <-d.free:
		return b, nil
	default:
	}
	d.starving.Store(true)
	defer d.starving.Store(false)
	select {
	case b := <-d.free:
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (d *deliverer) release(b *block) {
	if b != nil && b.refs.Add(-1) == 0 {
		d.free <- b // has room for all blocks
	}
}

// create begins an object at every location, write gives it bytes and commit
// ends it. The block of write is the deliverer's from then on.
func (d *deliverer) create(name string) { d.all(order{create: name}) }
func (d *deliverer) write(b *block)     { d.all(order{block: b}) }
func (d *deliverer) commit()            { d.all(order{commit: true}) }

// last is the content of set.json; nothing comes after it.
func (d *deliverer) last(b []byte) {
	d.digest = backupset.Digest(b)
	d.all(order{set: b})
}

func (d *deliverer) all(o order) {
	if o.block != nil {
		o.block.refs.Store(int32(len(d.dests)) + 1)
	}
	for _, t := range d.dests {
		if !t.queue.put(o) {
			d.release(o.block)
		}
	}
	d.release(o.block)
}

// finish waits until every location is done or has cleaned up.
func (d *deliverer) finish() []DestResult {
	for _, t := range d.dests {
		t.queue.close()
	}
	d.running.Wait()
	var out []DestResult
	for _, r := range d.results() {
		out = append(out, DestResult(r))
	}
	return out
}

func (d *deliverer) results() []DestProgress {
	var out []DestProgress
	for _, t := range d.dests {
		out = append(out, DestProgress{Name: t.name, Stored: t.stored.Load(), Err: t.failure()})
	}
	return out
}

// lost is told by a location that failed.
func (d *deliverer) lost(t *dest, err error) {
	if d.ended() != nil {
		return
	}
	d.log.Warn("location dropped from the backup", "location", t.name, "error", err)
	for _, other := range d.dests {
		if other.failure() == nil {
			return
		}
	}
	d.cancel(d.nobody())
}

// nobody is the error when no location is left.
func (d *deliverer) nobody() error {
	err := ErrNoDestination
	for _, t := range d.dests {
		err = fmt.Errorf("%w; %s: %w", err, t.name, t.failure())
	}
	return err
}

// judge drops locations that hold up the backup. Only the watcher calls it.
//
// One that took nothing for the whole patience is as good as dead. One that is
// merely slow may cost the others the time the backup runs anyway and the
// patience on top; it is never dropped when it is the last.
func (d *deliverer) judge(now time.Time) {
	passed := now.Sub(d.judged)
	d.judged = now
	var slowest *dest
	most, alive := 0, 0
	for _, t := range d.dests {
		if t.failure() != nil {
			continue
		}
		alive++
		waiting, since := t.queue.waiting()
		if waiting > 0 && now.Sub(since) > d.patience {
			t.drop(fmt.Errorf("%w: it took nothing for %s", ErrTooSlow, now.Sub(since).Round(time.Second)))
			alive--
			continue
		}
		if waiting > most {
			slowest, most = t, waiting
		}
	}
	if !d.starving.Load() || slowest == nil || alive < 2 || d.othersBusy(slowest, most) {
		return
	}
	slowest.blamed += passed
	if ran := now.Sub(d.began); slowest.blamed > d.patience+(ran-slowest.blamed) {
		slowest.drop(fmt.Errorf("%w: the others waited %s for it", ErrTooSlow, slowest.blamed.Round(time.Second)))
	}
}

// othersBusy tells whether another location is about as far behind, so that
// dropping one would gain nothing.
func (d *deliverer) othersBusy(slowest *dest, most int) bool {
	for _, t := range d.dests {
		if waiting, _ := t.queue.waiting(); t != slowest && t.failure() == nil && waiting*2 > most {
			return true
		}
	}
	return false
}
