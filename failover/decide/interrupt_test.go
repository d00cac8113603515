package decide_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// host is an honest node: what survives a crash is its store, and the rest is
// its daemon and its server.
type host struct {
	store   string
	log     pos.LSN     // durable
	lineage pos.Lineage // adopted
	fence   pos.Epoch   // promised
	heard   pos.LSN     // committed, as far as it was told
	from    pos.LSN     // where the log begins that it keeps

	up      bool
	writing pos.Epoch // of its server; zero when that does not run for writing
	open    bool      // clients are let in
	ended   pos.Epoch
}

// cluster is a ledger that survives everything, three hosts, and the time.
type cluster struct {
	*lab
	hosts []*host
	held  []pos.Pos // what a majority held at some moment
}

// record is the size of a record of WAL here: logs may end within one.
const record = 7

func whole(l pos.LSN) pos.LSN { return l - l%record }

// newCluster is the trio, open: main has written beyond what is committed, the
// witness has more than the backup.
func newCluster(t testing.TB) *cluster {
	c := &cluster{lab: trio(t)}
	for s, log := range map[string]pos.LSN{"A": 6000, "B": 5500, "W": 5800} {
		c.hosts = append(c.hosts, &host{store: s, log: log, lineage: c.o.State.Lineage, fence: epoch(1), heard: 5800, from: 50, up: true})
	}
	slices.SortFunc(c.hosts, func(a, b *host) int { return int(a.store[0]) - int(b.store[0]) })
	c.host("A").writing, c.host("A").open = epoch(1), true
	c.note()
	c.speak()
	return c
}

func (c *cluster) host(store string) *host {
	return c.hosts[slices.IndexFunc(c.hosts, func(h *host) bool { return h.store == store })]
}

// note remembers what a majority holds now: what any two of the three have in
// common.
func (c *cluster) note() {
	for i, h := range c.hosts {
		for _, o := range c.hosts[:i] {
			end, n := min(h.log, o.log), 0
			if fork, same := h.lineage.Fork(o.lineage); !same || len(h.lineage) != len(o.lineage) {
				end = min(end, fork)
			}
			for n < len(h.lineage) && n < len(o.lineage) && h.lineage[n] == o.lineage[n] {
				n++
			}
			if m := h.lineage[:n].Position(end); !slices.Contains(c.held, m) {
				c.held = append(c.held, m)
			}
		}
	}
}

// do proposes a command of a host; what is refused did not happen.
func (c *cluster) do(cmd facts.Command) bool {
	cmd.At = c.o.Now
	s, out := facts.Apply(c.o.State, cmd)
	if out.Refused == "" {
		c.o.State = s
	}
	return out.Refused == ""
}

// speak makes every host that is up report.
func (c *cluster) speak() {
	p := c.o.State.Primary
	for _, h := range c.hosts {
		if !h.up {
			continue
		}
		c.say(h.store, func(r *decide.Report) {
			r.Fence, r.Durable, r.Received, r.Spool.From, r.Server.Ended = h.fence, h.log, h.log, h.from, h.ended
			r.Epoch, r.Links = h.lineage.Last().Epoch, nil
			switch {
			case h.store == "W":
				r.Server.State = decide.ServerAbsent
			case h.open:
				r.Server.State = decide.ServerOpen
			case !h.writing.IsZero():
				r.Server.State = decide.ServerLocked
			case p.Store == h.store || p.Store == "":
				r.Server.State = decide.ServerStopped
			default:
				r.Server.State = decide.ServerReplica
			}
		})
	}
}

// fenceNow promises the present epoch and reports what is durable.
func (c *cluster) fenceNow(h *host) {
	p := c.o.State.Primary
	h.writing, h.open, h.fence = pos.Epoch{}, false, p.Epoch
	c.do(facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{Store: h.store, Epoch: p.Epoch,
		Voters: c.o.State.Voters.Version, Lineage: h.lineage, LSN: h.log, Timeline: h.lineage.TimelineAt(h.log), Heard: h.heard}}})
}

// copyLog brings a candidate level with its donor, if both are up.
func (c *cluster) copyLog(h *host) {
	p := c.o.State.Primary
	if p.Copy == nil || p.Copy.Store != h.store || !p.Fence[h.store].Pos.Less(p.Fence[p.Copy.Donor].Pos) {
		return
	}
	if donor := c.host(p.Copy.Donor); donor.up && donor.from <= h.log {
		// The entries come along: the same bytes may be of a newer epoch.
		h.adopt(donor.lineage)
		h.log = p.Copy.Upto
		c.fenceNow(h)
	}
}

// adopt takes a lineage: a log that leaves it is cut, and so is what was heard
// to be committed, since beyond the fork that is a part of a record.
func (h *host) adopt(l pos.Lineage) {
	if fork, same := l.Fork(h.lineage); !same || len(h.lineage) < len(l) {
		h.log, h.heard = min(h.log, fork), min(h.heard, fork)
	}
	h.lineage = l
}

// start records where the assigned host begins, in whole records, and starts
// its server with clients locked out.
func (c *cluster) start(h *host) {
	s := c.o.State
	tli := s.Lineage.Last().Timeline
	if was := s.Primary.Previous; was != h.store {
		tli = s.NextTimeline()
	}
	if h.fence != s.Primary.Epoch || !c.do(facts.Command{Starting: &facts.Starting{Epoch: s.Primary.Epoch, Store: h.store, Timeline: tli, End: whole(s.Primary.Elected.LSN)}}) {
		return
	}
	h.adopt(c.o.State.Lineage)
	h.writing = s.Primary.Epoch
}

// follow takes the log of the primary in its epoch, if it has not promised a
// newer one.
func (c *cluster) follow(h *host) {
	p := c.o.State.Primary
	from := c.host(p.Store)
	if !from.up || from.writing != p.Epoch || p.Epoch.Less(h.fence) {
		return
	}
	h.fence = p.Epoch
	h.adopt(c.o.State.Lineage)
	h.log = max(h.log, from.log)
}

// letIn opens the assigned host once a majority has its start in its epoch.
func (c *cluster) letIn(h *host) {
	n := 0
	for _, o := range c.hosts {
		if o.up && o.lineage.Last().Epoch == h.writing && o.log >= c.o.State.Primary.Start {
			n++
		}
	}
	if n >= 2 && c.do(opened(c.lab, h.store, c.o.State.Primary.Start)) {
		h.open = true
		h.log += 3*record + 2 // clients come at once, and the log ends anywhere
	}
}

// act lets one host do what its agent would.
func (c *cluster) act(h *host) {
	p := c.o.State.Primary
	if !h.up {
		return
	}
	if h.writing.Less(p.Epoch) {
		h.writing, h.open = pos.Epoch{}, false
	}
	_, reported := p.Fence[h.store]
	switch {
	case p.Phase == facts.PhaseFencing && !reported:
		c.fenceNow(h)
	case p.Phase == facts.PhaseFencing:
		c.copyLog(h)
	case p.Store != h.store:
		c.follow(h)
	case c.ordered(h):
		h.log = whole(h.log) + record // the shutdown checkpoint
		c.host("W").log = max(c.host("W").log, h.log)
		h.writing, h.open, h.ended = pos.Epoch{}, false, p.Epoch
	case h.ended == p.Epoch:
	case p.Phase == facts.PhaseAssigned:
		if h.fence.Less(p.Epoch) {
			h.fence = p.Epoch
		}
		c.start(h)
	case h.writing != p.Epoch:
		h.ended = p.Epoch // its server died with the host; another start is another epoch
	case p.Phase != facts.PhaseOpened:
		c.letIn(h)
	default:
		h.open = true
	}
}

// ordered tells whether the operator wants this host's server to stop.
func (c *cluster) ordered(h *host) bool {
	o := c.o.State.Order
	return o != nil && o.Kind == facts.OrderSwitchover && o.Attempts == 0 && h.open && c.host("W").up
}

// crash ends every daemon and server; nobody is heard any more.
func (c *cluster) crash(aged bool) {
	for _, h := range c.hosts {
		h.up, h.open, h.writing = false, false, pos.Epoch{}
	}
	if aged {
		c.wait(5 * time.Second)
		return
	}
	c.o.Reports = map[string]decide.Heard{}
}

// heal lets hosts come back one after the other, and everybody do their part,
// until nothing is left to do; it returns the number of steps.
func (c *cluster) heal(back []string, gap int) (int, error) {
	for i := range 600 {
		if i%gap == 0 && i/gap < len(back) {
			c.host(back[i/gap]).up = true
		}
		c.wait(100 * time.Millisecond)
		c.speak()
		if i > gap*len(back)+20 {
			c.operator()
		}
		moved, err := c.lead()
		if err != nil {
			return i, err
		}
		before := fmt.Sprintf("%+v", c.snapshot())
		for _, h := range c.hosts {
			c.act(h)
		}
		c.note()
		if p := c.o.State.Primary; !moved && i/gap >= len(back) && before == fmt.Sprintf("%+v", c.snapshot()) && p.Phase == facts.PhaseOpened && c.host(p.Store).up {
			return i, nil
		}
	}
	return 600, fmt.Errorf("no rest: %+v, order %+v, hosts %+v", c.o.State.Primary, c.o.State.Order, c.snapshot())
}

// operator orders a failover when the primary stays away.
func (c *cluster) operator() {
	p := c.o.State.Primary
	if p.Phase != facts.PhaseOpened || c.host(p.Store).up {
		return
	}
	to := "main"
	if p.Node == to {
		to = "backup"
	}
	if r := decide.PlanFailover(c.o, to, false); r.Order != nil {
		o := *r.Order
		o.ID = "operator"
		c.do(facts.Command{SetOrder: &facts.SetOrder{Expect: p.Version, Order: o}})
	}
}

func (c *cluster) snapshot() []host {
	var out []host
	for _, h := range c.hosts {
		out = append(out, *h)
	}
	return out
}

// lead decides as long as a majority keeps the ledger.
func (c *cluster) lead() (bool, error) {
	var up []string
	for _, h := range c.hosts {
		if h.up {
			up = append(up, h.store)
		}
	}
	if len(up) < 2 {
		return false, nil
	}
	if !slices.Contains(up, c.o.SelfStore) {
		c.o.SelfStore = up[0]
	}
	for n := range 10 {
		p := decide.Decide(c.o)
		if p.Empty() {
			return n > 0, nil
		}
		if out := c.carry(p); out.Refused != "" {
			return true, fmt.Errorf("rule %s: %s", p.Rule, out.Refused)
		}
	}
	return true, fmt.Errorf("ten plans in one moment")
}

// check: one server is open, the one that the ledger names, and its log holds
// everything that a majority ever held, in whole records.
func (c *cluster) check() error {
	p := c.o.State.Primary
	var open []string
	for _, h := range c.hosts {
		if h.open || !h.writing.IsZero() {
			open = append(open, h.store)
		}
	}
	if len(open) != 1 || open[0] != p.Store || c.o.State.Order != nil {
		return fmt.Errorf("%v are open, the ledger says %s, order %+v", open, p.Store, c.o.State.Order)
	}
	h := c.host(p.Store)
	for _, m := range c.held {
		if !holds(h, m) {
			return fmt.Errorf("%s with %v and log to %s lacks %s, which a majority held", h.store, h.lineage, h.log, m)
		}
	}
	ch, _ := c.o.State.ChangeOf(p.Epoch)
	if pr := ch.Proof; pr != nil && (!pr.Lost.Empty() || !pr.MayLost.Empty()) {
		return fmt.Errorf("the proof says: %s", pr.Sentence())
	}
	return nil
}

// holds tells whether a log has the bytes of a position: its history passes
// through that epoch and leaves it no earlier.
func holds(h *host, m pos.Pos) bool {
	for i, e := range h.lineage {
		if e.Epoch != m.Epoch {
			continue
		}
		return whole(m.LSN) <= h.log && (i+1 == len(h.lineage) || whole(m.LSN) <= h.lineage[i+1].Start)
	}
	// Assigned, adopted by a majority without a byte of its own, and given up.
	return whole(m.LSN) <= h.log
}

// script is a sequence of one change as it goes when nothing interrupts it.
type script struct {
	name  string
	steps []func(*cluster)
}

func cmd(f func(*lab) facts.Command) func(*cluster) {
	return func(c *cluster) { c.must(f(c.lab)) }
}

func on(store string, f func(*cluster, *host)) func(*cluster) {
	return func(c *cluster) { f(c, c.host(store)) }
}

func scripts() []script {
	fences := func(stores ...string) (out []func(*cluster)) {
		for _, s := range stores {
			out = append(out, on(s, (*cluster).fenceNow))
		}
		return out
	}
	end := []func(*cluster){
		func(c *cluster) {
			p := c.o.State.Primary
			c.must(facts.Command{Nominate: &facts.Nominate{Expect: p.Version, Epoch: p.Epoch, Store: "B", Donor: "W"}})
		},
		on("B", (*cluster).copyLog),
		cmd(func(l *lab) facts.Command { return assignTo(l, "B") }),
		on("B", (*cluster).start),
		on("W", (*cluster).follow),
		on("B", (*cluster).letIn),
		on("W", (*cluster).follow),
	}
	switchover := []func(*cluster){
		cmd(func(l *lab) facts.Command { return order(l, facts.OrderSwitchover, "B", false) }),
		func(c *cluster) { c.act(c.host("A")); c.speak() }, // stops, and says so
		cmd(begin),
	}
	failover := []func(*cluster){
		on("A", func(c *cluster, h *host) { h.up, h.open, h.writing = false, false, pos.Epoch{}; c.silence("A") }),
		cmd(failoverTo("B", false)),
		cmd(begin),
	}
	return []script{
		{"Switchover", slices.Concat(switchover, fences("A", "B", "W"), end)},
		{"Failover", slices.Concat(failover, fences("B", "W"), end)},
	}
}

// Every change, cut off after every step, with every daemon and server lost and
// the hosts back in every order, two of them or all: one primary opens, with
// everything that a majority held.
func TestDecide_InterruptedChangesAreFinished(t *testing.T) {
	orders := [][]string{
		{"A", "B", "W"}, {"A", "W", "B"}, {"B", "A", "W"}, {"B", "W", "A"}, {"W", "A", "B"}, {"W", "B", "A"},
		{"A", "B"}, {"B", "A"}, {"A", "W"}, {"W", "A"}, {"B", "W"}, {"W", "B"},
	}
	for _, s := range scripts() {
		longest := 0
		for k := range len(s.steps) + 1 {
			for _, back := range orders {
				for _, gap := range []int{1, 7, 31} {
					c := newCluster(t)
					for _, step := range s.steps[:k] {
						step(c)
						c.note()
					}
					c.crash(gap == 7)
					name := fmt.Sprintf("%s cut off after step %d, back %v every %d", s.name, k, back, gap)
					n, err := c.heal(back, gap)
					if err == nil {
						err = c.check()
					}
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					longest = max(longest, n-gap*len(back))
				}
			}
		}
		// A switchover waits for its deadline of 30 s for a primary that fell silent.
		if longest > 330 {
			t.Errorf("%s: %d steps of 100 ms after the last host was back", s.name, longest)
		}
	}
}

// Nothing interrupts: the scripts are what the rules do by themselves.
func TestDecide_ScriptsAreHonest(t *testing.T) {
	for _, s := range scripts() {
		c := newCluster(t)
		for _, step := range s.steps {
			step(c)
			c.note()
		}
		if p := c.o.State.Primary; p.Store != "B" || p.Phase != facts.PhaseOpened || p.Timeline != 2 {
			t.Fatalf("%s: %+v", s.name, p)
		}
		if err := c.check(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}
