package facts_test

import (
	"fmt"
	"testing"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// incremental is the label of the nth set when it is an incremental one.
func incremental(n int) string { return fmt.Sprintf("20260301-0000%02dI", n) }

func on(parent string, set catalog.Set) catalog.Set {
	set.Parent = parent
	return set
}

// beginOn begins a backup that is to be built on a set.
func beginOn(l *lab, id, set, parent string, locations ...string) facts.Command {
	c := beginJob(l, id, facts.JobBackup, set, locations...)
	c.BeginJob.Job.Parent = parent
	return c
}

// takeOn makes the nth set, built on another, at locations.
func takeOn(l *lab, n int, parent string, locations ...string) {
	l.t.Helper()
	id := fmt.Sprintf("take%d", n)
	as := func(set catalog.Set) catalog.Set {
		set.Label, set.Parent = incremental(n), parent
		return set
	}
	l.must(beginOn(l, id, incremental(n), parent, locations...), recordSet(id, as(running(n))))
	for _, name := range locations {
		l.must(recordCopy(id, incremental(n), name, catalog.CopyComplete))
	}
	l.must(recordSet(id, as(whole(n))))
	for _, name := range []string{"a", "b"} {
		l.must(archived(l, name, span(pos.LSN(100*n), pos.LSN(100*n+100))))
	}
	l.must(endJob(id, facts.JobDone))
}

func TestApply_IncrementalSet(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	l.want(facts.CodeUnknownSet, beginOn(l, "j", incremental(2), label(9), "a"))
	l.want(facts.CodeBadCommand, beginOn(l, "j", incremental(2), "../x", "a"))
	l.must(beginOn(l, "j", incremental(2), label(1), "a"))
	set := running(2)
	set.Label = incremental(2)
	l.want(facts.CodeNotYourJob, recordSet("j", set))
	l.want(facts.CodeNotYourJob, recordSet("j", on(label(3), set)))
	l.must(recordSet("j", on(label(1), set)), endJob("j", facts.JobCancelled))
	takeOn(l, 3, label(1), "a")
	if got := cat(t, l.s).Sets[incremental(3)]; got.Parent != label(1) || got.State != catalog.SetComplete {
		t.Errorf("%+v", got)
	}
}

// A job that cannot take an incremental set takes the full one of its second.
func TestApply_FullInsteadOfIncremental(t *testing.T) {
	l := depot(t)
	take(l, 1, "a")
	l.must(beginOn(l, "j", incremental(2), label(1), "a"))
	l.want(facts.CodeNotYourJob, recordSet("j", running(3)))
	l.must(recordSet("j", running(2)))
	if j := l.s.Backups.Jobs["j"]; j.Label != label(2) || j.Parent != "" {
		t.Errorf("%+v", j)
	}
	l.must(recordCopy("j", label(2), "a", catalog.CopyComplete), recordSet("j", whole(2)), archived(l, "a", span(200, 300)), endJob("j", facts.JobDone))

	l.must(beginOn(l, "k", incremental(4), label(1), "a"))
	begun := running(4)
	begun.Label = incremental(4)
	l.must(recordSet("k", on(label(1), begun)))
	l.want(facts.CodeNotYourJob, recordSet("k", running(4))) // it has begun as what it was to be
}

func TestApply_NothingGoesBelowASet(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	takeOn(l, 2, label(1), "a", "b")
	takeOn(l, 3, incremental(2), "a")
	take(l, 4, "a", "b")
	l.must(beginJob(l, "p", facts.JobPrune, "", "a", "b"))
	l.want(facts.CodeNeeded, removeCopy("p", label(1), "a", false))
	l.want(facts.CodeNeeded, removeCopy("p", incremental(2), "a", false))
	l.want(facts.CodeNeeded, removeCopy("p", label(1), "b", false)) // the second set is there, too
	l.must(removeCopy("p", incremental(2), "b", false), removeCopy("p", label(1), "b", false))
	l.must(removeCopy("p", incremental(3), "a", false), removeCopy("p", incremental(2), "a", false), removeCopy("p", label(1), "a", false))
}

// While a set is being taken, what it is to be built on stays.
func TestApply_ParentOfAJobStays(t *testing.T) {
	l := depot(t)
	take(l, 1, "a", "b")
	take(l, 2, "a", "b")
	l.must(beginOn(l, "j", incremental(3), label(1), "a"), beginJob(l, "p", facts.JobPrune, "", "a", "b"))
	l.want(facts.CodeInUse, removeCopy("p", label(1), "b", false))
}

// A backup is not done when what it is built on is lost meanwhile.
func TestApply_DoneNeedsTheWholeChain(t *testing.T) {
	l := depot(t)
	take(l, 1, "a")
	l.must(beginOn(l, "j", incremental(2), label(1), "a"), beginJob(l, "v", facts.JobVerify, label(1), "a"))
	set := running(2)
	set.Label = incremental(2)
	l.must(recordSet("j", on(label(1), set)), recordCopy("j", incremental(2), "a", catalog.CopyComplete))
	set = whole(2)
	set.Label = incremental(2)
	l.must(recordSet("j", on(label(1), set)), archived(l, "a", span(200, 300)))
	l.must(facts.Command{RecordVerified: &facts.RecordVerified{Job: ref("v"), Label: label(1), Location: "a", Problem: "a byte is wrong"}})
	l.want(facts.CodeNotComplete, endJob("j", facts.JobDone))
}
