package sim

import (
	"slices"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// hearing is what one daemon hears of another store.
type hearing struct {
	word   bool // there was a report
	report decide.Report
	at     time.Duration // by the host's clock
	awake  time.Duration // by the time this daemon has listened
	// ended: the connection on which the reports came is gone.
	ended       bool
	refusals    int
	first, last time.Duration // of the refusals
}

// awakeAtMost is what one tick adds to the time that a daemon has listened: its
// own pause is no silence of others.
const awakeAtMost = 250 * time.Millisecond

// listen counts the time for which this daemon has listened.
func (d *daemon) listen() {
	now := d.n.clock()
	d.awake += min(now-d.ticked, awakeAtMost)
	d.ticked = now
}

// of is what is heard of a store.
func (d *daemon) of(store string) *hearing {
	h, ok := d.heard[store]
	if !ok {
		h = &hearing{}
		d.heard[store] = h
	}
	return h
}

// hear takes a report.
func (d *daemon) hear(rep decide.Report) {
	h := d.of(rep.Store)
	if h.word && h.report.Boot == rep.Boot && h.report.Seq >= rep.Seq {
		return
	}
	d.listen()
	*h = hearing{word: true, report: rep, at: d.n.clock(), awake: d.awake}
}

// reports tells everybody how this node is.
func (d *daemon) reports() {
	d.listen()
	d.seq++
	rep := d.report()
	for _, n := range d.w.nodes {
		if n != d.n {
			d.w.net.report(d.n.i, n.i, func(p *daemon) { p.hear(rep) })
			d.dial(n)
		}
	}
	d.yield()
	d.after(100*time.Millisecond, d.reports)
}

// hears is what this node hears of the other members.
func (d *daemon) hears() []decide.Hears {
	var out []decide.Hears
	inflated := d.w.mut.on(SilenceBeforeListening)
	for _, m := range d.state().Members {
		if m.Store == d.n.sp.store {
			continue
		}
		e := decide.Hears{Node: m.Name, Store: m.Store}
		h := d.of(m.Store)
		if h.word {
			e.Ago, e.Gone, e.Clock = d.awake-h.awake, h.ended, h.report.Clock
		} else {
			e.Never, e.Ago, e.Gone = true, d.awake, h.ended
			if inflated {
				e.Ago = time.Hour
			}
		}
		if h.refusals > 0 {
			e.Refusals, e.RefusedFor = h.refusals, h.last-h.first
			if d.w.mut.on(RefusedOnce) {
				e.Refusals, e.RefusedFor = e.Refusals+1, e.RefusedFor+time.Second
			}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b decide.Hears) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// hangUp is what the kernel of a host does when a daemon ends while the host
// lives: whoever it was connected to learns that the connection is gone.
func (n *node) hangUp() {
	store := n.sp.store
	for _, o := range n.w.nodes {
		if o == n {
			continue
		}
		n.w.net.report(n.i, o.i, func(p *daemon) { p.ended(store, n.i) })
	}
}

// ended notes that a connection is gone, and tries to make another one.
func (d *daemon) ended(store string, from int) {
	d.of(store).ended = true
	d.dial(d.w.nodes[from])
}

// dial finds out whether a host, on which nobody is heard, refuses connections.
// It is tried again soon while it is refused.
func (d *daemon) dial(n *node) {
	w, store := d.w, ""
	for s, m := range d.state().Members {
		if m.Name == n.name {
			store = s
		}
	}
	h := d.of(store)
	if store == "" || d.dialing[n.i] || !h.ended && d.n.clock()-h.at < 200*time.Millisecond {
		return
	}
	d.dialing[n.i] = true
	d.after(w.between(200*time.Microsecond, w.scene.slow), func() {
		d.dialing[n.i] = false
		h := d.of(store)
		switch {
		case !w.net.both(d.n.i, n.i) || !n.host.up || n.halted(false) > w.now:
			h.refusals = 0 // no answer: the row is over
		case n.daemon == nil:
			if h.refusals == 0 {
				h.first = d.n.clock()
			}
			h.refusals, h.last, h.ended = h.refusals+1, d.n.clock(), true
			d.after(60*time.Millisecond, func() { d.dial(n) })
		}
	})
}

// seen remembers when this daemon first saw what has a time in the ledger.
func (d *daemon) seen() {
	st, now := d.state(), d.n.clock()
	if d.epoch.epoch != st.Primary.Epoch {
		d.epoch.epoch, d.epoch.at = st.Primary.Epoch, now
	}
	for s, l := range st.Leaving {
		if old, ok := d.leaving[s]; !ok || old.what != l {
			d.leaving[s] = leavingSeen{l, now}
		}
	}
}

// epochSeen and leavingSeen are when a daemon saw something, by its own clock.
type epochSeen struct {
	epoch pos.Epoch
	at    time.Duration
}

type leavingSeen struct {
	what facts.Leaving
	at   time.Duration
}

// observe is what this node could decide on.
func (d *daemon) observe(st facts.State) decide.Observation {
	now, clock := d.n.wall(), d.n.clock()
	// Ages are measured by a clock that nobody sets.
	at := func(t time.Duration) time.Time { return now.Add(t - clock) }
	reports := make(map[string]decide.Heard, len(d.heard)+1)
	for s, h := range d.heard {
		if h.word {
			reports[s] = decide.Heard{Report: h.report, At: at(h.at), Gone: h.ended}
		}
	}
	d.listen()
	own := d.report()
	reports[own.Store] = decide.Heard{Report: own, At: now}
	o := decide.Observation{Now: now, SelfStore: d.n.sp.store, State: st, Reports: reports,
		Raft: d.n.ledger.servers, LastTransfer: at(d.transfer), Began: at(d.beganAt)}
	if d.epoch.epoch == st.Primary.Epoch {
		o.EpochSeen = at(d.epoch.at)
	}
	for s, seen := range d.leaving {
		if l, ok := st.Leaving[s]; ok && l == seen.what {
			if o.LeavingSeen == nil {
				o.LeavingSeen = map[string]time.Time{}
			}
			o.LeavingSeen[s] = at(seen.at)
		}
	}
	return d.w.mut.observe(o)
}
