package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// order is what a location is to do next; one field is set.
type order struct {
	create string // begin this object
	block  *block // add these bytes to it
	commit bool   // end it
	set    []byte // store set.json, the last one
}

// queue holds the orders of one location. It is bounded by the number of
// blocks.
type queue struct {
	mu      sync.Mutex
	orders  []order
	busy    bool      // one is being carried out
	since   time.Time // when the last one was done, or the first one came
	closed  bool
	arrived chan struct{}
}

// put adds an order; false when nothing is taken any more.
func (q *queue) put(o order) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if len(q.orders) == 0 && !q.busy {
		q.since = time.Now()
	}
	q.orders = append(q.orders, o)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// next waits for an order; false when the queue is closed and empty, or ctx
// ends. The one before counts as done.
func (q *queue) next(ctx context.Context) (order, bool) {
	for {
		q.mu.Lock()
		q.busy, q.since = false, time.Now()
		if len(q.orders) > 0 {
			o := q.orders[0]
			q.orders[0] = order{}
			q.orders = q.orders[1:]
			q.busy = true
			q.mu.Unlock()
			return o, ctx.Err() == nil
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return order{}, false
		}
		select {
		case <-q.arrived:
		case <-ctx.Done():
			return order{}, false
		}
	}
}

// close takes no more orders; those that wait are still carried out.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.wake()
	q.mu.Unlock()
}

// empty closes the queue and gives back what waits in it.
func (q *queue) empty() []order {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	rest := q.orders
	q.orders = nil
	q.wake()
	return rest
}

// waiting is the number of orders not yet done, and since when none was.
func (q *queue) waiting() (int, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.orders)
	if q.busy {
		n++
	}
	return n, q.since
}

// dest is one location taking a set.
type dest struct {
	name   string
	loc    location.Location
	key    func(object string) string
	parent *deliverer
	queue  queue
	ctx    context.Context // ends when the location is dropped
	stop   context.CancelCauseFunc
	stored atomic.Int64
	blamed time.Duration // the watcher's

	mu  sync.Mutex
	err error // why it was given up; guarded by mu

	// The rest belongs to run.
	up       location.Upload
	upKey    string
	begun    []string // keys
	complete bool
}

func newDest(ctx context.Context, to Dest, cfg Config, parent *deliverer) *dest {
	t := &dest{name: to.Name, loc: to.Location, parent: parent}
	t.key = func(object string) string { return cfg.Root.Object(cfg.Label, object) }
	t.queue.arrived = make(chan struct{}, 1)
	t.ctx, t.stop = context.WithCancelCause(ctx)
	return t
}

// run carries out the orders, and cleans up unless the set was completed.
func (t *dest) run() {
	defer t.stop(nil)
	err := t.absent()
	for err == nil {
		o, ok := t.queue.next(t.ctx)
		if !ok {
			t.parent.release(o.block)
			break
		}
		err = t.obey(o)
		t.parent.release(o.block)
	}
	if t.complete {
		return
	}
	if err == nil || t.ctx.Err() != nil {
		if err = context.Cause(t.ctx); err == nil {
			err = errors.New("the backup ended early")
		}
	}
	t.drop(err)
	t.clean()
}

// absent makes sure that no other set has the label.
func (t *dest) absent() error {
	_, err := t.loc.Stat(t.ctx, t.key(backupset.SetName))
	switch {
	case errors.Is(err, location.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("a set with this label is already there: %s", t.key(backupset.SetName))
}

func (t *dest) obey(o order) error {
	var err error
	switch {
	case o.create != "":
		t.upKey = t.key(o.create)
		t.begun = append(t.begun, t.upKey)
		t.up, err = t.loc.Create(t.ctx, t.upKey, location.CreateOptions{Size: -1})
	case o.block != nil:
		_, err = t.up.Write(o.block.buf)
		t.stored.Add(int64(len(o.block.buf)))
	case o.commit:
		_, err = t.up.Commit(t.ctx)
		if err == nil {
			t.up = nil
		}
	default:
		err = t.seal(o.set)
	}
	return err
}

// seal stores set.json; with it the set is complete.
func (t *dest) seal(b []byte) error {
	key := t.key(backupset.SetName)
	t.begun = append(t.begun, key)
	up, err := t.loc.Create(t.ctx, key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		return err
	}
	t.up = up
	if _, err := bytes.NewReader(b).WriteTo(up); err != nil {
		return err
	}
	if _, err := up.Commit(t.ctx); err != nil {
		return err
	}
	t.stored.Add(int64(len(b)))
	t.up, t.complete = nil, true
	return nil
}

// drop gives the location up. Its blocks are freed, except the one that is
// being written. Any goroutine may call it; the first reason counts.
func (t *dest) drop(err error) {
	t.mu.Lock()
	first := t.err == nil
	if first {
		t.err = err
	}
	t.mu.Unlock()
	if !first {
		return
	}
	t.stop(err)
	for _, o := range t.queue.empty() {
		t.parent.release(o.block)
	}
	t.parent.lost(t, err)
}

func (t *dest) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// clean removes what was stored: set.json first, so that no moment shows a set
// that lacks objects. What cannot be removed is found by Orphans later.
func (t *dest) clean() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), cleanTimeout)
	defer cancel()
	if t.up != nil {
		if err := t.up.Abort(); err != nil {
			t.parent.log.Warn("unfinished upload left at a location", "location", t.name, "key", t.upKey, "error", err)
		}
	}
	for i := len(t.begun) - 1; i >= 0; i-- {
		if err := t.loc.Remove(ctx, t.begun[i]); err != nil {
			t.parent.log.Warn("objects of a failed backup left at a location", "location", t.name, "key", t.begun[i], "error", err)
			return
		}
	}
}
