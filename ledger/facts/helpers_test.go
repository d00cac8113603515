package facts_test

import (
	"testing"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ep(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// lab is a state with a short way to change it.
type lab struct {
	t testing.TB
	s facts.State
}

func (l *lab) do(c facts.Command) facts.Outcome {
	c.At = t0
	var out facts.Outcome
	l.s, out = facts.Apply(l.s, c)
	return out
}

// must applies commands that may not be refused. Those about backups expect
// what the ones before them left.
func (l *lab) must(cs ...facts.Command) {
	l.t.Helper()
	for _, c := range cs {
		if c.BeginJob != nil {
			c.BeginJob.Expect, c.BeginJob.Removals = l.s.Backups.JobsVersion, l.s.Backups.Removals
		}
		if c.AssignFeeder != nil {
			c.AssignFeeder.Expect = l.s.Backups.FeedersVersion
		}
		if out := l.do(c); out.Refused != "" {
			l.t.Fatalf("%s: %s", out.Code, out.Refused)
		}
	}
}

// want applies a command and compares the code of its refusal, "" for none.
func (l *lab) want(code string, c facts.Command) {
	l.t.Helper()
	if out := l.do(c); out.Code != code {
		l.t.Errorf("code %q (%s), want %q", out.Code, out.Refused, code)
	}
}

func found() facts.Command {
	return facts.Command{Found: &facts.Found{
		Group:  facts.Group{ID: "g", Name: "shop", LedgerID: "l", SystemID: 1 << 60, PGMajor: 15, SegSize: 16 << 20},
		Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData},
	}}
}

func begin(l *lab) facts.Command {
	return facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: l.s.Primary.Version, Cause: "test"}}
}

func report(l *lab, store string, lsn pos.LSN, lineage pos.Lineage) facts.Command {
	return facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{
		Store: store, Epoch: l.s.Primary.Epoch, Voters: l.s.Voters.Version, Lineage: lineage, LSN: lsn, Timeline: 1,
	}}}
}

func assign(l *lab, store string) facts.Command {
	return facts.Command{Assign: &facts.Assign{Expect: l.s.Primary.Version, Epoch: l.s.Primary.Epoch, Store: store}}
}

func starting(l *lab, store string, tli pos.Timeline, end pos.LSN) facts.Command {
	return facts.Command{Starting: &facts.Starting{Epoch: l.s.Primary.Epoch, Store: store, Timeline: tli, End: end}}
}

func opened(l *lab, store string, lsn pos.LSN) facts.Command {
	return facts.Command{Opened: &facts.Opened{Epoch: l.s.Primary.Epoch, Store: store, LSN: lsn}}
}

func confirm(l *lab) facts.Command {
	return facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: l.s.Voters.Version, Epoch: l.s.Primary.Epoch}}
}

func addMember(l *lab, name, store string, kind facts.Kind) facts.Command {
	return facts.Command{AddMember: &facts.AddMember{
		Member: facts.Member{Name: name, Store: store, Kind: kind}, Expect: l.s.MembersVersion,
	}}
}

func removeMember(l *lab, store string) facts.Command {
	return facts.Command{RemoveMember: &facts.RemoveMember{Store: store, Expect: l.s.MembersVersion}}
}

func propose(store string, lsn pos.LSN) facts.Command {
	return facts.Command{ProposeVoter: &facts.ProposeVoter{Store: store, Committed: lsn}}
}

func admit(l *lab, store string, acked pos.LSN) facts.Command {
	return facts.Command{AdmitVoter: &facts.AdmitVoter{Store: store, Acked: acked, VotersVersion: l.s.Voters.Version}}
}

func drop(store string) facts.Command {
	return facts.Command{DropVoter: &facts.DropVoter{Store: store}}
}

func seeded(store string, yes bool) facts.Command {
	return facts.Command{MarkSeeded: &facts.MarkSeeded{Store: store, Seeded: yes}}
}

// founded is a group of one, never opened.
func founded(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t}
	l.must(found())
	return l
}

// trio is main (A) open in epoch 1.1 from 100 on, with backup (B) and witness
// (W) as voters, all confirmed.
func trio(t testing.TB) *lab {
	t.Helper()
	l := founded(t)
	l.must(begin(l))
	l.must(report(l, "A", 100, nil))
	l.must(assign(l, "A"))
	l.must(starting(l, "A", 1, 100))
	l.must(opened(l, "A", 120))
	for _, m := range []struct {
		name, store string
		kind        facts.Kind
	}{{"backup", "B", facts.KindData}, {"witness", "W", facts.KindWitness}} {
		l.must(addMember(l, m.name, m.store, m.kind))
		l.must(propose(m.store, 200))
		l.must(admit(l, m.store, 200))
		l.must(confirm(l))
	}
	l.must(seeded("B", true))
	return l
}

// at is the trio brought to a phase of epoch 1.2, with B elected at 300.
func at(t testing.TB, phase facts.Phase) *lab {
	t.Helper()
	l := trio(t)
	if phase == facts.PhaseOpened {
		return l
	}
	l.must(begin(l))
	if phase == facts.PhaseFencing {
		return l
	}
	l.must(report(l, "B", 300, l.s.Lineage), report(l, "W", 290, l.s.Lineage), assign(l, "B"))
	switch phase {
	case facts.PhaseStarting:
		l.must(starting(l, "B", 1, 295))
	case facts.PhasePromoting:
		l.must(starting(l, "B", 2, 295))
	}
	return l
}

func order(l *lab, kind facts.OrderKind, to string) facts.Command {
	return facts.Command{SetOrder: &facts.SetOrder{Expect: l.s.Primary.Version, Order: facts.Order{
		ID: "o", Kind: kind, To: to, Epoch: l.s.Primary.Epoch, Deadline: t0.Add(time.Minute)}}}
}

func forceOrder(l *lab, to string) facts.Command {
	c := order(l, facts.OrderFailover, to)
	c.SetOrder.Order.Force, c.SetOrder.Order.Statement = true, "I know"
	return c
}

func clearOrder(id string) facts.Command {
	return facts.Command{ClearOrder: &facts.ClearOrder{ID: id, Why: "test"}}
}

func force(l *lab, store string) facts.Command {
	c := assign(l, store)
	c.Assign.Force = true
	return c
}

func nominate(l *lab, store, donor string) facts.Command {
	return facts.Command{Nominate: &facts.Nominate{Expect: l.s.Primary.Version, Epoch: l.s.Primary.Epoch, Store: store, Donor: donor}}
}

func note(e pos.Epoch, name, node string) facts.Command {
	return facts.Command{NotePhase: &facts.NotePhase{Epoch: e, Name: name, Node: node}}
}

func returned(e pos.Epoch, store string, closing *facts.Closing) facts.Command {
	return facts.Command{Returned: &facts.Returned{Store: store, Epoch: e, Method: "rewind", Why: "it had diverged", Closing: closing}}
}

func ledgerVote(store string, yes bool) facts.Command {
	return facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: store, Voter: yes}}
}

func reform(old facts.State, store string, lsn pos.LSN) facts.Command {
	return facts.Command{Reform: &facts.Reform{Old: old, Store: store, LedgerID: old.Group.LedgerID + "+", Statement: "the others are off",
		Fence: facts.FenceReport{Store: store, Epoch: old.NextGeneration(), Lineage: old.Lineage, LSN: lsn, Timeline: 1}}}
}

// pair is main (A) open in epoch 1.1 with the ledger's only vote, and backup
// (B), seeded, with a WAL vote.
func pair(t testing.TB) *lab {
	t.Helper()
	l := trio(t)
	l.must(drop("W"))
	l.must(confirm(l), removeMember(l, "W"))
	return l
}
