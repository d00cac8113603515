package ledger

import (
	"fmt"
	"sync"

	"understudy/ledger/facts"
)

// maxPending bounds the events that wait for one subscriber.
const maxPending = 1 << 16

// hub holds the newest state and tells others of it. Only Raft's state machine
// goroutine publishes, and publishing never waits for a reader.
type hub struct {
	mu      sync.Mutex
	state   facts.State          // guarded by mu
	changed chan struct{}        // guarded by mu; closed and replaced at each change
	subs    map[*subscriber]bool // guarded by mu
	closed  bool                 // guarded by mu
}

func newHub() *hub {
	return &hub{changed: make(chan struct{}), subs: map[*subscriber]bool{}}
}

func (h *hub) current() facts.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

func (h *hub) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *hub) publish(s facts.State, events []facts.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = s
	close(h.changed)
	h.changed = make(chan struct{})
	for sub := range h.subs {
		sub.push(s, events)
	}
}

func (h *hub) subscribe(fn func(facts.State, []facts.Event)) (cancel func()) {
	sub := &subscriber{wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return func() {}
	}
	h.subs[sub] = true
	sub.push(h.state, nil)
	go sub.run(fn)
	return func() {
		h.mu.Lock()
		delete(h.subs, sub)
		h.mu.Unlock()
		sub.end()
	}
}

func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	subs := h.subs
	h.subs = map[*subscriber]bool{}
	h.mu.Unlock()
	for sub := range subs {
		sub.end()
	}
}

// subscriber is one reader and what it has not been told yet.
type subscriber struct {
	wake chan struct{} // has one element while something is pending
	stop chan struct{}
	once sync.Once
	done chan struct{}

	mu     sync.Mutex
	state  facts.State   // guarded by mu; the newest
	events []facts.Event // guarded by mu; since the last call
	lost   int           // guarded by mu; events dropped since the last call
}

// push never waits: fn runs without mu.
func (s *subscriber) push(state facts.State, events []facts.Event) {
	s.mu.Lock()
	s.state = state
	s.events = append(s.events, events...)
	if n := len(s.events) - maxPending; n > 0 {
		s.events = append([]facts.Event(nil), s.events[n:]...)
		s.lost += n
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) run(fn func(facts.State, []facts.Event)) {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		s.mu.Lock()
		state, events, lost := s.state, s.events, s.lost
		s.events, s.lost = nil, 0
		s.mu.Unlock()
		if lost > 0 {
			events = append([]facts.Event{{
				Kind: "events-lost", Severity: facts.SeverityWarning, Version: state.Version, Epoch: state.Primary.Epoch,
				Text: fmt.Sprintf("%d events are not shown because their reader was too slow", lost),
			}}, events...)
		}
		fn(state, events)
	}
}

// end stops the goroutine and waits for it.
func (s *subscriber) end() {
	s.once.Do(func() { close(s.stop) })
	<-s.done
}
