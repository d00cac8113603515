package facts_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// truth is a world of three logs of one primary, A, and what really happened
// in it, worked out without the ledger.
type truth struct {
	log    map[string]pos.LSN // end of each node's log; A wrote, the others have a prefix
	heard  map[string]pos.LSN
	acked  pos.LSN // everything up to here was acknowledged to clients
	async  bool
	fenced []string // a majority
	cut    pos.LSN  // bytes of a record that is not whole at the end of the elected log
}

func drawTruth(t *rapid.T) truth {
	lsn := func(name string, lo, hi pos.LSN) pos.LSN {
		return pos.LSN(rapid.Uint64Range(uint64(lo), uint64(hi)).Draw(t, name))
	}
	w := truth{async: rapid.Bool().Draw(t, "async"), cut: lsn("cut", 0, 20)}
	b, c := lsn("b", 200, 300), lsn("c", 200, 300)
	a := max(b, c) + lsn("more", 0, 50)
	w.log = map[string]pos.LSN{"A": a, "B": b, "C": c}
	majority := max(b, c) // A has more: of three, the second largest
	w.acked = majority
	if w.async {
		w.acked = a
	}
	w.heard = map[string]pos.LSN{"A": majority, "B": min(majority, lsn("hb", 150, 300)), "C": min(majority, lsn("hc", 150, 300))}
	w.fenced = rapid.SampledFrom([][]string{{"A", "B", "C"}, {"B", "C"}, {"A", "B"}, {"A", "C"}}).Draw(t, "fenced")
	return w
}

// lost is what acknowledged log a primary lacks that goes on from end.
func (w truth) lost(elected, end pos.LSN) pos.Range {
	if w.acked <= elected {
		return pos.Range{}
	}
	return pos.Range{From: end, To: w.acked}
}

// three is A, B and C, all with a database, A open in epoch 1.1.
func three(l *lab, async bool) {
	p := facts.DefaultPolicy()
	if async {
		p.Durability = facts.Async
	}
	c := found()
	c.Found.Policy = p
	l.must(c)
	l.must(begin(l))
	l.must(report(l, "A", 100, nil), assign(l, "A"), starting(l, "A", 1, 100), opened(l, "A", 100))
	for _, s := range []string{"B", "C"} {
		l.must(addMember(l, "node"+s, s, facts.KindData))
		l.must(propose(s, 100), admit(l, s, 100))
		l.must(confirm(l), seeded(s, true))
	}
}

func (w truth) report(l *lab, store string) facts.Command {
	c := report(l, store, w.log[store], l.s.Lineage)
	c.ReportFence.Heard = w.heard[store]
	return c
}

// end is where the elected log ends in whole records.
func (w truth) end(elected pos.LSN) pos.LSN { return elected - w.cut }

func proofOf(t *rapid.T, l *lab) facts.Proof {
	ch, ok := l.s.ChangeOf(l.s.Primary.Epoch)
	if !ok || ch.Proof == nil {
		t.Fatalf("no proof in %+v", ch)
	}
	return *ch.Proof
}

// closed is the proof after A came back.
func (w truth) closed(t *rapid.T, l *lab, store string) facts.Proof {
	l.must(returned(l.s.Primary.Epoch, store, &facts.Closing{LogEnd: w.log["A"], Committed: w.heard["A"], Transactions: []facts.LostTransaction{
		{XID: 1, End: w.acked}, {XID: 2, End: w.log["A"] + 1}, {XID: 3, End: 100}}}))
	p := proofOf(t, l)
	// Where no majority was asked, what A had not written down as committed may
	// have been, up to the end of its log.
	if p.Provisional || p.Closed == nil || p.Closed.Node != "main" || !p.MayLost.Empty() && (p.Majority || p.MayLost.To != w.log["A"]) {
		t.Fatalf("after A came back: %+v", p)
	}
	return p
}

func nothingLost(p facts.Proof) bool {
	return p.Lost.Empty() && p.MayLost.Empty() && strings.HasPrefix(p.Sentence(), "Nothing acknowledged was lost")
}

func TestProof_OfASafeChange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawTruth(rt)
		l := &lab{t: t}
		three(l, w.async)
		l.must(begin(l))
		best := w.fenced[0]
		for _, s := range w.fenced {
			l.must(w.report(l, s))
			if w.log[s] > w.log[best] {
				best = s
			}
		}
		elected := w.log[best]
		for _, s := range w.fenced { // or whoever copied it
			if rapid.Bool().Draw(rt, "copies") {
				best, w.log[s] = s, elected
				l.must(w.report(l, s))
				break
			}
		}
		end := w.end(elected)
		l.must(assign(l, best), starting(l, best, 2, end), opened(l, best, end))
		p := proofOf(rt, l)
		if !w.lost(elected, end).Empty() && !w.async {
			rt.Fatal("the model is wrong: a majority lost what it acknowledged")
		}
		away := w.fenced[0] == "B"
		if p.Provisional != away || p.Promoted != end || !p.Majority || p.Async != w.async {
			rt.Fatalf("%+v", p)
		}
		if w.async && away {
			if !strings.Contains(p.Sentence(), "async") {
				rt.Fatalf("%s", p.Sentence())
			}
		} else if !nothingLost(p) {
			rt.Fatalf("%s of %+v", p.Sentence(), w)
		}
		if best == "A" {
			return
		}
		p = w.closed(rt, l, "A")
		if p.Lost != w.lost(elected, end) || p.Lost.Empty() != nothingLost(p) {
			rt.Fatalf("%s, the truth is %s", p.Sentence(), w.lost(elected, end))
		}
	})
}

func TestProof_OfAForcedChange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawTruth(rt)
		l := &lab{t: t}
		three(l, w.async)
		to := w.fenced[1] // never A
		reformed := rapid.Bool().Draw(rt, "reformed")
		back := "A"
		if reformed {
			c := reform(l.s, to, w.log[to])
			c.Reform.Fence.Heard = w.heard[to]
			l.s = facts.State{}
			l.must(c, assign2(to, c))
			back = "A2"
		} else {
			l.must(forceOrder(l, to))
			l.must(begin(l))
			for _, s := range w.fenced {
				l.must(w.report(l, s))
			}
			l.must(force(l, to))
		}
		elected := w.log[to]
		end := w.end(elected)
		l.must(starting(l, to, l.s.NextTimeline(), end), opened(l, to, end))
		p, planted := proofOf(rt, l), w.lost(elected, end)
		w.checkOpen(rt, p, planted, reformed)
		if reformed {
			l.must(addMember(l, "main", back, facts.KindData))
		}
		p = w.closed(rt, l, back)
		if p.Lost != planted || (p.Lost.Empty() && p.MayLost.Empty()) != nothingLost(p) {
			rt.Fatalf("%s, planted was %s in %+v", p.Sentence(), planted, w)
		}
		if reformed != !p.MayLost.Empty() && w.log["A"] > max(w.acked, elected) && !w.async {
			rt.Fatalf("%s of %+v", p.Sentence(), w)
		}
		p.MayLost = pos.Range{}
		if xs := p.LostTransactions(); planted.Empty() != (len(xs) == 0) || len(xs) > 1 || len(xs) == 1 && xs[0].XID != 1 {
			rt.Fatalf("lost transactions %+v of %s", xs, planted)
		}
	})
}

// assign2 is the assignment of the one node of a group that was formed anew.
func assign2(store string, c facts.Command) facts.Command {
	return facts.Command{Assign: &facts.Assign{Expect: c.Reform.Old.Primary.Version + 1, Epoch: c.Reform.Fence.Epoch, Store: store}}
}

// checkOpen is what may be said before A has come back: never a loss that was
// none, and no silence about one.
func (w truth) checkOpen(t *rapid.T, p facts.Proof, planted pos.Range, reformed bool) {
	if !p.Lost.Empty() && (p.Lost.From != planted.From || p.Lost.To > planted.To) {
		t.Fatalf("%s is said to be lost, planted was %s", p.Lost, planted)
	}
	switch {
	case reformed:
		if p.Majority || !p.Provisional || !p.MayLost.Empty() {
			t.Fatalf("%+v", p)
		}
	case !planted.Empty() && p.Lost.Empty() && p.MayLost.Empty() && !(w.async && p.Provisional):
		t.Fatalf("%s, planted was %s", p.Sentence(), planted)
	case w.fenced[0] == "A" && !w.async && p.Lost != planted:
		t.Fatalf("A reported what it had acknowledged, lost is %s instead of %s", p.Lost, planted)
	}
	if !planted.Empty() && strings.HasPrefix(p.Sentence(), "Nothing") {
		t.Fatalf("%s, planted was %s", p.Sentence(), planted)
	}
}

func TestApply_ReturnedIsOfWhoWasReplaced(t *testing.T) {
	l := at(t, facts.PhasePromoting)
	l.must(opened(l, "B", 295))
	l.want(facts.CodeUnknownStore, returned(ep(2), "Z", nil))
	l.want(facts.CodeStaleEpoch, returned(ep(7), "A", nil))
	l.want(facts.CodeNotAssigned, returned(ep(2), "W", &facts.Closing{Committed: 900})) // not its to close
	l.want(facts.CodeBadCommand, returned(ep(2), "A", &facts.Closing{Transactions: make([]facts.LostTransaction, 101)}))
	l.must(returned(ep(2), "A", &facts.Closing{LogEnd: 330, Committed: 320}))
	ch, _ := l.s.ChangeOf(ep(2))
	want := "Acknowledged commits were lost: everything from 0/127 to 0/140."
	if ch.Return.Node != "main" || ch.Proof.Sentence() != want || len(ch.Proof.Missing) != 0 {
		t.Errorf("%+v: %s", ch.Return, ch.Proof.Sentence())
	}
	if out := l.do(returned(ep(2), "A", nil)); out.Refused != "" || len(out.Events) != 0 {
		t.Errorf("said twice: %+v", out)
	}
}

func TestApply_NoteOfAnUnknownEpoch(t *testing.T) {
	l := trio(t)
	l.want(facts.CodeStaleEpoch, note(ep(9), facts.StepReplayed, "main"))
	l.want(facts.CodeBadCommand, note(ep(1), "", "main"))
	l.must(note(ep(1), facts.StepReplayed, "main"))
}

func ExampleProof_Sentence() {
	fmt.Println(facts.Proof{Promoted: 0x300, Majority: true, Provisional: true}.Sentence())
	fmt.Println(facts.Proof{Promoted: 0x300, Majority: true, MayLost: pos.Range{From: 0x300, To: 0x400}}.Sentence())
	fmt.Println(facts.Proof{Promoted: 0x300, Lost: pos.Range{From: 0x300, To: 0x400}, Closed: &facts.Closing{At: time.Time{}}}.Sentence())
	// Output:
	// Nothing acknowledged was lost: a majority vouches for everything up to 0/300. The old primary's own record is awaited.
	// Commits from 0/300 to 0/400 may be lost: another node has log up to there that the new primary does not.
	// Acknowledged commits were lost: everything from 0/300 to 0/400.
}

// What a node without a vote has beyond the elected log was nobody's commit.
func TestProof_TailOfAnObserverIsNoLoss(t *testing.T) {
	l := trio(t)
	l.must(addMember(l, "far", "F", facts.KindData), begin(l))
	l.must(report(l, "B", 300, l.s.Lineage), report(l, "W", 300, l.s.Lineage), report(l, "F", 305, l.s.Lineage))
	l.must(assign(l, "B"), starting(l, "B", 2, 295))
	ch, _ := l.s.ChangeOf(ep(2))
	if p := *ch.Proof; !nothingLost(p) || p.Bound != 305 || !p.Provisional {
		t.Errorf("%+v: %s", p, p.Sentence())
	}
}

// What a node heard of the history before a start that it has not adopted is
// named by the proof of that start; an election that never started cuts nobody.
func TestProof_HeardOfTheHistoryBefore(t *testing.T) {
	for _, started := range []bool{true, false} {
		l := trio(t)
		l.must(forceOrder(l, "B"))
		l.must(begin(l))
		old := l.s.Lineage
		l.must(report(l, "A", 350, old), report(l, "B", 300, old), force(l, "B"))
		if started {
			l.must(starting(l, "B", 2, 295))
		}
		l.must(begin(l))
		c := report(l, "A", 350, old)
		c.ReportFence.Heard = 340
		l.must(c, report(l, "W", 300, old), assign(l, "A"))
		l.must(starting(l, "A", 3, l.s.Primary.Elected.LSN))
		ch, _ := l.s.ChangeOf(ep(3))
		if !ch.Proof.Lost.Empty() {
			t.Errorf("started %t: lost %s", started, ch.Proof.Lost)
		}
	}
}
