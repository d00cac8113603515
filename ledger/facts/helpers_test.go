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

// must applies commands that may not be refused.
func (l *lab) must(cs ...facts.Command) {
	l.t.Helper()
	for _, c := range cs {
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
