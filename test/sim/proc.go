package sim

import (
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"time"
)

// proc is sequential work that waits in virtual time: the twin of a goroutine
// of the daemon. All procs are coroutines of one thread, so that exactly one of
// them, or an event, runs at a time, and a seed always takes the same way.
//
// A proc may be cancelled, as by a context: what it waits for then returns the
// cause. One that is killed, as by a crash, never runs again.
type proc struct {
	w     *world
	n     *node // whose daemon it is of, if of one
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	gen   uint64 // of the present wait; a wake-up for an older one is stale
	cause error  // why it was cancelled
	done  bool
	dead  bool
}

// errKilled unwinds a proc that was killed.
var errKilled = errors.New("killed")

var errTimeout = errors.New("timed out")

// spawn starts fn at once.
func (w *world) spawn(fn func(p *proc)) *proc {
	p := &proc{w: w}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			p.done = true
			if r := recover(); r != nil && r != any(errKilled) {
				panic(fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
		}()
		fn(p)
	})
	w.procs = append(w.procs, p)
	w.after(0, func() { p.resume(0) })
	return p
}

func (p *proc) resume(gen uint64) {
	if p.done || p.dead || p.gen != gen {
		return
	}
	if p.n != nil && p.n.halted(true) > p.w.now {
		p.n.later(true, func() { p.resume(gen) })
		return
	}
	p.next()
}

// kill ends the proc where it waits. It must not be called by the proc itself.
func (p *proc) kill() {
	if !p.done && !p.dead {
		p.dead = true
		p.stop()
	}
}

// cancel asks the proc to end.
func (p *proc) cancel(cause error) {
	if p.cause == nil && !p.done {
		p.cause = cause
		p.wake()
	}
}

// wake ends the present wait early.
func (p *proc) wake() {
	gen := p.gen
	p.w.after(0, func() { p.resume(gen) })
}

// sleep waits for d, or until somebody wakes the proc.
func (p *proc) sleep(d time.Duration) error {
	if p.cause != nil {
		return p.cause
	}
	return p.rest(d)
}

// rest is sleep for work that is finished although the proc was cancelled.
func (p *proc) rest(d time.Duration) error {
	p.gen++
	gen := p.gen
	p.w.after(d, func() { p.resume(gen) })
	if !p.yield(struct{}{}) {
		panic(errKilled)
	}
	return p.cause
}

// until waits until ok, looking every few milliseconds; errTimeout is returned
// when it takes longer than d.
func (p *proc) until(d time.Duration, ok func() bool) error {
	for end := p.w.now + d; !ok(); {
		if p.w.now >= end {
			return errTimeout
		}
		if err := p.sleep(5 * time.Millisecond); err != nil {
			return err
		}
	}
	return p.cause
}
