package node

import (
	"sync"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// maxSlice is the most that one look at the clock counts as listening: after a
// pause of this daemon (a stop signal, a suspended machine) nothing that it
// missed is taken for the silence of others.
const maxSlice = 150 * time.Millisecond

// ears is for how long this daemon has not heard whom, counted by listening,
// and who refuses its connections.
type ears struct {
	mu       sync.Mutex
	looked   time.Time
	listened time.Duration
	heard    map[string]*heardOf   // by store; of those that control remembers
	refused  map[string]*refusedBy // by node
}

type heardOf struct {
	at    time.Duration // on the listening clock
	gone  bool
	clock time.Duration // the sender's
}

type refusedBy struct {
	times       int
	first, last time.Duration // on the listening clock
}

func newEars() *ears {
	return &ears{looked: time.Now(), heard: map[string]*heardOf{}, refused: map[string]*refusedBy{}}
}

// listen moves the listening clock on; it is called at least every 100 ms.
func (e *ears) listen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tick()
}

func (e *ears) tick() {
	now := time.Now()
	e.listened += min(now.Sub(e.looked), maxSlice)
	e.looked = now
}

// report notes that a report came.
func (e *ears) report(rep decide.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tick()
	e.heard[rep.Store] = &heardOf{at: e.listened, clock: rep.Clock}
	delete(e.refused, rep.Node)
}

// ended notes that the connection ended on which a store spoke.
func (e *ears) ended(store string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.heard[store]; h != nil {
		h.gone = true
	}
}

// forget drops a store with which no node speaks any more.
func (e *ears) forget(store string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.heard, store)
}

// answered notes how a node's host took a connection. It tells whether the
// refusals have just become evidence.
func (e *ears) answered(node string, refused bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tick()
	if !refused {
		delete(e.refused, node)
		return false
	}
	r := e.refused[node]
	if r == nil {
		e.refused[node] = &refusedBy{times: 1, first: e.listened, last: e.listened}
		return false
	}
	was := r.counts()
	r.times++
	r.last = e.listened
	return !was && r.counts()
}

func (r *refusedBy) counts() bool { return decide.Refuses(r.times, r.last-r.first) }

// of is what is heard of the members, in order of name.
func (e *ears) of(members []facts.Member) []decide.Hears {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []decide.Hears
	for _, m := range members {
		h := decide.Hears{Node: m.Name, Store: m.Store, Never: true, Ago: e.listened}
		if was := e.heard[m.Store]; was != nil {
			h.Never, h.Ago, h.Gone, h.Clock = false, e.listened-was.at, was.gone, was.clock
		}
		if r := e.refused[m.Name]; r != nil {
			h.Refusals, h.RefusedFor = r.times, r.last-r.first
		}
		out = append(out, h)
	}
	return out
}
