package facts_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func TestApply_OrderIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		in         func(*lab) facts.Command
	}{
		{"UnknownKind", facts.CodeBadCommand, func(l *lab) facts.Command { return order(l, "dance", "B") }},
		{"NoID", facts.CodeBadCommand, func(l *lab) facts.Command {
			c := order(l, facts.OrderFailover, "B")
			c.SetOrder.Order.ID = ""
			return c
		}},
		{"LongStatement", facts.CodeBadCommand, func(l *lab) facts.Command {
			c := order(l, facts.OrderFailover, "B")
			c.SetOrder.Order.Statement = strings.Repeat("x", 3000)
			return c
		}},
		{"Stale", facts.CodeStaleVersion, func(l *lab) facts.Command {
			c := order(l, facts.OrderSwitchover, "B")
			c.SetOrder.Expect--
			return c
		}},
		{"OldEpoch", facts.CodeStaleEpoch, func(l *lab) facts.Command {
			c := order(l, facts.OrderSwitchover, "B")
			c.SetOrder.Order.Epoch = ep(9)
			return c
		}},
		{"UnknownStore", facts.CodeUnknownStore, func(l *lab) facts.Command { return order(l, facts.OrderFailover, "Z") }},
		{"Witness", facts.CodeNotData, func(l *lab) facts.Command { return order(l, facts.OrderFailover, "W") }},
		{"Unseeded", facts.CodeNotSeeded, func(l *lab) facts.Command {
			l.must(seeded("B", false))
			return order(l, facts.OrderFailover, "B")
		}},
		{"NoVote", facts.CodeNotVoter, func(l *lab) facts.Command {
			l.must(drop("B"))
			return order(l, facts.OrderFailover, "B")
		}},
		{"ThePrimary", facts.CodeIsPrimary, func(l *lab) facts.Command { return order(l, facts.OrderSwitchover, "A") }},
		{"Second", facts.CodeOrderStands, func(l *lab) facts.Command {
			l.must(order(l, facts.OrderSwitchover, "B"))
			return forceOrder(l, "B")
		}},
		{"SwitchoverWithoutPrimary", facts.CodeWrongPhase, func(l *lab) facts.Command {
			l.must(begin(l))
			return order(l, facts.OrderSwitchover, "B")
		}},
		{"Offline", facts.CodeBadCommand, func(l *lab) facts.Command {
			return facts.Command{SetOffline: &facts.SetOffline{Offline: true, Wait: -1}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := trio(t)
			l.want(tt.code, tt.in(l))
		})
	}
	l := founded(t)
	l.want(facts.CodeWrongPhase, order(l, facts.OrderFailover, "A"))
}

func TestApply_OrderEndsByOpening(t *testing.T) {
	l := trio(t)
	l.must(order(l, facts.OrderSwitchover, "B"))
	if o := l.s.Order; o.From != "A" || !o.At.Equal(t0) || o.Attempts != 0 {
		t.Errorf("%+v", o)
	}
	l.must(note(ep(1), facts.StepFrozen, "main"), note(ep(1), facts.StepStopped, "main"), begin(l))
	l.must(report(l, "A", 300, l.s.Lineage), report(l, "B", 300, l.s.Lineage), assign(l, "B"), starting(l, "B", 2, 300))
	if l.s.Order == nil || l.s.Order.Attempts != 1 {
		t.Fatalf("%+v", l.s.Order)
	}
	l.must(note(ep(2), facts.StepPromoted, "backup"), opened(l, "B", 300))
	if l.s.Order != nil || l.s.Early != nil {
		t.Errorf("the order stands: %+v", l.s.Order)
	}
	ch, _ := l.s.ChangeOf(ep(2))
	want := []string{facts.StepOrdered, facts.StepFrozen, facts.StepStopped, facts.StepEpoch, facts.StepFenced, facts.StepAssigned, facts.StepPromoting, facts.StepPromoted, facts.StepOpened}
	if d := cmp.Diff(want, names(ch.Steps)); d != "" || !ch.Opened || ch.From != "main" || ch.To != "backup" || ch.Timeline != 2 || ch.Start != 300 {
		t.Errorf("%s %+v", d, ch)
	}
}

func names(steps []facts.TimedStep) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Name)
	}
	return out
}

// An order that was given up leaves nothing behind for the next change.
func TestApply_ClearedOrderTakesItsStepsAlong(t *testing.T) {
	l := trio(t)
	l.must(order(l, facts.OrderSwitchover, "B"), note(ep(1), facts.StepFrozen, "main"))
	l.must(clearOrder("other"))
	if l.s.Order == nil {
		t.Fatal("another order's id cleared it")
	}
	l.must(clearOrder("o"), clearOrder("o"), begin(l))
	ch, _ := l.s.ChangeOf(ep(2))
	if d := cmp.Diff([]string{facts.StepEpoch}, names(ch.Steps)); d != "" || ch.Statement != "" {
		t.Errorf("%s", d)
	}
}

// What another attempt takes over is the beginning of the change, and however
// many attempts and notes there are, its end is recorded.
func TestApply_StepsOfManyAttempts(t *testing.T) {
	l := trio(t)
	l.must(order(l, facts.OrderSwitchover, "B"), note(ep(1), facts.StepStopped, "main"))
	for range 12 {
		c := begin(l)
		c.BeginEpoch.Change = facts.ChangeRestart
		if l.s.Order.Attempts == 0 {
			c.BeginEpoch.Change = facts.ChangeSwitchover
		}
		l.must(c)
		l.must(report(l, "A", 300, l.s.Lineage), report(l, "B", 300, l.s.Lineage), assign(l, "B"))
		for range 40 {
			l.must(note(l.s.Primary.Epoch, facts.StepReplayed, "backup"))
		}
	}
	l.must(starting(l, "B", 2, 300), opened(l, "B", 300))
	ch, _ := l.s.ChangeOf(l.s.Primary.Epoch)
	got := names(ch.Steps)
	if got[0] != facts.StepOrdered || got[1] != facts.StepStopped || got[len(got)-1] != facts.StepOpened || ch.Kind != facts.ChangeSwitchover {
		t.Errorf("%s %v", ch.Kind, got)
	}
	if len(l.s.Changes) > 24 || len(got) > 32 {
		t.Errorf("%d changes, %d steps", len(l.s.Changes), len(got))
	}
}

func TestApply_ForceNeedsItsOrder(t *testing.T) {
	ready := func(o func(*lab) facts.Command) *lab {
		l := trio(t)
		if o != nil {
			l.must(o(l))
		}
		l.must(begin(l))
		l.must(report(l, "A", 350, l.s.Lineage), report(l, "B", 300, l.s.Lineage))
		return l
	}
	l := ready(nil)
	l.want(facts.CodeBadCommand, force(l, "B"))
	l = ready(func(l *lab) facts.Command { return order(l, facts.OrderFailover, "B") })
	l.want(facts.CodeBadCommand, force(l, "B"))
	l = ready(func(l *lab) facts.Command { return forceOrder(l, "B") })
	l.want(facts.CodeBadCommand, force(l, "A"))
	l.want(facts.CodeBehind, assign(l, "B"))
	l.want(facts.CodeNotData, force(l, "W"))
	l.must(force(l, "B"))
	if !l.s.Primary.Forced || l.s.Primary.Elected.LSN != 300 {
		t.Errorf("%+v", l.s.Primary)
	}
	l.must(starting(l, "B", 2, 300), opened(l, "B", 300))
	if ch, _ := l.s.ChangeOf(ep(2)); ch.Kind != facts.ChangeForced || ch.Statement != "I know" {
		t.Errorf("%+v", ch)
	}
}

// A step of the primary that was frozen may come to be known after the epoch that
// was begun for the order.
func TestApply_LateStep(t *testing.T) {
	l := at(t, facts.PhaseOpened)
	e := l.s.Primary.Epoch
	l.must(order(l, facts.OrderSwitchover, "B"), note(e, facts.StepFrozen, "main"), begin(l), note(e, facts.StepStopped, "main"))
	ch, _ := l.s.ChangeOf(l.s.Primary.Epoch)
	if got, want := names(ch.Steps), []string{facts.StepOrdered, facts.StepFrozen, facts.StepStopped, facts.StepEpoch}; !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
}

func TestApply_Nominate(t *testing.T) {
	l := at(t, facts.PhaseFencing)
	l.want(facts.CodeNoFenceMajority, nominate(l, "B", "W"))
	l.must(report(l, "B", 300, l.s.Lineage), report(l, "W", 310, l.s.Lineage))
	stale := nominate(l, "B", "W")
	stale.Nominate.Expect--
	l.want(facts.CodeStaleVersion, stale)
	old := nominate(l, "B", "W")
	old.Nominate.Epoch = ep(1)
	l.want(facts.CodeStaleEpoch, old)
	l.want(facts.CodeUnknownStore, nominate(l, "Z", "W"))
	l.want(facts.CodeUnknownStore, nominate(l, "B", "Z"))
	l.want(facts.CodeNoReport, nominate(l, "B", "A"))
	l.want(facts.CodeNotSeeded, nominate(l, "W", "B"))
	l.must(nominate(l, "B", "W"))
	want := facts.Copy{Store: "B", Donor: "W", Upto: 310, At: t0}
	if l.s.Primary.Copy == nil || *l.s.Primary.Copy != want {
		t.Errorf("%+v", l.s.Primary.Copy)
	}
	l.want(facts.CodeBehind, assign(l, "B"))
	l.must(report(l, "B", 310, l.s.Lineage))
	l.want(facts.CodeNotCaughtUp, nominate(l, "B", "W"))
	if ch, _ := l.s.ChangeOf(ep(2)); !slices.Contains(names(ch.Steps), facts.StepCopied) {
		t.Errorf("%v", ch.Steps)
	}
	l.must(assign(l, "B"))
	if l.s.Primary.Copy != nil {
		t.Error("the copy outlived the election")
	}
	l.want(facts.CodeWrongPhase, nominate(l, "B", "W"))
}

// A node that repeats its report is not getting on.
func TestApply_RepeatedReportIsNoProgress(t *testing.T) {
	l := at(t, facts.PhaseFencing)
	say := func(lsn pos.LSN, after time.Duration) time.Time {
		c := report(l, "B", lsn, l.s.Lineage)
		c.At = t0.Add(after)
		s, out := facts.Apply(l.s, c)
		if out.Refused != "" {
			t.Fatal(out.Refused)
		}
		l.s = s
		return s.Primary.Fence["B"].At
	}
	if got := say(300, 0); !got.Equal(t0) {
		t.Errorf("first at %s", got)
	}
	if got := say(300, time.Minute); !got.Equal(t0) {
		t.Errorf("the repetition counts as progress at %s", got)
	}
	if got := say(301, time.Hour); !got.Equal(t0.Add(time.Hour)) {
		t.Errorf("progress at %s", got)
	}
}

// In a pair the primary holds the ledger's only vote before it starts.
func TestApply_PairStartsWithTheLedger(t *testing.T) {
	l := pair(t)
	l.must(begin(l))
	l.must(report(l, "A", 300, l.s.Lineage), report(l, "B", 300, l.s.Lineage), assign(l, "B"))
	l.want(facts.CodeLedgerVote, starting(l, "B", 2, 300))
	l.must(ledgerVote("B", true))
	l.want(facts.CodeLedgerVote, starting(l, "B", 2, 300))
	l.must(ledgerVote("A", false), starting(l, "B", 2, 300))
}

func TestApply_Offline(t *testing.T) {
	l := trio(t)
	off := facts.Command{SetOffline: &facts.SetOffline{Offline: true, Wait: time.Second}}
	on := facts.Command{SetOffline: &facts.SetOffline{}}
	l.must(on, off)
	if l.s.Offline == nil || l.s.Offline.Wait != time.Second || !l.s.Offline.Since.Equal(t0) {
		t.Errorf("%+v", l.s.Offline)
	}
	if out := l.do(off); len(out.Events) != 0 {
		t.Errorf("said twice: %+v", out.Events)
	}
	l.must(on)
	if l.s.Offline != nil {
		t.Error("still offline")
	}
}

// The kind of a change is what came of it, not what was expected.
func TestApply_KindOfChange(t *testing.T) {
	change := func(l *lab, kind facts.ChangeKind, to string) facts.Change {
		c := begin(l)
		c.BeginEpoch.Change = kind
		l.must(c)
		l.must(report(l, "A", 300, l.s.Lineage), report(l, "B", 300, l.s.Lineage), assign(l, to), starting(l, to, 1, 300), opened(l, to, 300))
		ch, _ := l.s.ChangeOf(l.s.Primary.Epoch)
		return ch
	}
	for _, tt := range []struct {
		begun facts.ChangeKind
		to    string
		want  facts.ChangeKind
	}{
		{facts.ChangeRestart, "A", facts.ChangeRestart},
		{facts.ChangeRestart, "B", facts.ChangeFailover},
		{facts.ChangeFailover, "A", facts.ChangeRestart},
		{facts.ChangeFailover, "B", facts.ChangeFailover},
		{facts.ChangeSwitchover, "A", facts.ChangeSwitchover}, // it fell back
		{facts.ChangeSwitchover, "B", facts.ChangeSwitchover},
		{"", "B", facts.ChangeFailover},
	} {
		if got := change(trio(t), tt.begun, tt.to).Kind; got != tt.want {
			t.Errorf("begun as %q, %s opened: %q, want %q", tt.begun, tt.to, got, tt.want)
		}
	}
	l := trio(t)
	if ch, ok := l.s.ChangeOf(ep(1)); !ok || ch.Kind != facts.ChangeFounding || ch.Proof != nil || !ch.Opened {
		t.Errorf("the first primary: %+v", ch)
	}
}
