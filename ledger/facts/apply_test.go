package facts_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func TestApply_CommandsByPhase(t *testing.T) {
	// Columns: what the command meets in each phase of epoch 1.2 (opened: of
	// 1.1, by A), "" where it is applied. B is the one assigned.
	phases := []facts.Phase{facts.PhaseFencing, facts.PhaseAssigned, facts.PhaseStarting, facts.PhasePromoting, facts.PhaseOpened}
	const ok = ""
	tests := []struct {
		name string
		c    func(*lab) facts.Command
		want [5]string
	}{
		{"Found", func(l *lab) facts.Command { return found() }, all(facts.CodeAlreadyFounded)},
		{"BeginEpoch", begin, all(ok)},
		{"BeginEpochStale", func(l *lab) facts.Command {
			return facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: l.s.Primary.Version - 1}}
		}, all(facts.CodeStaleVersion)},
		{"ReportFence", func(l *lab) facts.Command { return report(l, "A", 310, l.s.Lineage) },
			[5]string{ok, facts.CodeWrongPhase, facts.CodeWrongPhase, facts.CodeWrongPhase, facts.CodeWrongPhase}},
		{"ReportFenceOldEpoch", func(l *lab) facts.Command {
			c := report(l, "A", 310, nil)
			c.ReportFence.Epoch.Num--
			return c
		}, all(facts.CodeStaleEpoch)},
		{"AssignUnfenced", func(l *lab) facts.Command { return assign(l, "B") },
			[5]string{facts.CodeNoFenceMajority, facts.CodeWrongPhase, facts.CodeWrongPhase, facts.CodeWrongPhase, facts.CodeWrongPhase}},
		{"AssignStale", func(l *lab) facts.Command { c := assign(l, "B"); c.Assign.Expect--; return c }, all(facts.CodeStaleVersion)},
		{"AssignOldEpoch", func(l *lab) facts.Command { c := assign(l, "B"); c.Assign.Epoch.Num--; return c }, all(facts.CodeStaleEpoch)},
		{"Starting", func(l *lab) facts.Command { return starting(l, "B", 1, 299) },
			[5]string{facts.CodeNotAssigned, ok, facts.CodeAlreadyStated, facts.CodeAlreadyStated, facts.CodeNotAssigned}},
		{"StartingAgain", func(l *lab) facts.Command { return starting(l, "B", 1, 295) },
			[5]string{facts.CodeNotAssigned, ok, ok, facts.CodeAlreadyStated, facts.CodeNotAssigned}},
		{"StartingBeyond", func(l *lab) facts.Command { return starting(l, "B", 1, 301) },
			[5]string{facts.CodeNotAssigned, facts.CodeBeyondElected, facts.CodeAlreadyStated, facts.CodeAlreadyStated, facts.CodeNotAssigned}},
		{"StartingByOther", func(l *lab) facts.Command { return starting(l, "W", 1, 295) }, all(facts.CodeNotAssigned)},
		{"StartingOldEpoch", func(l *lab) facts.Command { c := starting(l, "B", 1, 295); c.Starting.Epoch.Num--; return c }, all(facts.CodeStaleEpoch)},
		{"Opened", func(l *lab) facts.Command { return opened(l, "B", 295) },
			[5]string{facts.CodeNotAssigned, facts.CodeWrongPhase, ok, ok, facts.CodeNotAssigned}},
		{"OpenedBelowStart", func(l *lab) facts.Command { return opened(l, "B", 294) },
			[5]string{facts.CodeNotAssigned, facts.CodeWrongPhase, facts.CodeBelowStart, facts.CodeBelowStart, facts.CodeNotAssigned}},
		{"OpenedAgain", func(l *lab) facts.Command { return opened(l, "A", 120) },
			[5]string{facts.CodeNotAssigned, facts.CodeNotAssigned, facts.CodeNotAssigned, facts.CodeNotAssigned, ok}},
		{"ConfirmVoters", confirm, [5]string{facts.CodeWrongPhase, ok, ok, ok, ok}},
		{"ConfirmVotersOldEpoch", func(l *lab) facts.Command { c := confirm(l); c.ConfirmVoters.Epoch.Num--; return c }, all(facts.CodeStaleEpoch)},
		{"ProposeVoterIs", func(l *lab) facts.Command { return propose("W", 1) }, all(facts.CodeIsVoter)},
		{"AdmitVoterUnproposed", func(l *lab) facts.Command { return admit(l, "W", 1) }, all(facts.CodeNotProposed)},
		{"WithdrawVoter", func(l *lab) facts.Command { return facts.Command{WithdrawVoter: &facts.WithdrawVoter{}} }, all(facts.CodeNotProposed)},
		{"DropVoter", func(l *lab) facts.Command { return drop("W") }, all(ok)},
		{"DropVoterPrimary", func(l *lab) facts.Command { return drop("B") },
			[5]string{ok, facts.CodeIsPrimary, facts.CodeIsPrimary, facts.CodeIsPrimary, ok}},
		{"RemoveMemberVoter", func(l *lab) facts.Command { return removeMember(l, "W") }, all(facts.CodeIsVoter)},
		{"AddMember", func(l *lab) facts.Command { return addMember(l, "more", "M", facts.KindData) }, all(ok)},
		{"SetLedgerVoteLast", func(l *lab) facts.Command {
			return facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: "A"}}
		}, all(facts.CodeLastLedgerVoter)},
		{"MarkSeededWitness", func(l *lab) facts.Command { return seeded("W", true) }, all(facts.CodeNotData)},
		{"SetLeaving", func(l *lab) facts.Command {
			return facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingStopping}}}
		}, all(ok)},
	}
	for _, tt := range tests {
		for i, phase := range phases {
			t.Run(tt.name+"/"+string(phase), func(t *testing.T) {
				l := at(t, phase)
				before := l.s
				l.want(tt.want[i], tt.c(l))
				if d := cmp.Diff(before, l.s); tt.want[i] != ok && d != "" {
					t.Errorf("a refused command changed the state: %s", d)
				}
			})
		}
	}
}

func all(code string) [5]string { return [5]string{code, code, code, code, code} }

func TestApply_NothingBeforeFounding(t *testing.T) {
	l := &lab{t: t}
	l.want(facts.CodeNotFounded, begin(l))
	l.want(facts.CodeNotFounded, addMember(l, "x", "X", facts.KindData))
	for _, breakIt := range []func(*facts.Found){
		func(f *facts.Found) { f.Group.ID = "" },
		func(f *facts.Found) { f.Group.LedgerID = "" },
		func(f *facts.Found) { f.Group.SegSize = 12345 },
		func(f *facts.Found) { f.Member.Name = "a b" },
		func(f *facts.Found) { f.Member.Store = "" },
		func(f *facts.Found) { f.Member.Kind = "arbiter" },
		func(f *facts.Found) { f.Member.Address = strings.Repeat("x", 300) },
	} {
		c := found()
		breakIt(c.Found)
		l.want(facts.CodeBadCommand, c)
	}
	c := found()
	c.Found.Member.Kind = facts.KindWitness
	l.want(facts.CodeNotData, c)
	c = found()
	c.Found.Policy = facts.Policy{Durability: "some"}
	l.want(facts.CodeBadPolicy, c)
	l.must(found())
	v := facts.Voters{Version: 1, Stores: []string{"A"}, Confirmed: 1}
	if d := cmp.Diff(v, l.s.Voters); d != "" || !l.s.Members["A"].Seeded || !l.s.Members["A"].LedgerVoter || l.s.Policy.Durability != facts.Quorum {
		t.Errorf("%s %+v", d, l.s)
	}
}

func TestApply_AssignWantsTheLargest(t *testing.T) {
	l := at(t, facts.PhaseFencing)
	l.must(report(l, "B", 300, l.s.Lineage), report(l, "W", 301, l.s.Lineage))
	l.want(facts.CodeNotData, assign(l, "W"))
	l.want(facts.CodeBehind, assign(l, "B"))
	l.want(facts.CodeNoReport, assign(l, "A"))
	l.want(facts.CodeUnknownStore, assign(l, "Z"))
	c := assign(l, "B")
	c.Assign.Donor = "A"
	l.want(facts.CodeNoReport, c)
	l.must(report(l, "B", 301, l.s.Lineage)) // copied what it lacked
	l.want(facts.CodeSmallerReport, report(l, "B", 300, l.s.Lineage))
	l.must(seeded("B", false))
	l.want(facts.CodeNotSeeded, assign(l, "B"))
	l.must(seeded("B", true), assign(l, "B"))
	p := l.s.Primary
	if p.Store != "B" || p.Node != "backup" || p.Elected != (pos.Pos{Epoch: ep(1), LSN: 301}) || p.Previous != "A" {
		t.Errorf("%+v", p)
	}
	if got := l.s.Lineage.Last(); got != (pos.Entry{Epoch: ep(2), Timeline: 1, Start: 301}) {
		t.Errorf("lineage ends in %v", got)
	}
}

func TestApply_DonorWithoutVoteCounts(t *testing.T) {
	l := trio(t)
	l.must(addMember(l, "far", "F", facts.KindData), begin(l))
	l.must(report(l, "B", 300, l.s.Lineage), report(l, "W", 300, l.s.Lineage), report(l, "F", 305, l.s.Lineage))
	c := assign(l, "B")
	c.Assign.Donor = "F"
	l.want(facts.CodeBehind, c)
	l.must(seeded("F", true))
	l.want(facts.CodeNotVoter, assign(l, "F"))
	l.must(assign(l, "B")) // an observer's tail is nobody's commit
}

func TestApply_ReportIsCutWhereItLeavesTheLineage(t *testing.T) {
	l := at(t, facts.PhasePromoting) // (1.1, 1, 100), (1.2, 2, 295)
	l.must(opened(l, "B", 295))
	l.must(begin(l))
	base := l.s.Lineage[:1]
	for _, tt := range []struct {
		name    string
		lineage pos.Lineage
		lsn     pos.LSN
		want    pos.Pos
	}{
		{"Same", l.s.Lineage, 400, pos.Pos{Epoch: ep(2), LSN: 400}},
		{"SameShort", l.s.Lineage, 290, pos.Pos{Epoch: ep(1), LSN: 290}},
		{"NotAdopted", base, 400, pos.Pos{Epoch: ep(1), LSN: 295}},
		{"AdoptedBeforeTheFork", base.With(pos.Entry{Epoch: ep(2), Timeline: 1, Start: 300}), 300, pos.Pos{Epoch: ep(1), LSN: 295}},
		{"Empty", nil, 400, pos.Pos{LSN: 100}},
		{"EmptyShort", nil, 50, pos.Pos{LSN: 50}},
		{"BeforeFirst", base, 50, pos.Pos{Epoch: ep(1), LSN: 50}},
		{"Unknown", l.s.Lineage.With(pos.Entry{Epoch: ep(3), Timeline: 2, Start: 350}), 400, pos.Pos{Epoch: ep(2), LSN: 350}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &lab{t: t, s: l.s}
			c := report(l, "W", tt.lsn, tt.lineage)
			c.ReportFence.Pos = pos.Pos{Epoch: ep(99), LSN: 1 << 40} // not believed
			l.must(c)
			if got := l.s.Primary.Fence["W"].Pos; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	l.want(facts.CodeBadCommand, report(l, "W", 1, pos.Lineage{{Epoch: ep(2), Timeline: 0}}))
	c := report(l, "W", 1, nil)
	c.ReportFence.Voters++
	l.want(facts.CodeStaleVersion, c)
	l.want(facts.CodeUnknownStore, report(l, "Z", 1, nil))
}

func TestApply_LongTailOfAnOldEpochLoses(t *testing.T) {
	l := at(t, facts.PhaseStarting) // B from 295 in 1.2
	old := l.s.Lineage[:1]
	l.must(opened(l, "B", 295))
	l.must(begin(l))
	l.must(report(l, "A", 900, old), report(l, "B", 296, l.s.Lineage))
	l.want(facts.CodeBehind, assign(l, "A"))
	l.must(assign(l, "B"))
}

func TestApply_AbandonedAssignmentLeavesTheLineage(t *testing.T) {
	l := at(t, facts.PhasePromoting) // B recorded timeline 2 at 295, then vanished before anyone adopted it
	base := l.s.Lineage[:1]
	l.must(begin(l))
	l.must(report(l, "A", 280, base), report(l, "W", 270, base), assign(l, "A"))
	want := pos.Lineage{base[0], {Epoch: ep(3), Timeline: 1, Start: 280}}
	if d := cmp.Diff(want, l.s.Lineage); d != "" {
		t.Fatal(d)
	}
	l.want(facts.CodeTimelineUsed, starting(l, "A", 2, 280)) // B may have promoted with it
	l.want(facts.CodeBelowLineage, starting(l, "A", 1, 99))
	l.want(facts.CodeBadCommand, starting(l, "A", 1<<30, 280))
	if l.s.NextTimeline() != 3 {
		t.Errorf("next timeline %d", l.s.NextTimeline())
	}
	l.must(starting(l, "A", 3, 280), opened(l, "A", 280))
	if l.s.Primary.Phase != facts.PhaseOpened || l.s.Primary.Timeline != 3 || l.s.Primary.Start != 280 {
		t.Errorf("%+v", l.s.Primary)
	}
}

func TestApply_FoundingMayBeRetried(t *testing.T) {
	l := founded(t)
	l.must(begin(l))
	l.must(report(l, "A", 100, nil), assign(l, "A"))
	// The server that is taken over wrote on before anything started.
	l.must(begin(l))
	l.must(report(l, "A", 150, nil), assign(l, "A"), starting(l, "A", 1, 150))
	want := pos.Lineage{{Epoch: ep(2), Timeline: 1, Start: 150}}
	if d := cmp.Diff(want, l.s.Lineage); d != "" {
		t.Error(d)
	}
	// Once it has started, the lineage stands.
	l.must(begin(l))
	if d := cmp.Diff(want, l.s.Lineage); d != "" {
		t.Error(d)
	}
}

func TestApply_CandidateBelowTheFirstStart(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(report(l, "B", 50, l.s.Lineage), report(l, "W", 40, l.s.Lineage))
	l.want(facts.CodeBelowLineage, assign(l, "B"))
}

func TestApply_OneVoterAtATime(t *testing.T) {
	l := trio(t)
	l.must(addMember(l, "c", "C", facts.KindData))
	l.must(addMember(l, "d", "D", facts.KindData))
	l.must(propose("C", 500))
	l.want(facts.CodeVoterPending, propose("D", 500))
	l.want(facts.CodeVoterPending, drop("W"))
	l.want(facts.CodeNotProposed, admit(l, "D", 500))
	l.want(facts.CodeNotCaughtUp, admit(l, "C", 499))
	c := admit(l, "C", 500)
	c.AdmitVoter.VotersVersion--
	l.want(facts.CodeStaleVersion, c)
	l.must(admit(l, "C", 500))
	l.want(facts.CodeUnconfirmed, propose("D", 500))
	l.want(facts.CodeUnconfirmed, drop("W"))
	l.must(confirm(l), propose("D", 500), facts.Command{WithdrawVoter: &facts.WithdrawVoter{}}, propose("D", 500))
	l.must(begin(l)) // what was committed then means nothing now
	l.want(facts.CodeNotProposed, admit(l, "D", 500))
	l.want(facts.CodeWrongPhase, propose("D", 500))
	l.must(drop("W"))
	if d := cmp.Diff([]string{"A", "B", "C"}, l.s.Voters.Stores); d != "" {
		t.Error(d)
	}
}

func TestApply_VoterDroppedWhileFencing(t *testing.T) {
	l := at(t, facts.PhaseFencing)
	l.must(report(l, "B", 300, l.s.Lineage))
	l.want(facts.CodeNoFenceMajority, assign(l, "B"))
	l.must(drop("A"))
	l.want(facts.CodeNoFenceMajority, assign(l, "B")) // a majority of two is both
	l.want(facts.CodeUnconfirmed, drop("W"))
	l.must(report(l, "W", 300, l.s.Lineage), assign(l, "B"))
}

func TestApply_LastVoterStays(t *testing.T) {
	l := founded(t)
	l.want(facts.CodeLastVoter, drop("A"))
	l.want(facts.CodeIsVoter, removeMember(l, "A"))
}

func TestApply_RetiredStoresStayOut(t *testing.T) {
	l := trio(t)
	l.want(facts.CodeKnownName, addMember(l, "witness", "W2", facts.KindWitness))
	l.want(facts.CodeKnownStore, addMember(l, "other", "W", facts.KindWitness))
	c := addMember(l, "other", "X", facts.KindWitness)
	c.AddMember.Expect--
	l.want(facts.CodeStaleVersion, c)
	l.must(drop("W"), removeMember(l, "W"))
	l.want(facts.CodeRetiredStore, addMember(l, "witness", "W", facts.KindWitness))
	l.must(addMember(l, "witness", "W2", facts.KindWitness))
	if l.s.Retired["W"] != "witness" || l.s.IsVoter("W2") {
		t.Errorf("%+v", l.s)
	}
	c = addMember(l, "new", "N", facts.KindData)
	c.AddMember.Member.Seeded = true
	l.must(c)
	if l.s.Members["N"].Seeded {
		t.Error("a new member counts as seeded")
	}
	for i := len(l.s.Members); i < 32; i++ {
		l.must(addMember(l, fmt.Sprint("n", i), fmt.Sprint("S", i), facts.KindWitness))
	}
	l.want(facts.CodeTooMany, addMember(l, "more", "more", facts.KindWitness))
}

func TestApply_RemovalWithdrawsTheProposal(t *testing.T) {
	l := trio(t)
	l.must(addMember(l, "c", "C", facts.KindData), propose("C", 1))
	l.must(removeMember(l, "C"))
	if l.s.Voters.Proposed != nil {
		t.Error("a removed member is still proposed")
	}
}

func TestApply_Policy(t *testing.T) {
	l := founded(t)
	p := l.s.Policy
	p.IsolationTimeout = time.Millisecond
	set := func(p facts.Policy, expect uint64) facts.Command {
		return facts.Command{SetPolicy: &facts.SetPolicy{Expect: expect, Policy: p}}
	}
	out := l.do(set(p, 1))
	if out.Code != facts.CodeBadPolicy || !strings.Contains(out.Refused, "isolation_timeout") {
		t.Errorf("%+v", out)
	}
	p = facts.DefaultPolicy()
	p.Durability = facts.Async
	l.want(facts.CodeStaleVersion, set(p, 7))
	out = l.do(set(p, 1))
	if out.Code != "" || l.s.Policy.Version != 2 || out.Events[0].Severity != facts.SeverityWarning {
		t.Errorf("%+v %+v", out, l.s.Policy)
	}
	p.SpoolMaxBytes = 1
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "spool_max") {
		t.Errorf("%v", err)
	}
}

func TestApply_Incidents(t *testing.T) {
	l := founded(t)
	raise := func(key, text string) facts.Command {
		return facts.Command{RaiseIncident: &facts.RaiseIncident{Incident: facts.Incident{Key: key, Severity: facts.SeverityError, Text: text}}}
	}
	clearIt := func(key string) facts.Command {
		return facts.Command{ClearIncident: &facts.ClearIncident{Key: key}}
	}
	l.want(facts.CodeBadCommand, raise("", "x"))
	l.want(facts.CodeBadCommand, facts.Command{RaiseIncident: &facts.RaiseIncident{Incident: facts.Incident{Key: "k", Severity: "info"}}})
	if out := l.do(raise("disk", "disk full")); len(out.Events) != 1 {
		t.Errorf("%+v", out)
	}
	if out := l.do(raise("disk", "disk full")); len(out.Events) != 0 {
		t.Errorf("raising the same again: %+v", out)
	}
	l.must(clearIt("disk"), clearIt("disk"), clearIt("never"))
	if i := l.s.Incidents["disk"]; !i.Until.Equal(t0) || !i.Since.Equal(t0) {
		t.Errorf("%+v", i)
	}
	for i := range 256 {
		l.must(raise(fmt.Sprint(i), "x")) // the last pushes out the one that ended
	}
	if _, ok := l.s.Incidents["disk"]; ok || len(l.s.Incidents) != 256 {
		t.Errorf("%d incidents", len(l.s.Incidents))
	}
	l.want(facts.CodeTooMany, raise("more", "x"))
}

func TestApply_Notices(t *testing.T) {
	l := trio(t)
	leave := func(store, kind string) facts.Command {
		return facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: store, Kind: kind, Until: t0}}}
	}
	back := facts.Command{ClearLeaving: &facts.ClearLeaving{Store: "B"}}
	l.want(facts.CodeUnknownStore, leave("Z", facts.LeavingStopping))
	l.want(facts.CodeBadCommand, leave("B", "holiday"))
	l.must(leave("B", facts.LeavingRestarting))
	if l.s.Leaving["B"].Kind != facts.LeavingRestarting {
		t.Errorf("%+v", l.s.Leaving)
	}
	l.must(back, back)
	if len(l.s.Leaving) != 0 {
		t.Errorf("%+v", l.s.Leaving)
	}
	up := func(addr string) facts.Command {
		return facts.Command{UpdateMember: &facts.UpdateMember{Store: "B", Address: addr}}
	}
	l.must(up("h:1"), up("h:1"))
	l.want(facts.CodeBadCommand, up("h 1"))
	if l.s.Members["B"].Address != "h:1" {
		t.Errorf("%+v", l.s.Members["B"])
	}
	vote := facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: "B", Voter: true}}
	l.must(vote, vote, facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: "A"}})
	if l.s.Members["A"].LedgerVoter || !l.s.Members["B"].LedgerVoter {
		t.Errorf("%+v", l.s.Members)
	}
}

func TestApply_RepeatedIDReturnsTheFirstOutcome(t *testing.T) {
	l := trio(t)
	c := begin(l)
	c.ID = "once"
	first := l.do(c)
	v := l.s.Version
	again := l.do(c)
	if !again.Repeated || l.s.Version != v || again.Refused != "" {
		t.Errorf("%+v, version %d to %d", again, v, l.s.Version)
	}
	again.Repeated = false
	if d := cmp.Diff(first, again); d != "" {
		t.Error(d)
	}
	for i := range 200 {
		l.must(facts.Command{ID: fmt.Sprint(i), ClearIncident: &facts.ClearIncident{Key: "x"}})
	}
	if len(l.s.Recent) != 128 {
		t.Errorf("%d ids are kept", len(l.s.Recent))
	}
	l.want(facts.CodeStaleVersion, c)
}

func TestCommand_Normalize(t *testing.T) {
	for name, c := range map[string]facts.Command{
		"Empty":   {},
		"NoBody":  {Kind: facts.CmdAssign},
		"Other":   {Kind: facts.CmdAssign, Opened: &facts.Opened{}},
		"Two":     {Assign: &facts.Assign{}, Opened: &facts.Opened{}},
		"LongID":  {Assign: &facts.Assign{}, ID: strings.Repeat("x", 256)},
		"Unknown": {Kind: "dance"},
	} {
		if _, err := c.Normalize(); !errors.Is(err, facts.ErrCommand) {
			t.Errorf("%s: %v", name, err)
		}
		l := founded(t)
		l.want(facts.CodeBadCommand, c)
	}
}
