package node_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/node"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func planner(t *testing.T) node.Planner {
	t.Helper()
	cfg := config(t)
	p, err := node.NewPlanner(t.Context(), cfg, open(t, cfg, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func actionCode(err error) string {
	var ae *admin.ActionError
	if errors.As(err, &ae) {
		return ae.Code
	}
	return fmt.Sprint(err)
}

func pause(t *testing.T, p node.Planner, action, d string) doc.Pause {
	t.Helper()
	args := map[string]string{}
	if d != "" {
		args["for"] = d
	}
	got, known, err := p.Do(t.Context(), action, args)
	if err != nil || !known {
		t.Fatalf("%s %s: %v, %v", action, d, known, err)
	}
	return got.(doc.Pause)
}

func TestPause_IsIdempotentAndTouchesNothingElse(t *testing.T) {
	p := planner(t)
	if got := pause(t, p, doc.KindResume, ""); got.Paused || got.Changed || got.Mode != "automatic" {
		t.Errorf("resumed what was not paused: %+v", got)
	}
	before := p.State().Policy
	first := pause(t, p, doc.KindPause, "")
	if !first.Paused || !first.Changed || !first.Until.IsZero() || first.Version != before.Version+1 {
		t.Errorf("got %+v", first)
	}
	if again := pause(t, p, doc.KindPause, ""); again.Changed || again.Version != first.Version {
		t.Errorf("paused twice: %+v", again)
	}
	short := pause(t, p, doc.KindPause, "2h")
	if left := time.Until(short.Until); !short.Changed || left < 119*time.Minute || left > 2*time.Hour {
		t.Errorf("got %+v", short)
	}
	if last := pause(t, p, doc.KindResume, ""); last.Paused || !last.Changed || last.Version != short.Version+1 {
		t.Errorf("got %+v", last)
	}
	after := p.State().Policy
	before.Version, after.Version = 0, 0
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the policy is not what it was: %s", d)
	}
	over := p.State().Policy
	over.Paused, over.PausedUntil = true, time.Now().Add(-time.Second)
	if err := p.Propose(t.Context(), facts.Command{SetPolicy: &facts.SetPolicy{Expect: over.Version, Policy: over}}); err != nil {
		t.Fatal(err)
	}
	if got := pause(t, p, doc.KindResume, ""); got.Paused || got.Changed {
		t.Errorf("ended a pause that was over: %+v", got)
	}
	for _, bad := range []string{"x", "-1h", "0s", "1ns", "9000h"} {
		if _, _, err := p.Do(t.Context(), doc.KindPause, map[string]string{"for": bad}); actionCode(err) != admin.CodeBadArgument {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, known, err := p.Do(t.Context(), "stop", nil); known || err != nil {
		t.Errorf("took an action of others: %v, %v", known, err)
	}
}

// Whoever else changes the policy at the same time: nobody's change is lost.
func TestPause_BesideOtherChanges(t *testing.T) {
	p := planner(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20 {
			pol := p.State().Policy
			pol.SpoolMaxBytes = int64(1+i) << 30
			body, err := json.Marshal(pol)
			if err != nil {
				t.Error(err)
			}
			if _, err := p.Apply(t.Context(), map[string]string{"expect": strconv.FormatUint(pol.Version, 10), "policy": string(body)}); err != nil && actionCode(err) != admin.CodeRefused {
				t.Error(err)
			}
		}
	})
	for i := range 20 {
		action := []string{doc.KindPause, doc.KindResume}[i%2]
		if _, _, err := p.Do(t.Context(), action, nil); err != nil && actionCode(err) != admin.CodeRefused {
			t.Error(err)
		}
	}
	wg.Wait()
	last := pause(t, p, doc.KindPause, "")
	if st := p.State().Policy; !st.Paused || st.SpoolMaxBytes < 1<<30 || st.Version != last.Version {
		t.Errorf("got %+v", st)
	}
}

func TestApplyPolicy_RefusesUnknownNodes(t *testing.T) {
	p := planner(t)
	apply := func(edit func(*facts.Policy)) error {
		pol := p.State().Policy
		expect := strconv.FormatUint(pol.Version, 10)
		edit(&pol)
		body, err := json.Marshal(pol)
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Apply(t.Context(), map[string]string{"expect": expect, "policy": string(body)})
		return err
	}
	far := facts.NodePolicy{NoVote: true}
	err := apply(func(pol *facts.Policy) { *pol = pol.With("far", far).With("afar", far).With("w", far) })
	if actionCode(err) != admin.CodeRefused || err.Error() != `the group has no node "afar" and "far"; it has w; nothing was changed.` {
		t.Errorf("got %v", err)
	}
	if err := apply(func(pol *facts.Policy) { *pol = pol.With("w", facts.NodePolicy{Priority: 3}) }); err != nil {
		t.Error(err)
	}
	if got := p.State().Policy.Of("w").Priority; got != 3 {
		t.Errorf("priority %d", got)
	}
	// What is said of a node that has left does not stand in the way.
	left := p.State().Policy.With("gone", far)
	if err := p.Propose(t.Context(), facts.Command{SetPolicy: &facts.SetPolicy{Expect: left.Version, Policy: left}}); err != nil {
		t.Fatal(err)
	}
	if err := apply(func(pol *facts.Policy) { pol.Durability = facts.Async }); err != nil {
		t.Error(err)
	}
	if err := apply(func(pol *facts.Policy) { *pol = pol.With("gone", facts.NodePolicy{}) }); err != nil || len(p.State().Policy.Nodes) != 1 {
		t.Errorf("%v, %v", p.State().Policy.Nodes, err)
	}
}

func TestSchedule_RecordsReplacesAndWithdraws(t *testing.T) {
	p := planner(t)
	do := func(action string, args map[string]string) doc.OrderReply {
		t.Helper()
		got, known, err := p.Do(t.Context(), action, args)
		if err != nil || !known {
			t.Fatalf("%s %v: %v, %v", action, args, known, err)
		}
		return got.(doc.OrderReply)
	}
	if got := do(doc.KindUnschedule, nil); !got.Started || got.Scheduled != nil || got.Steps[0] != "No switchover is scheduled." {
		t.Errorf("got %+v", got)
	}
	if got := do(doc.KindSchedule, map[string]string{"at": "+1h", "dry_run": "true"}); got.Started || got.Scheduled == nil || p.State().Scheduled != nil {
		t.Errorf("a dry run did it: %+v", got)
	}
	first := do(doc.KindSchedule, map[string]string{"at": "+1h"})
	if s := p.State().Scheduled; s == nil || s.ID != first.ID || !first.Started || s.Until.Sub(s.At) != 10*time.Minute {
		t.Errorf("got %+v for %+v", s, first)
	}
	second := do(doc.KindSchedule, map[string]string{"at": "+2h", "within": "1h"})
	if s := p.State().Scheduled; s.ID != second.ID || s.Until.Sub(s.At) != time.Hour || !strings.Contains(strings.Join(second.Steps, " "), "It replaces the one that was scheduled for ") {
		t.Errorf("got %+v for %+v", s, second)
	}
	if got := do(doc.KindUnschedule, nil); got.ID != second.ID || got.Scheduled == nil || p.State().Scheduled != nil {
		t.Errorf("got %+v", got)
	}
}

// inThree is a group of three of which nobody is heard.
func inThree(now time.Time) decide.Observation {
	member := func(name string, kind facts.Kind) facts.Member {
		return facts.Member{Name: name, Store: "s-" + name, Kind: kind, Seeded: kind == facts.KindData}
	}
	return decide.Observation{Now: now, State: facts.State{
		Group:   facts.Group{ID: "g"},
		Members: map[string]facts.Member{"s-main": member("main", facts.KindData), "s-backup": member("backup", facts.KindData), "s-witness": member("witness", facts.KindWitness), "s-far": member("far", facts.KindData)},
		Primary: facts.Primaryship{Epoch: pos.Epoch{Gen: 1, Num: 4}, Phase: facts.PhaseOpened, Store: "s-main", Node: "main"},
		Policy:  facts.DefaultPolicy().With("far", facts.NodePolicy{NoVote: true}),
	}}
}

func TestPlanSchedule(t *testing.T) {
	now := time.Date(2026, 3, 1, 21, 30, 0, 0, time.UTC)
	rep, s, err := node.PlanSchedule(inThree(now), map[string]string{"to": "backup", "at": "22:00", "within": "5m", "dry_run": "true"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"At 2026-03-01 22:00:00 UTC, in 30m, a switchover to backup begins.", "If it is refused then, it is tried until 2026-03-01 22:05:00 UTC.",
		"Now it would be refused: no primary is open that could hand over; use: understudy failover --to NODE.",
	}
	if d := cmp.Diff(want, rep.Steps); d != "" || s.To != "s-backup" || rep.Refused != "" {
		t.Errorf("%+v: %s", s, d)
	}
	for name, tt := range map[string]struct {
		args map[string]string
		code string
		want string
	}{
		"NoTime":     {map[string]string{}, admin.CodeBadArgument, "at must be"},
		"Within":     {map[string]string{"at": "+1h", "within": "long"}, admin.CodeBadArgument, "within must be"},
		"WithinLong": {map[string]string{"at": "+1h", "within": "25h"}, admin.CodeBadArgument, "within must be"},
		"Over":       {map[string]string{"at": "2026-03-01T21:29:59Z"}, admin.CodeRefused, "2026-03-01 21:29:59 UTC is over"},
		"Unknown":    {map[string]string{"at": "+1h", "to": "bakcup"}, admin.CodeRefused, `the group has no node "bakcup"; it has backup, far, main, witness.`},
		"Witness":    {map[string]string{"at": "+1h", "to": "witness"}, admin.CodeRefused, "witness cannot be primary"},
		"Primary":    {map[string]string{"at": "+1h", "to": "main"}, admin.CodeRefused, "main is the primary"},
		"NoVote":     {map[string]string{"at": "+1h", "to": "far"}, admin.CodeRefused, "node.far.votes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := node.PlanSchedule(inThree(now), tt.args)
			if actionCode(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %s %v", actionCode(err), err)
			}
		})
	}
	if _, _, err := node.PlanSchedule(decide.Observation{Now: now}, map[string]string{"at": "+1h"}); actionCode(err) != admin.CodeRefused {
		t.Errorf("without a group: %v", err)
	}
}

func TestParseAt(t *testing.T) {
	zone := time.FixedZone("X", 2*3600)
	now := time.Date(2026, 2, 28, 23, 30, 15, 5, zone)
	for text, want := range map[string]string{
		"+30m": "2026-03-01T00:00:15+02:00", "+1h30m": "2026-03-01T01:00:15+02:00", "23:31": "2026-02-28T23:31:00+02:00", "23:30": "2026-03-01T23:30:00+02:00",
		"00:00": "2026-03-01T00:00:00+02:00", "7:05": "2026-03-01T07:05:00+02:00", "2026-03-01T00:00:00Z": "2026-03-01T00:00:00Z", "2027-01-01T00:00:00+02:00": "2027-01-01T00:00:00+02:00",
		// Not a time, over, or too far.
		"": "", "soon": "", "24:00": "", "+": "", "+x": "", "30m": "", "2026-03-01": "", "2026-03-01 00:00": "", "2026-13-01T00:00:00Z": "", "+0s": "", "+-1h": "",
		"2026-02-28T23:30:15+02:00": "", "2026-02-28T20:00:00Z": "", "2030-01-01T00:00:00Z": "", "+9000h": "",
	} {
		at, err := node.ParseAt(text, now)
		got := at.Format(time.RFC3339)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: got %s, %v, want %q", text, got, err, want)
		}
	}
}

func TestChangeDoc_DurationsAndTail(t *testing.T) {
	at := func(ms int) time.Time {
		return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	}
	lost := facts.LostTransaction{XID: 800, End: 0x3000150, Time: at(-1), Tables: []string{"orders"}}
	c := facts.Change{
		Epoch: pos.Epoch{Gen: 1, Num: 5}, Kind: facts.ChangeFailover, From: "main", To: "backup", Opened: true,
		// As the ledger has them: the sign of life is known only afterwards.
		Steps: []facts.TimedStep{{Name: facts.StepEpoch, At: at(1000)}, {Name: facts.StepLost, At: at(0)}, {Name: facts.StepFenced, At: at(1020)}, {Name: facts.StepAssigned, At: at(1010)}},
		Proof: &facts.Proof{Closed: &facts.Closing{Node: "main", Tail: "/tails/1", Transactions: []facts.LostTransaction{lost}, More: 2}}, Return: &facts.Return{Node: "main", Method: "rewind", At: at(9000)},
	}
	d := node.ChangeDoc(c)
	if got := slices.IndexFunc(d.Phases, func(p doc.Phase) bool { return p.Name == doc.PhaseLost }); got != 0 || d.Phases[1].AfterNS != 1e9 {
		t.Errorf("got %+v", d.Phases)
	}
	want := []doc.Duration{{Part: doc.PartDetect, Milliseconds: 1000}, {Part: doc.PartFence, Milliseconds: 20}, {Part: doc.PartElect, Approximate: true}}
	if diff := cmp.Diff(want, d.Durations); diff != "" {
		t.Error(diff)
	}
	wantTail := []doc.LostTransaction{{XID: 800, End: 0x3000150, Time: at(-1), Tables: []string{"orders"}}}
	if diff := cmp.Diff(wantTail, d.Return.Transactions); diff != "" || d.Return.TailTransactions != 3 || d.Return.Tail != "/tails/1" {
		t.Errorf("%+v: %s", d.Return, diff)
	}
	if len(d.Proof.Transactions) != 0 {
		t.Errorf("what nobody was told of counts as lost: %+v", d.Proof.Transactions)
	}
}
