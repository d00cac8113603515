package facts_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// drawBackup is a command about backups that is often right.
func drawBackup(t *rapid.T, l *lab) facts.Command {
	n := rapid.IntRange(1, 6).Draw(t, "set")
	location := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "location")
	from := pos.LSN(rapid.IntRange(0, 13).Draw(t, "from") * 50)
	to := from + pos.LSN(rapid.IntRange(1, 6).Draw(t, "segments")*50)
	switch rapid.IntRange(0, 18).Draw(t, "kind") {
	case 0, 1, 2:
		return drawBegin(t, l, location, from)
	case 3:
		return endJob(drawJob(t, l), rapid.SampledFrom([]facts.JobState{facts.JobDone, facts.JobDone, facts.JobFailed, facts.JobCancelled}).Draw(t, "as"))
	case 4, 5:
		id := drawJob(t, l, facts.JobBackup)
		if j, ok := l.s.Job(id); ok && j.Label != "" {
			n = int(j.Label[len(j.Label)-2] - '0')
		}
		set := rapid.SampledFrom([]func(int) catalog.Set{running, whole}).Draw(t, "state")(n)
		if j, ok := l.s.Job(id); ok && j.Kind == facts.JobBackup {
			set.Label, set.Parent = j.Label, j.Parent
		}
		if rapid.IntRange(0, 5).Draw(t, "instead") == 0 && set.Parent != "" {
			set.Label, set.Parent = label(n), ""
		}
		set.Damaged = set.State == catalog.SetComplete && rapid.IntRange(0, 5).Draw(t, "damaged") == 0
		return recordSet(id, set)
	case 6, 7:
		id := drawJob(t, l, facts.JobBackup, facts.JobFill)
		if j := l.s.Backups.Jobs[id]; j.Kind == facts.JobBackup {
			n = int(j.Label[len(j.Label)-2] - '0')
		}
		name := label(n)
		if j := l.s.Backups.Jobs[id]; j.Kind == facts.JobBackup {
			name = j.Label
		}
		return recordCopy(id, name, drawPlace(t, l, id, location), rapid.SampledFrom([]catalog.CopyState{catalog.CopyComplete, catalog.CopyComplete, catalog.CopyWriting, catalog.CopyDamaged}).Draw(t, "copy"))
	case 8, 9, 10:
		return archived(l, location, span(from, to))
	case 11, 12, 13:
		id := drawJob(t, l, facts.JobPrune)
		name := label(n)
		if sets := slices.Sorted(maps.Keys(l.s.Backups.Catalogs[pg].Sets)); len(sets) > 0 {
			name = rapid.SampledFrom(sets).Draw(t, "to go")
		}
		return removeCopy(id, name, drawPlace(t, l, id, location), rapid.IntRange(0, 3).Draw(t, "gone") == 0)
	case 14, 15:
		id := drawJob(t, l, facts.JobPrune)
		if rapid.Bool().Draw(t, "between sets") {
			from = pos.LSN(100*n + 50)
			to = from + 50
		}
		c := removeWAL(id, drawPlace(t, l, id, location), from, to)
		c.RemoveWAL.Gone = rapid.IntRange(0, 3).Draw(t, "gone") == 0
		return c
	case 16:
		return facts.Command{RecordVerified: &facts.RecordVerified{Job: ref(drawJob(t, l, facts.JobVerify)), Label: label(n), Location: location, OK: rapid.Bool().Draw(t, "ok")}}
	}
	return drawWord(t, l, label(n), location, from, to)
}

// drawPlace is a location that the job is about, mostly.
func drawPlace(t *rapid.T, l *lab, id, other string) string {
	if j := l.s.Backups.Jobs[id]; len(j.Locations) > 0 && rapid.IntRange(0, 9).Draw(t, "elsewhere") > 0 {
		return rapid.SampledFrom(j.Locations).Draw(t, "its place")
	}
	return other
}

// drawWord is drawBackup for what operators and the leader say.
func drawWord(t *rapid.T, l *lab, set, location string, from, to pos.LSN) facts.Command {
	yes := rapid.Bool().Draw(t, "yes")
	p := place(location)
	p.Disabled = yes
	gaps := archived(l, location)
	gaps.RecordArchived.Gaps = []catalog.Gap{{Timeline: 1, From: from, To: to, Cause: "test"}}
	return rapid.SampledFrom([]facts.Command{
		{MarkSet: &facts.MarkSet{Profile: pg, Label: set, Pinned: &yes}}, {MarkSet: &facts.MarkSet{Profile: pg, Label: set, Gold: &yes}},
		{SetFreeze: &facts.SetFreeze{Frozen: yes, Why: "test"}}, {SetFreeze: &facts.SetFreeze{}},
		{LoseJobs: &facts.LoseJobs{Store: "A", Why: "test"}}, {CloseGap: &facts.CloseGap{Profile: pg, Location: location, Timeline: 1, From: from}},
		setPolicy(l, l.s.Policy.WithLocation(location, p)), setPolicy(l, l.s.Policy.WithoutLocation(location)),
		setPolicy(l, l.s.Policy.WithLocation(location, place(location))), feeder(l, location, "A"), feeder(l, location, "A"), gaps,
	}).Draw(t, "word")
}

// drawJob is a running job, of one of the kinds where there is one.
func drawJob(t *rapid.T, l *lab, kinds ...facts.JobKind) string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(l.s.Backups.Jobs)) {
		if len(kinds) == 0 || slices.Contains(kinds, l.s.Backups.Jobs[id].Kind) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 || rapid.IntRange(0, 15).Draw(t, "any") == 0 {
		ids = append(slices.Sorted(maps.Keys(l.s.Backups.Jobs)), "none")
	}
	return rapid.SampledFrom(ids).Draw(t, "job")
}

func drawBegin(t *rapid.T, l *lab, location string, floor pos.LSN) facts.Command {
	kind := rapid.SampledFrom([]facts.JobKind{facts.JobBackup, facts.JobBackup, facts.JobPrune, facts.JobPrune, facts.JobFill, facts.JobVerify, facts.JobRestore, facts.JobDrill}).Draw(t, "job kind")
	c := beginJob(l, fmt.Sprintf("j%d", l.s.Version), kind, "", location)
	j := &c.BeginJob.Job
	if rapid.Bool().Draw(t, "more") && location != "a" {
		j.Locations = append(j.Locations, "a")
	}
	sets := slices.Sorted(maps.Keys(l.s.Backups.Catalogs[pg].Sets))
	switch {
	case kind == facts.JobBackup:
		j.Label = label(rapid.IntRange(1, 6).Draw(t, "new"))
		if len(sets) > 0 && rapid.Bool().Draw(t, "incremental") {
			j.Parent = rapid.SampledFrom(sets).Draw(t, "parent")
			if rapid.Bool().Draw(t, "labelled") {
				j.Label = strings.TrimSuffix(j.Label, "F") + "I"
			}
		}
	case kind == facts.JobRestore && len(sets) > 0:
		j.Uses.Labels = []string{rapid.SampledFrom(sets).Draw(t, "use")}
		j.Uses.Floor = floor
	}
	return c
}

func TestApply_BackupInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := depot(t)
		start(rt, l)
		for range rapid.IntRange(1, 40).Draw(rt, "n") {
			c := drawBackup(rt, l)
			before, frozen := l.s, encode(rt, l.s)
			out := l.do(c)
			after := l.s
			if !bytes.Equal(frozen, encode(rt, before)) {
				rt.Fatalf("Apply changed its input by %s", c.Kind)
			}
			c.At = t0
			if second, _ := facts.Apply(before, c); !bytes.Equal(encode(rt, second), encode(rt, after)) {
				rt.Fatal("Apply is not deterministic")
			}
			step(rt, before, after, out)
			jobsHold(rt, before, after, c)
			removalsHold(rt, before, after, c)
			logHolds(rt, before, after, c)
			chainHolds(rt, before, after, out)
		}
		roundTrip(rt, l.s)
		exports(rt, l.s)
	})
}

// start is where a run begins: often with sets that a prune could take, while
// somebody uses one.
func start(t *rapid.T, l *lab) {
	sets := rapid.IntRange(0, 3).Draw(t, "sets")
	for n := range sets {
		take(l, n+1, rapid.SampledFrom([][]string{{"a", "b"}, {"a"}, {"b"}}).Draw(t, "at")...)
	}
	if sets == 0 {
		return
	}
	n := rapid.IntRange(1, sets).Draw(t, "special")
	switch rapid.IntRange(0, 4).Draw(t, "how") {
	case 0:
		l.uses(label(n), pos.LSN(100*n))
	case 1:
		l.uses("", pos.LSN(rapid.IntRange(2, 8).Draw(t, "floor")*50))
	case 2:
		l.mark(label(n), true, false)
	case 3:
		l.mark(label(n), false, true)
	}
	if rapid.Bool().Draw(t, "prune") {
		l.must(beginJob(l, "p", facts.JobPrune, "", "a", "b"))
	}
}

// jobsHold: one backup of a profile at a time; what is done can be restored;
// what ended stays as it ended.
func jobsHold(t *rapid.T, before, after facts.State, c facts.Command) {
	backups := 0
	for id, j := range after.Backups.Jobs {
		if j.Kind == facts.JobBackup {
			backups++
		}
		if j.ID != id || j.State != facts.JobRunning {
			t.Fatalf("%+v", j)
		}
	}
	for label, set := range after.Backups.Catalogs[pg].Sets {
		if set.State == catalog.SetRunning && backups == 0 {
			t.Fatalf("nobody takes set %s", label)
		}
	}
	if backups > 1 || len(after.Backups.Finished) < len(before.Backups.Finished) {
		t.Fatalf("%d backups at once", backups)
	}
	for _, j := range after.Backups.Finished[len(before.Backups.Finished):] {
		set := after.Backups.Catalogs[pg].Sets[j.Label]
		if j.Kind == facts.JobBackup && j.State == facts.JobDone && !restorable(after, set) {
			t.Fatalf("%s is done, but not restorable: %+v, %+v", j.Label, set, after.Backups.Catalogs[pg].Places)
		}
		if j.Kind == facts.JobBackup && j.State != facts.JobDone && set.State == catalog.SetRunning {
			t.Fatalf("%s is still running", j.Label)
		}
	}
}

// restorable is the plain way to see whether a set can be restored: byte for
// byte.
func restorable(s facts.State, set catalog.Set) bool {
	if set.State != catalog.SetComplete || copies(set) == 0 {
		return false
	}
	all := s.Backups.Catalogs[pg].Sets
	for under := set.Parent; under != ""; under = all[under].Parent {
		if all[under].State != catalog.SetComplete || copies(all[under]) == 0 {
			return false
		}
	}
	for at := set.Start; at < set.End; at++ {
		held := false
		for _, p := range s.Backups.Catalogs[pg].Places {
			held = held || holds(p, at)
		}
		if !held {
			return false
		}
	}
	return true
}

func holds(p catalog.Place, at pos.LSN) bool {
	return slices.ContainsFunc(p.WAL, func(s catalog.Span) bool { return s.From <= at && at < s.To })
}

func copies(set catalog.Set) (n int) {
	for _, c := range set.Copies {
		if c.State == catalog.CopyComplete {
			n++
		}
	}
	return n
}

// removalsHold: what can be restored stays so, unless damage is found, a
// location is given up, or a prune may: which takes neither what is pinned or
// used, nor the last thing there is.
func removalsHold(t *rapid.T, before, after facts.State, c facts.Command) {
	if c.RecordCopy != nil || c.RecordVerified != nil {
		return
	}
	if r := c.RemoveCopy; r != nil && !r.Gone && after.Version > before.Version {
		mayRemove(t, before, after, r)
	}
	if r := c.RemoveWAL; r != nil && after.Version > before.Version {
		alone(t, before, after, r.Location)
	}
	if b := c.BeginJob; b != nil && after.Version > before.Version && b.Job.Kind == facts.JobPrune && before.PruneFrozen(pg) != "" {
		t.Fatal("a prune began while that is forbidden")
	}
	for label, set := range before.Backups.Catalogs[pg].Sets {
		if !restorable(before, set) || restorable(after, after.Backups.Catalogs[pg].Sets[label]) {
			continue
		}
		switch {
		case c.SetPolicy != nil:
		case c.RemoveCopy == nil: // also when its log went
			t.Fatalf("%s cannot be restored any more after %+v", label, c)
		case set.Pinned || set.Gold:
			t.Fatalf("%s is to be kept", label)
		case after.Backups.Frozen != nil || before.PruneFrozen(pg) != "":
			t.Fatal("something was deleted while that is forbidden")
		}
		for _, j := range after.Backups.Jobs {
			if c.SetPolicy == nil && slices.Contains(j.Uses.Labels, label) {
				t.Fatalf("%s is used by %+v", label, j)
			}
		}
		if c.RemoveCopy != nil && completeSets(after) == 0 {
			t.Fatal("nothing is left")
		}
	}
}

// mayRemove looks at a copy that is to go.
func mayRemove(t *rapid.T, before, after facts.State, r *facts.RemoveCopy) {
	set := before.Backups.Catalogs[pg].Sets[r.Label]
	if set.Copies[r.Location].State == catalog.CopyRemoving {
		return // said once more: whoever uses the set since then uses another copy
	}
	if set.State == catalog.SetRunning || before.PruneFrozen(pg) != "" {
		t.Fatalf("%s is removed, %+v", r.Label, set)
	}
	for _, j := range before.Backups.Jobs {
		if slices.Contains(j.Uses.Labels, r.Label) {
			t.Fatalf("%s is used by %+v", r.Label, j)
		}
	}
	if set.State != catalog.SetComplete || set.Copies[r.Location].State != catalog.CopyComplete {
		return
	}
	here := 0
	for _, o := range after.Backups.Catalogs[pg].Sets {
		if o.State == catalog.SetComplete && o.Copies[r.Location].State == catalog.CopyComplete {
			here++
		}
	}
	if here == 0 || set.Pinned || set.Gold && copies(set) == 1 {
		t.Fatalf("%d sets are left at %s after %+v", here, r.Location, set)
	}
}

// alone: a set at a location that could be restored from there alone still can.
func alone(t *rapid.T, before, after facts.State, location string) {
	from := func(s facts.State, set catalog.Set) bool {
		for at := set.Start; at < set.End; at++ {
			if !holds(s.Backups.Catalogs[pg].Places[location], at) {
				return false
			}
		}
		return true
	}
	for label, set := range before.Backups.Catalogs[pg].Sets {
		if set.State == catalog.SetComplete && set.Copies[location].State == catalog.CopyComplete && from(before, set) && !from(after, set) {
			t.Fatalf("%s lost its log at %s", label, location)
		}
	}
}

func completeSets(s facts.State) (n int) {
	for _, set := range s.Backups.Catalogs[pg].Sets {
		if set.State == catalog.SetComplete && copies(set) > 0 {
			n++
		}
	}
	return n
}

// logHolds: the log of a location only grows, but for a prune, which takes
// nothing that is used; spans are sorted and apart, gaps are what they lack.
func logHolds(t *rapid.T, before, after facts.State, c facts.Command) {
	for name, p := range after.Backups.Catalogs[pg].Places {
		for i, s := range p.WAL {
			if s.From >= s.To || i > 0 && p.WAL[i-1].To >= s.From {
				t.Fatalf("spans of %s: %+v", name, p.WAL)
			}
		}
		for _, g := range p.Gaps {
			for at := g.From; at < g.To; at++ {
				if holds(p, at) {
					t.Fatalf("%s has %s, a gap: %+v", name, at, p)
				}
			}
		}
	}
	if c.SetPolicy != nil {
		return
	}
	floor, used := before.WALFloor(pg)
	for name, p := range before.Backups.Catalogs[pg].Places {
		now := after.Backups.Catalogs[pg].Places[name]
		for at := pos.LSN(0); at < 1000; at++ {
			if !holds(p, at) || holds(now, at) {
				continue
			}
			if c.RemoveWAL == nil || used && at >= floor || before.PruneFrozen(pg) != "" {
				t.Fatalf("%s lost %s by %+v", name, at, c)
			}
			if !slices.ContainsFunc(after.Backups.Pruning[pg][name], func(r facts.WALRange) bool { return r.From <= at && at < r.To }) {
				t.Fatalf("%s of %s is not said to be deleted", at, name)
			}
		}
	}
}

// chainHolds: every entry follows from the one before, and what happened has
// entries.
func chainHolds(t *rapid.T, before, after facts.State, out facts.Outcome) {
	a, b := before.Audit, after.Audit
	n := uint64(0)
	for _, e := range out.Events {
		if e.Kind != "phase" && e.Kind != "fenced" {
			n++
		}
	}
	if b.N != a.N+n || len(b.Newest) > facts.MaxAuditEntries || b.N > 0 && b.Newest[len(b.Newest)-1].Hash != b.Head {
		t.Fatalf("%d entries, %d before, %d events", b.N, a.N, n)
	}
	for i, e := range b.Newest {
		if e.Hash != e.Sum() || i > 0 && e.Prev != b.Newest[i-1].Hash {
			t.Fatalf("entry %d", e.N)
		}
	}
}

func exports(t *rapid.T, s facts.State) {
	b, err := facts.Export(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := facts.Import(b); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}
