package facts_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

func TestApply_RecordArchivedMergesAndKeepsGaps(t *testing.T) {
	l := depot(t)
	gap := func(from, to pos.LSN) facts.Command {
		c := archived(l, "a")
		c.RecordArchived.Gaps = []catalog.Gap{{Timeline: 1, From: from, To: to, Cause: "the spool was full"}}
		return c
	}
	marked := span(300, 350)
	marked.Marks = []catalog.Mark{{LSN: 310, At: t0}, {LSN: 350, At: t0.Add(time.Second), Name: "before"}}
	l.must(archived(l, "a", span(100, 200)), gap(180, 300), archived(l, "a", marked))
	want := catalog.Place{WAL: []catalog.Span{span(100, 200), marked}, Gaps: []catalog.Gap{{Timeline: 1, From: 200, To: 300, Cause: "the spool was full", Since: t0}}}
	if d := cmp.Diff(want, cat(t, l.s).Places["a"]); d != "" {
		t.Error(d)
	}
	l.want(facts.CodeGapOpen, facts.Command{CloseGap: &facts.CloseGap{Profile: pg, Location: "a", Timeline: 1, From: 200}})
	l.want(facts.CodeUnknownGap, facts.Command{CloseGap: &facts.CloseGap{Profile: pg, Location: "a", Timeline: 1, From: 201}})
	l.must(gap(200, 300), archived(l, "a", span(200, 250)))
	if g := cat(t, l.s).Places["a"].Gaps; len(g) != 1 || g[0].From != 250 {
		t.Errorf("%+v", g)
	}
	// A fill closes the rest; its job must be about this place.
	fill := archived(l, "a", span(250, 300))
	fill.RecordArchived.Store, fill.RecordArchived.Job = "", ref("f")
	l.want(facts.CodeUnknownJob, fill)
	l.must(beginJob(l, "f", facts.JobFill, "", "a"), fill)
	if p := cat(t, l.s).Places["a"]; len(p.Gaps) != 0 || len(p.WAL) != 1 || p.WAL[0].To != 350 || len(p.WAL[0].Marks) != 2 {
		t.Errorf("%+v", p)
	}
	l.must(gap(400, 500), facts.Command{CloseGap: &facts.CloseGap{Profile: pg, Location: "a", Timeline: 1, From: 400, GivenUp: true, Why: "it is gone"}})
	if p := cat(t, l.s).Places["a"]; len(p.Gaps) != 0 {
		t.Errorf("%+v", p)
	}
	other := archived(l, "a", span(1, 2))
	other.RecordArchived.Store = "B"
	l.want(facts.CodeNotFeeder, other)
	l.want(facts.CodeUnknownTimeline, archived(l, "a", catalog.Span{Timeline: 9, From: 1, To: 2}))
	l.want(facts.CodeBadCommand, archived(l, "a", span(7, 7)))
	l.want(facts.CodeBadCommand, archived(l, "a", catalog.Span{Timeline: 1, From: 5, To: 7, Marks: []catalog.Mark{{LSN: 8}}}))
}

func TestApply_MarksAreThinned(t *testing.T) {
	l := depot(t)
	const n = 6000
	for from := 0; from < n; from += 1000 {
		s := span(pos.LSN(from), pos.LSN(from+1000))
		for i := range 1000 {
			m := catalog.Mark{LSN: s.From + pos.LSN(i) + 1, At: t0.Add(time.Duration(from+i) * time.Second)}
			if i == 500 {
				m.Name = fmt.Sprintf("point%d", from)
			}
			s.Marks = append(s.Marks, m)
		}
		l.must(archived(l, "a", s))
	}
	wal := cat(t, l.s).Places["a"].WAL
	marks := wal[0].Marks
	if len(wal) != 1 || len(marks) > 2048 || len(marks) < 1000 || marks[0].LSN != 1 || marks[len(marks)-1].LSN != n {
		t.Fatalf("%d marks in %d spans", len(marks), len(wal))
	}
	named, dense := 0, 0
	for i, m := range marks {
		if m.Name != "" {
			named++
		}
		if i > 0 && m.LSN <= marks[i-1].LSN {
			t.Fatal("not sorted")
		}
		if m.LSN > n-500 {
			dense++
		}
	}
	if named != 6 || dense != 500 {
		t.Errorf("%d names and %d of the newest 500 are left", named, dense)
	}
}

func TestApply_Feeders(t *testing.T) {
	l := depot(t)
	p := place("c")
	p.Node = "backup"
	l.must(setPolicy(l, l.s.Policy.WithLocation("c", p)))
	l.want(facts.CodeNotFeeder, feeder(l, "c", "A"))
	l.want(facts.CodeUnknownStore, feeder(l, "c", "Z"))
	l.want(facts.CodeUnknownLocation, feeder(l, "z", "A"))
	c := feeder(l, "c", "B")
	c.AssignFeeder.Expect--
	l.want(facts.CodeStaleVersion, c)
	l.must(feeder(l, "c", "B"), feeder(l, "b", "W"), drop("W"))
	l.must(confirm(l))
	l.must(removeMember(l, "W"))
	if d := cmp.Diff(map[string]string{"a": "A", "c": "B"}, l.s.Backups.Feeders); d != "" {
		t.Error(d)
	}
	l.must(feeder(l, "c", ""), feeder(l, "a", ""))
	if l.s.Backups.Feeders != nil {
		t.Errorf("%v", l.s.Backups.Feeders)
	}
}

func TestApply_MarkSet(t *testing.T) {
	l := depot(t)
	take(l, 1, "a")
	note := func(k, v string) facts.Command {
		return facts.Command{MarkSet: &facts.MarkSet{Profile: pg, Label: label(1), Notes: map[string]string{k: v}}}
	}
	l.must(note("ticket", "42"))
	l.mark(label(1), true, true)
	if s := cat(t, l.s).Sets[label(1)]; !s.Pinned || !s.Gold || s.Notes["ticket"] != "42" {
		t.Errorf("%+v", s)
	}
	version := l.s.Audit.N
	l.mark(label(1), true, true)
	if l.s.Audit.N != version {
		t.Error("what changes nothing is audited")
	}
	l.must(note("ticket", ""))
	l.mark(label(1), false, false)
	if s := cat(t, l.s).Sets[label(1)]; s.Pinned || s.Gold || s.Notes != nil {
		t.Errorf("%+v", s)
	}
	l.want(facts.CodeUnknownSet, facts.Command{MarkSet: &facts.MarkSet{Profile: pg, Label: label(9)}})
	l.want(facts.CodeBadCommand, note("a b", "x"))
	l.want(facts.CodeBadCommand, note("a", strings.Repeat("x", 600)))
}

func TestApply_DrillsAreATrend(t *testing.T) {
	l := depot(t)
	take(l, 1, "a")
	for i := range 120 {
		id := fmt.Sprintf("d%d", i)
		l.must(beginJob(l, id, facts.JobDrill, label(1), "a"),
			facts.Command{RecordDrill: &facts.RecordDrill{Job: ref(id), Drill: facts.Drill{Label: label(1), Location: "a", Target: "latest", Duration: time.Minute, Rows: 5, Compared: 5, OK: i%2 == 0}}},
			endJob(id, facts.JobDone))
	}
	d := l.s.Backups.Drills
	if len(d) != 100 || d[99].Job != "d119" || d[99].Node != "main" || d[99].Profile != pg || !d[99].At.Equal(t0) {
		t.Errorf("%d, %+v", len(d), d[len(d)-1])
	}
	l.must(beginJob(l, "b", facts.JobBackup, label(2), "a"))
	l.want(facts.CodeNotYourJob, facts.Command{RecordDrill: &facts.RecordDrill{Job: ref("b")}})
}

func TestApply_TimelinesAreKept(t *testing.T) {
	l := at(t, facts.PhasePromoting) // timeline 2 left 1 at 295
	want := map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 295, At: t0}}
	if d := cmp.Diff(want, cat(t, l.s).Timelines); d != "" {
		t.Error(d)
	}
	l.must(begin(l))
	l.must(report(l, "B", 290, l.s.Lineage[:1]), report(l, "W", 290, l.s.Lineage[:1]))
	l.must(assign(l, "B"))
	l.must(starting(l, "B", 3, 290))
	want[3] = catalog.Timeline{Parent: 1, Fork: 290, At: t0}
	if d := cmp.Diff(want, cat(t, l.s).Timelines); d != "" {
		t.Error(d)
	}
	// A group that takes over a database with a past begins with its timeline.
	l = founded(t)
	l.must(begin(l))
	first := report(l, "A", 100, nil)
	first.ReportFence.Timeline = 7
	l.must(first, assign(l, "A"), starting(l, "A", 7, 100))
	if d := cmp.Diff(map[pos.Timeline]catalog.Timeline{7: {}}, cat(t, l.s).Timelines); d != "" {
		t.Error(d)
	}
}

// A snapshot of a ledger that is older than backups.
func TestDecode_OlderThanBackups(t *testing.T) {
	l := at(t, facts.PhasePromoting)
	b, err := facts.Encode(l.s)
	if err != nil {
		t.Fatal(err)
	}
	var snap struct {
		Format int                        `json:"format"`
		State  map[string]json.RawMessage `json:"state"`
	}
	if err := json.Unmarshal(b, &snap); err != nil {
		t.Fatal(err)
	}
	var policy map[string]json.RawMessage
	if err := json.Unmarshal(snap.State["policy"], &policy); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"backups", "audit"} {
		if _, ok := snap.State[k]; !ok {
			t.Errorf("no key %s", k)
		}
		delete(snap.State, k)
	}
	delete(policy, "backup")
	if snap.State["policy"], err = json.Marshal(policy); err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(snap); err != nil {
		t.Fatal(err)
	}
	old, err := facts.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if old.Policy.Backups() != facts.DefaultBackup() || old.Audit.N != 0 {
		t.Errorf("%+v", old.Policy.Backup)
	}
	c := cat(t, old)
	if d := cmp.Diff(map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 295, At: t0}}, c.Timelines); d != "" || c.SystemID != 1<<60 || c.Major != 15 || c.Group != "shop" {
		t.Errorf("%s %+v", d, c)
	}
	l.s = old
	l.must(setPolicy(l, l.s.Policy.WithLocation("a", place("a"))), feeder(l, "a", "A"))
	l.must(archived(l, "a", span(1, 2)))
	if len(cat(t, l.s).Timelines) != 2 || l.s.Audit.N == 0 || l.s.Audit.Newest[0].Prev != "" {
		t.Errorf("%+v", l.s.Audit)
	}
}

// What was looked at before log was removed is not believed afterwards, whether
// the removal is under way or over: the feeder would claim log that is gone, or
// call missed what nobody wants.
func TestApply_RecordArchivedAfterARemoval(t *testing.T) {
	for name, over := range map[string]bool{"Begun": false, "Over": true} {
		t.Run(name, func(t *testing.T) {
			l := depot(t)
			l.must(archived(l, "a", span(100, 400)), archived(l, "b", span(100, 400)))
			old, gap, fill := archived(l, "a", span(100, 500)), archived(l, "a"), archived(l, "a", span(150, 250))
			gap.RecordArchived.Gaps = []catalog.Gap{{Timeline: 1, From: 100, To: 200, Cause: "the spool was full"}}
			fill.RecordArchived.Store, fill.RecordArchived.Job = "", ref("f")
			other := archived(l, "b", span(400, 500))
			l.must(beginJob(l, "f", facts.JobFill, "", "a"), beginJob(l, "p", facts.JobPrune, "", "a"))
			gone := facts.RemoveWAL{Job: ref("p"), Location: "a", Ranges: []facts.WALRange{{Timeline: 1, From: 100, To: 300}}}
			l.must(facts.Command{RemoveWAL: &gone})
			between := archived(l, "a", span(150, 250))
			between.RecordArchived.Store, between.RecordArchived.Job = "", ref("f")
			if over {
				done := gone
				done.Gone = true
				l.must(facts.Command{RemoveWAL: &done})
				// A fill that was begun during the removal may have lost what it brought.
				l.want(facts.CodeStaleVersion, between)
			} else {
				l.want(facts.CodeRemoving, between)
			}
			for _, c := range []facts.Command{old, gap, fill} {
				l.want(facts.CodeStaleVersion, c)
			}
			l.must(other) // nothing was removed there
			l.must(archived(l, "a", span(400, 500)))
			if p := cat(t, l.s).Places["a"]; len(p.WAL) != 1 || p.WAL[0].From != 300 || p.WAL[0].To != 500 || len(p.Gaps) != 0 {
				t.Errorf("%+v", p)
			}
		})
	}
}
