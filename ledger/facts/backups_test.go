package facts_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

const pg = facts.ProfilePostgres

// label is that of the nth set.
func label(n int) string { return fmt.Sprintf("20260301-0000%02dF", n) }

// depot is the trio with the locations a, b and c, the first archived to by
// main.
func depot(t testing.TB) *lab {
	t.Helper()
	l := trio(t)
	p := l.s.Policy
	for _, name := range []string{"a", "b", "c"} {
		p = p.WithLocation(name, place(name))
	}
	l.must(setPolicy(l, p), feeder(l, "a", "A"), feeder(l, "b", "B"))
	return l
}

func place(name string) facts.LocationPolicy {
	p := facts.DefaultLocation()
	p.Kind, p.Bucket, p.Secret = facts.LocationS3, "bucket-"+name, "s"
	return p
}

func setPolicy(l *lab, p facts.Policy) facts.Command {
	return facts.Command{SetPolicy: &facts.SetPolicy{Expect: l.s.Policy.Version, Policy: p}}
}

func feeder(l *lab, location, store string) facts.Command {
	c := facts.Command{AssignFeeder: &facts.AssignFeeder{Expect: l.s.Backups.FeedersVersion, Location: location, Store: store}}
	return c
}

// ref is job id as its node's daemon names it.
func ref(id string) facts.JobRef { return facts.JobRef{ID: id, Lease: "run1"} }

func beginJob(l *lab, id string, kind facts.JobKind, set string, locations ...string) facts.Command {
	return facts.Command{BeginJob: &facts.BeginJob{Expect: l.s.Backups.JobsVersion, Removals: l.s.Backups.Removals, Job: facts.Job{
		ID: id, Kind: kind, Profile: pg, Store: "A", Lease: "run1", Label: set, Locations: locations, Why: "test"}}}
}

func endJob(id string, state facts.JobState) facts.Command {
	return facts.Command{EndJob: &facts.EndJob{Job: ref(id), State: state}}
}

func recordSet(id string, set catalog.Set) facts.Command {
	return facts.Command{RecordSet: &facts.RecordSet{Job: ref(id), Set: set}}
}

func recordCopy(id, set, location string, state catalog.CopyState) facts.Command {
	return facts.Command{RecordCopy: &facts.RecordCopy{Job: ref(id), Label: set, Location: location, State: state}}
}

func archived(l *lab, location string, spans ...catalog.Span) facts.Command {
	return facts.Command{RecordArchived: &facts.RecordArchived{Profile: pg, Location: location, Store: l.s.Backups.Feeders[location], Spans: spans,
		Removals: l.s.Backups.LogRemovals[location]}}
}

func span(from, to pos.LSN) catalog.Span { return catalog.Span{Timeline: 1, From: from, To: to} }

func removeCopy(id, set, location string, gone bool) facts.Command {
	return facts.Command{RemoveCopy: &facts.RemoveCopy{Job: ref(id), Label: set, Location: location, Gone: gone}}
}

func removeWAL(id, location string, from, to pos.LSN) facts.Command {
	return facts.Command{RemoveWAL: &facts.RemoveWAL{Job: ref(id), Location: location, Ranges: []facts.WALRange{{Timeline: 1, From: from, To: to}}}}
}

// running and whole are the nth set, which needs [100n, 100n+50).
func running(n int) catalog.Set {
	return catalog.Set{Label: label(n), State: catalog.SetRunning, Timeline: 1, Start: pos.LSN(100 * n)}
}

func whole(n int) catalog.Set {
	s := running(n)
	s.State, s.End, s.Digest, s.Bytes = catalog.SetComplete, s.Start+50, "d", 10
	s.Began, s.Ended = t0.Add(time.Duration(n)*time.Hour), t0.Add(time.Duration(n)*time.Hour+time.Minute)
	return s
}

// take makes the nth set at locations, with its log at the first two places.
func take(l *lab, n int, locations ...string) {
	l.t.Helper()
	id := fmt.Sprintf("take%d", n)
	l.must(beginJob(l, id, facts.JobBackup, label(n), locations...), recordSet(id, running(n)))
	for _, name := range locations {
		l.must(recordCopy(id, label(n), name, catalog.CopyComplete))
	}
	l.must(recordSet(id, whole(n)))
	for _, name := range []string{"a", "b"} {
		l.must(archived(l, name, span(pos.LSN(100*n), pos.LSN(100*n+100))))
	}
	l.must(endJob(id, facts.JobDone))
}

func cat(t testing.TB, s facts.State) catalog.Catalog {
	t.Helper()
	c, ok := s.Catalog(pg)
	if !ok {
		t.Fatal("no catalog")
	}
	return c
}

func TestApply_BackupFromBeginToEnd(t *testing.T) {
	l := depot(t)
	l.must(beginJob(l, "j", facts.JobBackup, label(1), "a", "b"))
	if j := l.s.Backups.Jobs["j"]; j.Node != "main" || j.State != facts.JobRunning || !j.Began.Equal(t0) || j.Attempt != 1 {
		t.Errorf("%+v", j)
	}
	l.must(recordSet("j", running(1)))
	if floor, ok := l.s.WALFloor(pg); !ok || floor != 100 {
		t.Errorf("floor %s", floor)
	}
	l.want(facts.CodeNotComplete, recordSet("j", whole(1)))
	l.must(recordCopy("j", label(1), "b", catalog.CopyComplete), recordSet("j", whole(1)))
	l.want(facts.CodeNotComplete, endJob("j", facts.JobDone)) // without its log it cannot be restored
	l.must(archived(l, "a", span(64, 120)))
	l.want(facts.CodeNotComplete, endJob("j", facts.JobDone))
	l.must(archived(l, "b", span(110, 150)), endJob("j", facts.JobDone))
	c := cat(t, l.s)
	if set := c.Sets[label(1)]; set.State != catalog.SetComplete || set.Node != "main" || set.Copies["a"].State != catalog.CopyWriting || set.Copies["b"].State != catalog.CopyComplete {
		t.Errorf("%+v", set)
	}
	if j, ok := l.s.Job("j"); !ok || j.State != facts.JobDone || len(l.s.Backups.Jobs) != 0 {
		t.Errorf("%+v", j)
	}
	l.want(facts.CodeJobOver, recordCopy("j", label(1), "a", catalog.CopyComplete))
}

func TestApply_BeginJobRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*lab, *facts.BeginJob)
		code  string
	}{
		"Stale":         {func(_ *lab, c *facts.BeginJob) { c.Expect-- }, facts.CodeStaleVersion},
		"StaleCatalog":  {func(_ *lab, c *facts.BeginJob) { c.Removals++; c.Job.Uses.Floor = 5 }, facts.CodeStaleVersion},
		"Store":         {func(_ *lab, c *facts.BeginJob) { c.Job.Store = "Z" }, facts.CodeUnknownStore},
		"Kind":          {func(_ *lab, c *facts.BeginJob) { c.Job.Kind = "tidy" }, facts.CodeBadCommand},
		"NoID":          {func(_ *lab, c *facts.BeginJob) { c.Job.ID = "" }, facts.CodeBadCommand},
		"NoLease":       {func(_ *lab, c *facts.BeginJob) { c.Job.Lease = "" }, facts.CodeBadCommand},
		"IDTwice":       {func(_ *lab, c *facts.BeginJob) { c.Job.ID = "take1" }, facts.CodeKnownJob},
		"Profile":       {func(_ *lab, c *facts.BeginJob) { c.Job.Profile = "mongo" }, facts.CodeUnknownProfile},
		"NoLabel":       {func(_ *lab, c *facts.BeginJob) { c.Job.Label = "" }, facts.CodeBadCommand},
		"LabelIsPath":   {func(_ *lab, c *facts.BeginJob) { c.Job.Label = "../x" }, facts.CodeBadCommand},
		"LabelTwice":    {func(_ *lab, c *facts.BeginJob) { c.Job.Label = label(1) }, facts.CodeKnownSet},
		"NoLocation":    {func(_ *lab, c *facts.BeginJob) { c.Job.Locations = nil }, facts.CodeBadCommand},
		"Location":      {func(_ *lab, c *facts.BeginJob) { c.Job.Locations = []string{"a", "z"} }, facts.CodeUnknownLocation},
		"LocationTwice": {func(_ *lab, c *facts.BeginJob) { c.Job.Locations = []string{"a", "a"} }, facts.CodeBadCommand},
		"Disabled":      {func(l *lab, c *facts.BeginJob) { l.disable("b") }, facts.CodeLocationDisabled},
		"TwoFulls":      {func(l *lab, c *facts.BeginJob) { l.begun(c, facts.JobBackup, label(8)) }, facts.CodeJobRuns},
		"TwoPrunes": {func(l *lab, c *facts.BeginJob) {
			l.begun(c, facts.JobPrune, "")
			c.Job.Kind, c.Job.Label = facts.JobPrune, ""
		}, facts.CodeJobRuns},
		"UnknownLabel":    {func(_ *lab, c *facts.BeginJob) { c.Job.Kind = facts.JobVerify }, facts.CodeUnknownSet},
		"UnknownUse":      {func(_ *lab, c *facts.BeginJob) { c.Job.Uses.Labels = []string{label(7)} }, facts.CodeUnknownSet},
		"UseOfDamaged":    {func(l *lab, c *facts.BeginJob) { l.damage(1); c.Expect += 2; c.Job.Uses.Labels = []string{label(1)} }, facts.CodeNotComplete},
		"PruneOfFrozen":   {func(l *lab, c *facts.BeginJob) { l.freeze(); c.Job.Kind, c.Job.Label = facts.JobPrune, "" }, facts.CodeFrozen},
		"TooLongWhy":      {func(_ *lab, c *facts.BeginJob) { c.Job.Why = strings.Repeat("x", 3000) }, facts.CodeBadCommand},
		"RestoreDisabled": {func(l *lab, c *facts.BeginJob) { l.disable("b"); c.Job.Kind, c.Job.Label = facts.JobRestore, label(1) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := depot(t)
			take(l, 1, "a")
			c := beginJob(l, "new", facts.JobBackup, label(9), "a", "b")
			tt.spoil(l, c.BeginJob)
			before := l.s
			l.want(tt.code, c)
			if d := cmp.Diff(before, l.s); tt.code != "" && d != "" {
				t.Error(d)
			}
		})
	}
}

func (l *lab) disable(name string) {
	p := place(name)
	p.Disabled = true
	l.must(setPolicy(l, l.s.Policy.WithLocation(name, p)))
}

func (l *lab) freeze() {
	l.must(facts.Command{SetFreeze: &facts.SetFreeze{Frozen: true, Why: "I look into it"}})
}

// begun lets another job run first, of which the proposer knows.
func (l *lab) begun(c *facts.BeginJob, kind facts.JobKind, set string) {
	l.must(beginJob(l, "other", kind, set, "a"))
	c.Expect = l.s.Backups.JobsVersion
}

// damage lets a verify find the nth set's only copy damaged.
func (l *lab) damage(n int) {
	l.must(beginJob(l, "v", facts.JobVerify, label(n), "a"),
		facts.Command{RecordVerified: &facts.RecordVerified{Job: ref("v"), Label: label(n), Location: "a", Problem: "byte 7"}}, endJob("v", facts.JobDone))
}

func TestApply_LostJobsCannotSpeak(t *testing.T) {
	l := depot(t)
	l.must(beginJob(l, "j", facts.JobBackup, label(1), "a"), recordSet("j", running(1)))
	wrong := recordSet("j", running(1))
	wrong.RecordSet.Job.Lease = "run2"
	l.want(facts.CodeNotYourJob, wrong)
	l.must(facts.Command{LoseJobs: &facts.LoseJobs{Store: "A", ID: "none"}}, facts.Command{LoseJobs: &facts.LoseJobs{Store: "A", Keep: "run1"}}, facts.Command{LoseJobs: &facts.LoseJobs{Store: "B"}})
	if len(l.s.Backups.Jobs) != 1 {
		t.Fatal("a living job was lost")
	}
	l.must(facts.Command{LoseJobs: &facts.LoseJobs{Store: "A", Keep: "run2"}})
	if j, _ := l.s.Job("j"); j.State != facts.JobLost || cat(t, l.s).Sets[label(1)].State != catalog.SetFailed {
		t.Errorf("%+v, %+v", j, cat(t, l.s).Sets)
	}
	l.want(facts.CodeJobOver, recordSet("j", whole(1)))
	l.want(facts.CodeJobOver, endJob("j", facts.JobDone))
	l.want(facts.CodeUnknownJob, endJob("none", facts.JobDone))
	l.must(beginJob(l, "next", facts.JobBackup, label(2), "a"))
	l.must(facts.Command{CancelJob: &facts.CancelJob{ID: "next", Why: "enough"}})
	if j := l.s.Backups.Jobs["next"]; j.Cancel != "enough" {
		t.Errorf("%+v", j)
	}
	l.must(endJob("next", facts.JobCancelled), facts.Command{CancelJob: &facts.CancelJob{ID: "next"}})
	if j, _ := l.s.Job("next"); j.State != facts.JobCancelled || j.Problem != "enough" {
		t.Errorf("%+v", j)
	}
}

func TestApply_CopySteps(t *testing.T) {
	// What a job of each kind makes of a copy in each state: "" where it may.
	const no, gone = facts.CodeUnknownCopy, facts.CodeRemoving
	for _, tt := range []struct {
		job  facts.JobKind
		to   catalog.CopyState
		want map[catalog.CopyState]string // by the state before
	}{
		{facts.JobFill, catalog.CopyWriting, map[catalog.CopyState]string{"": "", "writing": "", "complete": no, "damaged": "", "removing": gone}},
		{facts.JobFill, catalog.CopyComplete, map[catalog.CopyState]string{"": no, "writing": "", "complete": "", "damaged": no, "removing": gone}},
		{facts.JobFill, catalog.CopyDamaged, map[catalog.CopyState]string{"": no, "writing": no, "complete": "", "damaged": "", "removing": gone}},
		{facts.JobVerify, catalog.CopyWriting, map[catalog.CopyState]string{"": no, "writing": "", "complete": no, "damaged": no, "removing": gone}},
		{facts.JobVerify, catalog.CopyComplete, map[catalog.CopyState]string{"": no, "writing": no, "complete": "", "damaged": no, "removing": gone}},
		{facts.JobVerify, catalog.CopyDamaged, map[catalog.CopyState]string{"": no, "writing": no, "complete": "", "damaged": "", "removing": gone}},
		{facts.JobFill, catalog.CopyRemoving, map[catalog.CopyState]string{"": no, "writing": no, "complete": no, "damaged": no, "removing": gone}},
	} {
		for before, want := range tt.want {
			l := depot(t)
			take(l, 1, "a", "b")
			take(l, 2, "a", "b", "c")
			l.must(beginJob(l, "x", tt.job, "", "c"))
			l.copyIs(before)
			if out := l.do(recordCopy("x", label(1), "c", tt.to)); out.Code != want {
				t.Errorf("%s makes %q %q: %s (%s), want %q", tt.job, before, tt.to, out.Code, out.Refused, want)
			}
		}
	}
}

// copyIs brings the first set's copy at c to a state.
func (l *lab) copyIs(state catalog.CopyState) {
	if state == "" {
		return
	}
	if _, fills := l.s.Backups.Jobs["x"]; fills && l.s.Backups.Jobs["x"].Kind != facts.JobFill {
		l.must(beginJob(l, "fill", facts.JobFill, "", "c"))
	}
	id := "x"
	if _, ok := l.s.Backups.Jobs["fill"]; ok {
		id = "fill"
	}
	l.must(recordCopy(id, label(1), "c", catalog.CopyWriting))
	if state == catalog.CopyWriting {
		return
	}
	l.must(recordCopy(id, label(1), "c", catalog.CopyComplete))
	switch state {
	case catalog.CopyDamaged:
		l.must(recordCopy(id, label(1), "c", catalog.CopyDamaged))
	case catalog.CopyRemoving:
		l.must(beginJob(l, "p", facts.JobPrune, "", "c"), removeCopy("p", label(1), "c", false))
	}
}

func TestApply_PruneRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*lab)
		c       facts.Command
		code    string
	}{
		"Nothing":       {nil, removeCopy("p", label(1), "a", false), ""},
		"NotItsPlace":   {nil, removeCopy("p", label(1), "c", false), facts.CodeNotYourJob},
		"NotAPrune":     {func(l *lab) { l.must(beginJob(l, "v", facts.JobVerify, "", "a")) }, removeCopy("v", label(1), "a", false), facts.CodeNotYourJob},
		"NoSuchSet":     {nil, removeCopy("p", label(8), "a", false), facts.CodeUnknownSet},
		"GoneUnsaid":    {nil, removeCopy("p", label(1), "a", true), facts.CodeUnknownCopy},
		"Frozen":        {func(l *lab) { l.freeze() }, removeCopy("p", label(1), "a", false), facts.CodeFrozen},
		"Pinned":        {func(l *lab) { l.mark(label(1), true, false) }, removeCopy("p", label(1), "a", false), facts.CodePinned},
		"GoldElsewhere": {func(l *lab) { l.mark(label(1), false, true) }, removeCopy("p", label(1), "a", false), ""},
		"GoldOnlyHere": {func(l *lab) {
			l.mark(label(1), false, true)
			l.must(removeCopy("p", label(1), "b", false))
		}, removeCopy("p", label(1), "a", false), facts.CodePinned},
		"LastHere":          {func(l *lab) { l.must(removeCopy("p", label(1), "a", false)) }, removeCopy("p", label(2), "a", false), facts.CodeLastCopy},
		"InUse":             {func(l *lab) { l.uses(label(1), 0) }, removeCopy("p", label(1), "a", false), facts.CodeInUse},
		"OtherInUse":        {func(l *lab) { l.uses(label(2), 0) }, removeCopy("p", label(1), "a", false), ""},
		"Disabled":          {func(l *lab) { l.disable("a") }, removeCopy("p", label(1), "a", false), facts.CodeLocationDisabled},
		"WAL":               {func(l *lab) { l.must(removeCopy("p", label(1), "a", false), removeCopy("p", label(1), "b", false)) }, removeWAL("p", "a", 100, 200), ""},
		"WALOfCopy":         {nil, removeWAL("p", "a", 100, 200), facts.CodeNeeded},
		"WALOfSet":          {func(l *lab) { l.must(removeCopy("p", label(1), "a", false), removeWAL("p", "a", 100, 200)) }, removeWAL("p", "b", 100, 200), facts.CodeNeeded},
		"WALOfSetElsewhere": {func(l *lab) { take(l, 3, "c"); l.must(removeWAL("p", "a", 300, 400)) }, removeWAL("p", "b", 300, 400), facts.CodeNeeded},
		"WALAfterSet":       {nil, removeWAL("p", "a", 150, 200), ""},
		"WALFrozen":         {func(l *lab) { l.freeze() }, removeWAL("p", "a", 150, 200), facts.CodeFrozen},
		"WALInUse":          {func(l *lab) { l.uses("", 199) }, removeWAL("p", "a", 150, 200), facts.CodeInUse},
		"WALBelowUse":       {func(l *lab) { l.uses("", 200) }, removeWAL("p", "a", 150, 200), ""},
		"WALOfRunning":      {func(l *lab) { l.must(beginJob(l, "j", facts.JobBackup, label(3), "a"), recordSet("j", running(3))) }, removeWAL("p", "a", 150, 301), facts.CodeInUse},
		"WALEmpty":          {nil, removeWAL("p", "a", 200, 200), facts.CodeBadCommand},
		"SetWithCopy":       {nil, facts.Command{RemoveSet: &facts.RemoveSet{Job: ref("p"), Label: label(1)}}, facts.CodeNeeded},
	} {
		t.Run(name, func(t *testing.T) {
			l := depot(t)
			take(l, 1, "a", "b")
			take(l, 2, "a", "b")
			l.must(beginJob(l, "p", facts.JobPrune, "", "a", "b"))
			if tt.prepare != nil {
				tt.prepare(l)
			}
			l.want(tt.code, tt.c)
		})
	}
}

func (l *lab) mark(set string, pinned, gold bool) {
	l.must(facts.Command{MarkSet: &facts.MarkSet{Profile: pg, Label: set, Pinned: &pinned, Gold: &gold}})
}

func (l *lab) uses(set string, floor pos.LSN) {
	c := beginJob(l, "r", facts.JobRestore, "")
	if c.BeginJob.Job.Uses.Floor = floor; set != "" {
		c.BeginJob.Job.Uses.Labels = []string{set}
	}
	l.must(c)
}

func TestApply_PruneFreesInTwoSteps(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	take(l, 2, "a", "b")
	l.must(beginJob(l, "p", facts.JobPrune, "", "a", "b"))
	stale := beginJob(l, "r", facts.JobRestore, "")
	stale.BeginJob.Job.Uses.Labels = []string{label(1)}
	l.must(removeCopy("p", label(1), "a", false), removeCopy("p", label(1), "b", false))
	l.want(facts.CodeStaleVersion, stale) // its plan is older than the removal
	stale.BeginJob.Removals = l.s.Backups.Removals
	l.want(facts.CodeNotComplete, stale)
	l.must(removeWAL("p", "a", 100, 200))
	l.want(facts.CodeRemoving, archived(l, "a", span(100, 130)))
	// The daemon dies; another prune ends what was begun.
	l.must(facts.Command{LoseJobs: &facts.LoseJobs{Store: "A"}}, beginJob(l, "q", facts.JobPrune, "", "a", "b"))
	l.must(removeCopy("q", label(1), "a", true), removeCopy("q", label(1), "b", true))
	if _, known := cat(t, l.s).Sets[label(1)]; known {
		t.Error("the set is still known")
	}
	if d := cmp.Diff([]facts.WALRange{{Timeline: 1, From: 100, To: 200}}, l.s.Backups.Pruning[pg]["a"]); d != "" {
		t.Error(d)
	}
	gone := removeWAL("q", "a", 100, 200)
	gone.RemoveWAL.Gone = true
	l.must(gone)
	if l.s.Backups.Pruning != nil || len(cat(t, l.s).Places["a"].WAL) != 1 || cat(t, l.s).Places["a"].WAL[0].From != 200 {
		t.Errorf("%+v", l.s.Backups)
	}
}

func TestApply_DamagedSetFreezes(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	take(l, 2, "a", "b")
	bad := whole(3)
	bad.Damaged = true
	l.must(beginJob(l, "j", facts.JobBackup, label(3), "a"), recordSet("j", running(3)), recordCopy("j", label(3), "a", catalog.CopyComplete), recordSet("j", bad))
	l.want(facts.CodeFrozen, beginJob(l, "p", facts.JobPrune, "", "a"))
	l.must(archived(l, "a", span(300, 400)), endJob("j", facts.JobDone))
	take(l, 4, "a", "b")
	l.must(beginJob(l, "p", facts.JobPrune, "", "a"))
	l.freeze()
	l.want(facts.CodeFrozen, removeCopy("p", label(1), "a", false))
	l.must(facts.Command{SetFreeze: &facts.SetFreeze{Why: "all is well"}}, removeCopy("p", label(1), "a", false))
}

// A name that holds backups cannot come to mean another place by the way.
func TestApply_MovingALocation(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	elsewhere := func(name string) facts.Command {
		p := l.s.Policy.Locations[name]
		p.Bucket = "another-" + name
		return setPolicy(l, l.s.Policy.WithLocation(name, p))
	}
	l.must(elsewhere("c")) // holds nothing yet
	l.want(facts.CodeLocationInUse, elsewhere("a"))
	other := l.s.Policy.Locations["a"]
	other.Retention.Days, other.Secret = 3, "another"
	l.must(setPolicy(l, l.s.Policy.WithLocation("a", other)))
	l.disable("a")
	l.must(elsewhere("a")) // the operator has carried it there
	if c := cat(t, l.s).Sets[label(1)].Copies["a"]; c.State != catalog.CopyComplete {
		t.Errorf("the copy is %+v", c)
	}
}

func TestApply_RemovingALocation(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	take(l, 2, "a")
	l.must(setPolicy(l, l.s.Policy.WithoutLocation("c")))
	without := func() facts.Command { return setPolicy(l, l.s.Policy.WithoutLocation("a")) }
	l.want(facts.CodeLocationInUse, without())
	l.uses(label(2), 0)
	l.disable("a")
	l.want(facts.CodeLocationInUse, without()) // a job uses what only it has
	l.must(endJob("r", facts.JobDone))
	if _, fed := l.s.Backups.Feeders["a"]; fed {
		t.Error("somebody archives to a disabled location")
	}
	l.must(without())
	c := cat(t, l.s)
	if _, known := c.Sets[label(2)]; known || len(c.Sets[label(1)].Copies) != 1 || len(c.Places) != 1 {
		t.Errorf("%+v", c)
	}
	l.must(beginJob(l, "v", facts.JobVerify, "", "b"))
	l.want(facts.CodeLocationInUse, setPolicy(l, l.s.Policy.WithoutLocation("b")))
}
