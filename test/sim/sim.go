// Package sim runs a whole group in one thread of virtual time: three nodes
// with their logs, ledger, daemons and servers, under crashes, delays, losses,
// repetitions and partitions. What decides is the production code of
// ledger/facts, failover/decide, failover/role, primary/quorum and shipper/pos;
// the rest is a model of what surrounds it. See README.md.
package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Options say how a run differs from the usual one.
type Options struct {
	Mutation Mutation
	Log      io.Writer // what happened, line by line; nil for nothing
}

// Result is what became of a run.
type Result struct {
	Failure string // "" when every check held
	Stuck   bool   // the failure is that the group did not become whole
	Acked   int    // commits that clients were told of
	Opened  int    // primaries that opened
	Copies  int    // directories that came back by a copy
	Moments int    // to which the whole group was brought back
	Taken   int    // restores of the group that were given up
	Ended   time.Duration
	Outages []Outage
}

// world is one run.
type world struct {
	clock
	rng      *rand.Rand
	net      *network
	ledger   *ledger // the group's newest
	ledgers  []*ledger
	vault    vault
	nodes    []*node
	check    *checks
	mut      planted
	scene    scenario
	kind     int
	log      io.Writer
	procs    []*proc
	crashy   float64
	disk     time.Duration
	lag      time.Duration
	calm     time.Duration // when the last fault ended; 0 before
	chains   uint64
	sessions int
	stores   int
	orders   int
}

// settle is how long a group may take to become whole after the last fault.
const settle = 60 * time.Second

// Run plays one seed. The same seed and options give the same result.
func Run(seed uint64, o Options) Result {
	w := newWorld(seed, o)
	w.found()
	if w.kind == kindClocks {
		w.setClocks()
	}
	for _, n := range w.nodes {
		n.start()
	}
	w.ledger.tick()
	w.watch()
	w.spawn(w.drive)
	for w.check.failure == "" && (w.calm == 0 || w.now < w.calm+settle) && w.next() {
		if w.calm != 0 && w.now > w.calm+time.Second && w.check.settled() == "" && w.ledger.head().Order == nil {
			break
		}
	}
	if w.check.failure == "" {
		w.check.finish()
	}
	for _, p := range w.procs {
		p.kill()
	}
	return Result{Failure: w.check.failure, Stuck: w.check.stuck, Acked: len(w.check.acks), Opened: w.check.opens, Copies: w.check.restores, Moments: w.check.restore.made, Taken: w.check.restore.withdrawn, Ended: w.now, Outages: w.check.outages}
}

func newWorld(seed uint64, o Options) *world {
	all := scenarios()
	w := &world{kind: int(seed % Scenarios), rng: rand.New(rand.NewPCG(seed, 0)), mut: planted{o.Mutation}, log: o.Log, scene: all[seed%Scenarios]}
	w.net = &network{w: w, drop: w.scene.drop, dup: w.scene.dup, slow: w.scene.slow}
	w.crashy, w.disk, w.lag = w.scene.crashy, w.scene.disk, w.scene.lag
	w.ledger = w.newLedger("l", 1)
	w.vault = vault{w: w, logs: map[pos.Timeline]wal{}}
	w.check = &checks{w: w, opened: map[pos.Epoch]opening{}, timelines: map[pos.Timeline]pos.Epoch{}, began: map[pos.Epoch]time.Duration{}, leaving: map[string]time.Duration{}, watch: watch{beats: map[string]time.Duration{}}}
	groups := w.scene.groups
	for i, name := range groups[w.rng.IntN(len(groups))] {
		kind := facts.KindData
		if name == "witness" {
			kind = facts.KindWitness
		}
		w.nodes = append(w.nodes, &node{w: w, i: i, name: name, kind: kind, ledger: w.ledger, sp: spool{store: name[:1]}, host: host{up: true}})
	}
	return w
}

// found makes a group that was once open on main and was shut down there.
func (w *world) found() {
	l, start := w.ledger, pos.LSN(100)
	do := func(c facts.Command) {
		c.At = w.time()
		s, out := facts.Apply(l.head(), c)
		if out.Refused != "" {
			panic(out.Refused)
		}
		l.states = append(l.states, s)
	}
	e := pos.Epoch{Gen: 1, Num: 1}
	main := w.nodes[0].sp.store
	do(facts.Command{Found: &facts.Found{Group: facts.Group{ID: "g", Name: "shop", LedgerID: l.id, SystemID: 1, PGMajor: 15, SegSize: 16 << 20}, Member: w.member(0)}})
	do(facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: l.head().Primary.Version, Cause: "founding", Change: facts.ChangeFounding}})
	do(facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{Store: main, Epoch: e, Voters: l.head().Voters.Version, LSN: start, Timeline: 1}}})
	do(facts.Command{Assign: &facts.Assign{Expect: l.head().Primary.Version, Epoch: e, Store: main}})
	do(facts.Command{Starting: &facts.Starting{Epoch: e, Store: main, Timeline: 1, End: start}})
	do(facts.Command{Opened: &facts.Opened{Epoch: e, Store: main, LSN: start}})
	for i, n := range w.nodes {
		if i > 0 {
			do(facts.Command{AddMember: &facts.AddMember{Member: w.member(i), Expect: l.head().MembersVersion}})
			do(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: n.sp.store, Committed: start}})
			do(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: n.sp.store, Acked: start, VotersVersion: l.head().Voters.Version}})
			do(facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: l.head().Voters.Version, Epoch: e}})
			do(facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: n.sp.store, Voter: true}})
		}
		l.servers = append(l.servers, decide.RaftServer{Store: n.sp.store, Address: n.name + ":1", Voter: true})
		w.chains = 1
		base := wal{base: 1, end: start, recs: []rec{{start: 1, end: start, chain: 1, epoch: e}}}
		n.sp.log, n.sp.durable, n.sp.lineage = base.cut(start), start, l.head().Lineage
		n.sp.raise(e, true)
		if n.kind == facts.KindData {
			n.dir = directory{state: dirCluster, wal: base.cut(start), flushed: start, applied: base.cut(start), minRec: start, minTLI: 1, tli: 1, recovery: i > 0, clean: i == 0}
		}
	}
	for i, n := range w.nodes {
		if i > 0 && n.kind == facts.KindData {
			do(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: n.sp.store, Seeded: true}})
		}
	}
	policy := facts.DefaultPolicy()
	w.scene.policy(w, &policy)
	do(facts.Command{SetPolicy: &facts.SetPolicy{Expect: l.head().Policy.Version, Policy: policy}})
	w.nodes[0].marked = &mark{epoch: e, lineage: l.head().Lineage}
	for _, n := range w.nodes {
		n.applied = len(l.states) - 1
	}
}

func (w *world) member(i int) facts.Member {
	n := w.nodes[i]
	return facts.Member{Name: n.name, Store: n.sp.store, Kind: n.kind, Address: n.name + ":1", HTTP: n.name + ":2"}
}

// watch checks what must hold at every moment.
func (w *world) watch() {
	w.check.moment()
	w.after(50*time.Millisecond, w.watch)
}

func (w *world) at(d time.Duration) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(d)
}

// time is the present as a time of day that is right.
func (w *world) time() time.Time { return w.at(w.now) }

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between is a random time from lo to hi.
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// some is a random LSN from lo to hi.
func (w *world) some(lo, hi pos.LSN) pos.LSN {
	if hi <= lo {
		return hi
	}
	return lo + pos.LSN(w.rng.Uint64N(uint64(hi-lo)+1))
}

// pick is an index, as likely as its weight.
func (w *world) pick(weights []int) int {
	sum := 0
	for _, x := range weights {
		sum += x
	}
	k := w.rng.IntN(sum)
	for i, x := range weights {
		if k -= x; k < 0 {
			return i
		}
	}
	return 0
}

func (w *world) trace(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%10.4f  %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}
