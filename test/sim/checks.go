package sim

import (
	"fmt"
	"time"

	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// checks watch a run. They know everything, and they judge results only: no
// part of the model asks them.
type checks struct {
	w         *world
	failure   string
	stuck     bool // the failure is that the group did not become whole
	acks      []rec
	told      committed // the furthest that a primary called committed
	newest    pos.Epoch // opened
	opened    map[pos.Epoch]opening
	order     []pos.Epoch
	timelines map[pos.Timeline]pos.Epoch
	began     map[pos.Epoch]time.Duration
	opens     int
	restores  int
	watch     watch
	outages   []Outage
	outage    *outage                  // under way
	leaving   map[string]time.Duration // when it was applied
	lost      []remains
	restore   restoreWatch
	decreed   time.Duration // when the policy changed last
}

// opening is the log with which a primary opened.
type opening struct {
	log wal
	at  time.Duration
}

func (c *checks) fail(format string, args ...any) {
	if c.failure == "" {
		c.failure = fmt.Sprintf("at %s: ", c.w.now) + fmt.Sprintf(format, args...)
		c.w.trace("FAILED %s", c.failure)
	}
}

// acked: a client was told that its record is committed. It has to be in the
// history of every primary that opened in a later epoch.
func (c *checks) acked(n *node, r rec) {
	c.acks = append(c.acks, r)
	c.restore.acked(c, n, r)
	c.breath(n, r)
	c.counted(n, r)
	for _, e := range c.order {
		if r.epoch.Less(e) && !c.opened[e].log.holds(r) {
			c.fail("%s acknowledged %s of epoch %s although epoch %s is open without it", n.name, r.end, r.epoch, e)
		}
	}
}

// applied looks at every step of the ledger.
func (c *checks) applied(l *ledger, before, after facts.State, cmd facts.Command) {
	p, q := before.Primary, after.Primary
	c.restore.applied(c, l, before, after, cmd)
	if q.Epoch.Less(p.Epoch) {
		c.fail("the epoch fell from %s to %s", p.Epoch, q.Epoch)
	}
	if err := after.Lineage.Validate(); err != nil {
		c.fail("%v", err)
	}
	if p.Epoch != q.Epoch {
		c.began[q.Epoch] = c.w.now
		c.begun(before, cmd.BeginEpoch)
		c.w.trace("ledger: epoch %s: %s", q.Epoch, q.Cause)
	}
	if p.Phase != q.Phase {
		c.w.trace("ledger: %s %s %s, elected %s, start %s on %d", q.Epoch, q.Phase, q.Node, q.Elected, q.Start, q.Timeline)
	}
	switch {
	case cmd.SetLeaving != nil:
		c.leaving[cmd.SetLeaving.Leaving.Store] = c.w.now
	case cmd.SetPolicy != nil:
		c.decreed = c.w.now
	case cmd.MarkSeeded != nil:
		c.w.trace("ledger: %s seeded %t", before.NameOf(cmd.MarkSeeded.Store), cmd.MarkSeeded.Seeded)
	case cmd.Returned != nil:
		c.returned(after, cmd.Returned)
	case cmd.Assign != nil && q.Phase != p.Phase:
		c.elected(after)
	case cmd.Starting != nil && q.Phase != p.Phase:
		c.starting(after)
	case cmd.Opened != nil && q.Phase != p.Phase:
		c.opening(after)
	}
}

// committed is what a primary told others to be committed.
type committed struct {
	epoch pos.Epoch
	last  rec // the last whole record of it
}

// tell: a primary calls its log committed up to a place. Every later primary
// holds all whole records of that.
func (c *checks) tell(e pos.Epoch, log wal, upto pos.LSN) {
	if i := log.whole(upto); i > 0 && !e.Less(c.told.epoch) && c.restore.past.Less(e) {
		c.told = committed{e, log.recs[i-1]}
	}
}

// returned: nor may the old primary's own record.
func (c *checks) returned(s facts.State, r *facts.Returned) {
	c.w.trace("ledger: %s returned from %s by %s, closing %+v", s.NameOf(r.Store), r.Epoch, r.Method, r.Closing)
	if ch, ok := s.ChangeOf(r.Epoch); ok && ch.Proof != nil && !ch.Proof.Lost.Empty() {
		c.fail("the return of %s makes the proof of epoch %s say: %s", s.NameOf(r.Store), r.Epoch, ch.Proof.Sentence())
	}
}

// elected: the elected log holds every acknowledged record.
func (c *checks) elected(s facts.State) {
	n := c.byStore(s.Primary.Store)
	if n == nil {
		return
	}
	underWay := c.decreed != 0 && c.w.now-c.decreed < 50*time.Millisecond // decided by the policy before
	if s.Order == nil && !underWay && s.Policy.Of(n.name).NoFailover && s.Primary.Previous != s.Primary.Store {
		c.fail("%s is elected for epoch %s, which the policy forbids", n.name, s.Primary.Epoch)
	}
	log := n.sp.log
	if n.past() == role.PastPrimary {
		log = n.dir.wal
	}
	if t := c.told; t.last.end > log.base && !log.holds(t.last) {
		c.fail("%s is elected for epoch %s without %s, which epoch %s called committed", n.name, s.Primary.Epoch, t.last.end, t.epoch)
	}
	for _, r := range c.acks {
		if r.end > log.base && !log.holds(r) {
			c.fail("%s is elected for epoch %s without %s of epoch %s, which was acknowledged", n.name, s.Primary.Epoch, r.end, r.epoch)
			return
		}
	}
}

// starting: the proof may not speak of losses, since nobody used force.
func (c *checks) starting(s facts.State) {
	ch, ok := s.ChangeOf(s.Primary.Epoch)
	if !ok || ch.Proof == nil {
		return
	}
	if p := ch.Proof; !p.Lost.Empty() || !p.MayLost.Empty() {
		c.fail("the proof of epoch %s says: %s", s.Primary.Epoch, p.Sentence())
	}
}

// opening: every acknowledged record is there, and a majority holds the log.
func (c *checks) opening(s facts.State) {
	p := s.Primary
	n := c.byStore(p.Store)
	if n == nil {
		c.fail("epoch %s opened on a store that no node has", p.Epoch)
		return
	}
	if !c.newest.Less(p.Epoch) {
		c.fail("epoch %s opened after %s", p.Epoch, c.newest)
	}
	c.newest = p.Epoch
	c.opened[p.Epoch] = opening{n.dir.wal.cut(n.dir.wal.end), c.w.now}
	c.order = append(c.order, p.Epoch)
	c.opens++
	for _, r := range c.acks {
		if !n.dir.wal.holds(r) {
			c.fail("%s opened epoch %s without %s of epoch %s, which was acknowledged", n.name, p.Epoch, r.end, r.epoch)
			return
		}
	}
	top := n.dir.wal.recordEnd(p.Start + 1)
	if i := n.dir.wal.whole(top); i > 0 && c.durable(n.dir.wal.recs[i-1], s) <= len(s.Voters.Stores)/2 {
		c.fail("%s opened epoch %s before a majority had its recovered log", n.name, p.Epoch)
	}
}

func (c *checks) byStore(store string) *node {
	for _, n := range c.w.nodes {
		if n.sp.store == store {
			return n
		}
	}
	return nil
}

// durable is how many voters hold a record on their disks.
func (c *checks) durable(r rec, s facts.State) int {
	had := c.were(r, s, true)
	for _, n := range c.w.nodes {
		if s.IsVoter(n.sp.store) && (n.sp.log.cut(n.sp.durable).holds(r) || n.dir.wal.cut(n.dir.flushed).holds(r)) {
			had[n.sp.store] = true
		}
	}
	return len(had)
}

// remains is what a store held when its disk was lost: its spool, and the log
// of its own server.
type remains struct {
	store            string
	log, written     wal
	durable, flushed pos.LSN
}

// remember notes what a node holds, whose disk is about to be lost.
func (c *checks) remember(n *node) {
	c.lost = append(c.lost, remains{n.sp.store, n.sp.log, n.dir.wal, n.sp.durable, n.dir.flushed})
}

// were are the voters that had a record on disks that are lost by now: what was
// right to acknowledge and to apply stays right when fewer have it later.
func (c *checks) were(r rec, s facts.State, durable bool) map[string]bool {
	had := map[string]bool{}
	for _, l := range c.lost {
		if durable {
			l.log, l.written = l.log.cut(l.durable), l.written.cut(l.flushed)
		}
		if s.IsVoter(l.store) && (l.log.holds(r) || l.written.holds(r)) {
			had[l.store] = true
		}
	}
	return had
}

// present is how many voters have a record, on disk or not.
func (c *checks) present(r rec, s facts.State) int {
	had := c.were(r, s, false)
	for _, n := range c.w.nodes {
		if s.IsVoter(n.sp.store) && (n.sp.log.holds(r) || n.dir.wal.holds(r)) {
			had[n.sp.store] = true
		}
	}
	return len(had)
}

// redone: a standby applied a record. Unless it was elected, a majority has it.
func (c *checks) redone(n *node, r rec) {
	if n.marked != nil {
		return
	}
	s := n.ledger.head()
	// What was sent under the set before is on a majority of that one, which
	// every majority of this one meets.
	for k, v := len(n.ledger.states)-1, s.Voters.Version; k >= 0; k-- {
		old := n.ledger.states[k]
		if old.Voters.Version+1 < v {
			break
		}
		if c.present(r, old) > len(old.Voters.Stores)/2 {
			return
		}
	}
	c.fail("%s applied %s of epoch %s, which no majority has; the voters are %v", n.name, r.end, r.epoch, s.Voters.Stores)
}

// restored: a directory was made a copy of the primary's.
func (c *checks) restored() { c.restores++ }

// promoted: a timeline id names one promotion.
func (c *checks) promoted(n *node, e pos.Epoch, t pos.Timeline) {
	if old, used := c.timelines[t]; used && old != e {
		c.fail("%s promotes to timeline %d in epoch %s, which epoch %s used", n.name, t, e, old)
	}
	c.timelines[t] = e
}

// permitted: clients are let in. The newest epoch may be another one by now,
// but not since before this daemon began.
func (c *checks) permitted(n *node, e pos.Epoch, born time.Duration) {
	s := c.w.ledger.head()
	if e.Less(s.Primary.Epoch) {
		if at := c.began[e.Next()]; at < born {
			c.fail("%s lets clients in as primary of %s, which ended at %s, before its daemon began", n.name, e, at)
		}
	}
}

// moment is looked at again and again: who is open although a newer primary
// has been open for longer than any lease.
func (c *checks) moment() {
	if c.failure != "" {
		return
	}
	c.look()
	newest, ok := c.opened[c.newest]
	for _, n := range c.w.nodes {
		if s := n.pg; ok && s != nil && s.primary && s.open && s.epoch.Less(c.newest) && c.w.now-max(newest.at, n.host.paused) > isolation+6*time.Second && n.clock() > s.until {
			c.fail("%s is still open in epoch %s, %s after %s", n.name, s.epoch, c.w.now-newest.at, c.newest)
		}
	}
}

// settled tells what is missing until the group is whole; "" when it is.
func (c *checks) settled() string {
	s := c.w.ledger.head()
	p := s.Primary
	var open *node
	for _, n := range c.w.nodes {
		if g := n.pg; g != nil && g.primary && g.open {
			if open != nil {
				return "two servers are open"
			}
			open = n
		}
	}
	switch {
	case open == nil:
		return fmt.Sprintf("nobody is open; epoch %s is %s, store %q", p.Epoch, p.Phase, p.Store)
	case p.Phase != facts.PhaseOpened || p.Store != open.sp.store || open.pg.epoch != p.Epoch:
		return "the open server is not the ledger's primary"
	case s.Order != nil:
		return "the order to " + s.NameOf(s.Order.To) + " stands"
	case open.pg.out || s.Offline != nil:
		return "clients of " + open.name + " are kept out"
	case s.Voters.Confirmed != s.Voters.Version:
		return "the primary does not count by the present voters"
	}
	for _, n := range c.w.nodes {
		m, ok := s.Members[n.sp.store]
		switch {
		case !n.runs() || !ok || s.IsVoter(n.sp.store) == (s.Policy.Of(n.name).NoVote && n != open):
			return n.name + " is down, or has a vote and shall not, or shall and has not"
		case max(n.host.stuck, n.host.stuckLog) > c.w.now:
			return "the disk of " + n.name + " hangs"
		case n == open:
			continue
		case n.daemon.recv.cur == nil || n.daemon.recv.cur.from != open.i || !n.daemon.recv.cur.adopted:
			return n.name + " takes no stream"
		case n.kind == facts.KindWitness:
			continue
		}
		switch {
		case !m.Seeded || n.dir.state != dirCluster || n.marked != nil:
			return fmt.Sprintf("%s has not come back: directory %s, marked %t", n.name, n.dir.state, n.marked != nil)
		case n.pg == nil || n.pg.rcv == nil:
			return n.name + " does not stream"
		case n.dir.applied.end+500 < open.dir.wal.end:
			return fmt.Sprintf("%s has applied %s of %s", n.name, n.dir.applied.end, open.dir.wal.end)
		case open.dir.wal.mark(n.dir.applied.end) != n.dir.applied.mark(n.dir.applied.end):
			return n.name + " holds another history"
		}
	}
	return ""
}

// finish judges the end of a run.
func (c *checks) finish() {
	if why := c.settled(); why != "" {
		c.stuck = true
		c.fail("the group is not whole %s after the last fault: %s", c.w.now-c.w.calm, why)
		return
	}
	s := c.w.ledger.head()
	open := c.byStore(s.Primary.Store)
	for _, r := range c.acks {
		if !open.dir.wal.holds(r) {
			c.fail("%s of epoch %s was acknowledged and is gone", r.end, r.epoch)
			return
		}
	}
	for _, ch := range s.Changes {
		if ch.Proof != nil && (!ch.Proof.Lost.Empty() || !ch.Proof.MayLost.Empty()) {
			c.fail("the proof of epoch %s says: %s", ch.Epoch, ch.Proof.Sentence())
		}
	}
}
