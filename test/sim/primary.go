package sim

import (
	"slices"
	"sort"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/primary/quorum"
	"understudy/shipper/pos"
)

// run is the data plane of a primary: it receives from the local server, ships
// to every peer, and counts what they hold.
type run struct {
	d       *daemon
	epoch   pos.Epoch
	lineage pos.Lineage
	count   *quorum.Counter
	end     pos.LSN // received from the server
	told    pos.LSN // committed
	stopped bool
	atOnce  map[string]bool
	members uint64
	links   []*link
	marks   []flushMark
}

// flushMark is when the daemon saw that its server had flushed up to a place.
type flushMark struct {
	at    pos.LSN
	clock time.Duration
}

// flushedAt is when all below to was seen to be flushed.
func (r *run) flushedAt(to pos.LSN) time.Duration {
	i := sort.Search(len(r.marks), func(i int) bool { return r.marks[i].at >= to })
	if i == len(r.marks) {
		return 0
	}
	return r.marks[i].clock
}

// link is the way to one peer.
type link struct {
	node    int
	store   string
	data    bool
	id      int // of the connection; a late answer of an older one is dropped
	up      bool
	refused bool
	since   time.Duration
	tried   time.Duration
	heard   time.Duration
	contact time.Duration // when the last heartbeat was sent that was answered
	at      pos.LSN
	n       int
	greeted bool
	applied pos.LSN
}

// startRun begins to receive at from.
func (d *daemon) startRun(st facts.State, e pos.Epoch, from pos.LSN) *run {
	r := &run{d: d, epoch: e, lineage: st.Lineage, end: from, atOnce: map[string]bool{}}
	r.count = quorum.New(d.n.sp.store, st.Lineage.Last().Start, 0)
	r.count.Durable(d.n.sp.store, from)
	r.setState(st)
	d.run = r
	d.n.pg.source = r
	r.received()
	r.tick()
	return r
}

// setState tells of new members and voters.
func (r *run) setState(st facts.State) {
	if r.stopped || r.members == st.MembersVersion && r.count.Version() == st.Voters.Version {
		return
	}
	r.members = st.MembersVersion
	r.count.SetVoters(st.Voters.Version, r.d.w.mut.voters(st))
	clear(r.atOnce)
	for _, v := range st.Voters.Stores {
		r.atOnce[v] = len(st.Voters.Stores) <= 3
	}
	var links []*link
	for _, n := range r.d.w.nodes {
		m, ok := st.MemberByName(n.name)
		if !ok || n == r.d.n {
			continue
		}
		l := &link{node: n.i, store: m.Store, data: m.Kind == facts.KindData, since: r.d.w.now}
		for _, old := range r.links {
			if old.store == m.Store {
				l = old
			}
		}
		if l.up && l.data && l.greeted != r.atOnce[l.store] {
			l.up = false // greeted anew
		}
		links = append(links, l)
	}
	r.links = links
	r.advance()
}

// received takes what the server has flushed.
func (r *run) received() {
	pg := r.d.n.pg
	if r.stopped || pg == nil || !pg.primary {
		return
	}
	if until := r.d.n.halted(true); until > r.d.w.now {
		r.d.n.later(true, r.received)
		return
	}
	if f := r.d.n.dir.flushed; f > r.end {
		r.end = f
		r.marks = append(r.marks, flushMark{f, r.d.n.clock()})
		r.count.Durable(r.d.n.sp.store, f)
	}
	r.advance()
	for _, l := range r.links {
		r.ship(l)
	}
}

// ship sends what a peer lacks, cut anywhere.
func (r *run) ship(l *link) {
	if !l.up {
		return
	}
	for l.at < r.end {
		to := r.end
		if r.d.w.chance(0.2) {
			to = l.at + 1 + pos.LSN(r.d.w.rng.IntN(int(to-l.at)))
		}
		to = min(to, l.at+4096)
		r.send(l, frame{p: r.d.n.dir.wal.slice(l.at, to), flushed: r.flushedAt(to)})
		l.at = to
	}
}

func (r *run) send(l *link, f frame) {
	f.id, f.n, f.epoch, f.committed = l.id, l.n, r.epoch, r.told
	l.n++
	from := r.d.n.i
	r.d.w.net.send(from, l.node, func(p *daemon) { p.recv.take(from, f) })
}

// tick dials, sends heartbeats, and notices silence.
func (r *run) tick() {
	if r.stopped || !r.d.alive() {
		return
	}
	w := r.d.w
	for _, l := range r.links {
		switch {
		case l.up && w.now-l.heard > time.Second:
			l.up, l.since, l.applied = false, w.now, 0
		case l.up:
			r.send(l, frame{beat: r.d.n.clock()})
		case w.now-l.tried > 250*time.Millisecond:
			r.dial(l)
		}
	}
	r.d.after(100*time.Millisecond, r.tick)
}

func (r *run) dial(l *link) {
	w := r.d.w
	w.sessions++
	l.id, l.tried, l.greeted = w.sessions, w.now, r.atOnce[l.store]
	h := hello{id: l.id, epoch: r.epoch, lineage: r.lineage, to: l.store, atOnce: l.greeted, end: r.end, committed: r.told}
	from := r.d.n.i
	w.net.send(from, l.node, func(p *daemon) { p.recv.greet(from, h) })
}

// welcomed is a peer's answer to a greeting.
func (d *daemon) welcomed(h hello, store string, wel welcome) {
	r := d.run
	if r == nil || r.stopped {
		return
	}
	for _, l := range r.links {
		if l.id != h.id || l.up {
			continue
		}
		own := d.n.dir.wal
		if l.refused = wel.refused || store != l.store || wel.resume > r.end || !wel.empty && own.mark(wel.resume) != wel.mark; l.refused {
			d.w.trace("%s: %s is refused, resume %s of %s", d.n.name, store, wel.resume, r.end)
			return
		}
		l.up, l.since, l.heard, l.at, l.n = true, d.w.now, d.w.now, wel.resume, 0
		r.send(l, frame{beat: d.n.clock()})
		r.ship(l)
	}
}

// acked is a peer's word on what it holds.
func (d *daemon) acked(a ack) {
	r := d.run
	if r == nil || r.stopped {
		return
	}
	for _, l := range r.links {
		if l.id != a.id || l.store != a.store || a.epoch != r.epoch || !l.up {
			continue
		}
		l.heard, l.applied = d.w.now, a.applied
		if a.beat != 0 && d.w.mut.on(LeaseByReceipt) {
			a.beat = d.n.clock()
		}
		l.contact = max(l.contact, a.beat)
		if r.count.Durable(a.store, min(a.durable, r.end)) {
			r.advance()
		}
	}
}

// advance passes a new committed LSN on.
func (r *run) advance() {
	c := r.count.Committed()
	if r.stopped || c <= r.told {
		return
	}
	r.told = c
	r.d.w.check.tell(r.epoch, r.d.n.dir.wal, c)
	if pg := r.d.n.pg; pg != nil && pg.source == r {
		pg.confirm(c)
	}
	for _, l := range r.links {
		if l.up && l.data && !l.greeted { // it waits for committed
			r.send(l, frame{})
		}
	}
}

// spread tells whether what this primary calls committed is on a majority of
// the voters that it counts by now: by those of before it may have been on
// others. Only then may the voters change again.
func (r *run) spread(voters []string) bool {
	k := 0
	for _, v := range voters {
		if r.count.Acked(v) >= r.told {
			k++
		}
	}
	return k >= r.count.Needed()
}

// contactAt is when the last heartbeat was sent that a majority has answered.
func (r *run) contactAt() time.Duration {
	need := r.count.Needed() - 1
	if need <= 0 {
		return r.d.n.clock()
	}
	var best []time.Duration
	for _, l := range r.links {
		if r.count.IsVoter(l.store) {
			best = append(best, l.contact)
		}
	}
	if len(best) < need {
		return 0
	}
	slices.Sort(best)
	return best[len(best)-need]
}

// stop ends counting at once.
func (r *run) stop() {
	r.stopped = true
	if r.d.run == r {
		r.d.run = nil
	}
	if pg := r.d.n.pg; pg != nil && pg.source == r {
		pg.source = nil
	}
}

// say adds what a primary knows to a report.
func (r *run) say(rep *decide.Report) {
	rep.Received, rep.Durable, rep.Applied, rep.Committed = r.end, r.end, r.end, r.told
	rep.Epoch, rep.VotersVersion = r.epoch, r.count.Version()
	for _, l := range r.links {
		state := "connecting"
		switch {
		case l.up:
			state = "streaming"
		case l.refused:
			state = "refused"
		}
		rep.Links = append(rep.Links, decide.Link{Peer: r.d.w.nodes[l.node].name, State: state,
			Since: r.d.n.wall().Add(l.since - r.d.w.now), Sent: l.at, Acked: r.count.Acked(l.store), Applied: l.applied})
	}
}
