package view_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

const (
	oldSet = "20260226-023000F"
	newSet = "20260301-023000F"
)

// backedUp is the healthy group with two locations, of which each has two sets
// and all log.
func backedUp() view.Input {
	in := healthy()
	st := &in.State
	st.Group.SegSize, st.Group.SystemID, st.Group.PGMajor = 16<<20, 7, 17
	st.Policy = st.Policy.WithLocation("nas", location()).WithLocation("offsite", location())
	set := func(label string, start pos.LSN) catalog.Set {
		began, _ := time.Parse("20060102-150405F", label)
		whole := catalog.Copy{State: catalog.CopyComplete, At: began}
		return catalog.Set{Label: label, State: catalog.SetComplete, Timeline: 2, Start: start, End: start + 0x100, Began: began, Ended: began.Add(5 * time.Minute),
			Node: "backup", Bytes: 1 << 30, RawBytes: 4 << 30, Copies: map[string]catalog.Copy{"nas": whole, "offsite": whole}}
	}
	c := catalog.Catalog{Group: "shop", Profile: facts.ProfilePostgres, SystemID: 7, Major: 17, SegSize: 16 << 20,
		Timelines: map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 0x3000000}},
		Sets:      map[string]catalog.Set{oldSet: set(oldSet, 0x3000100), newSet: set(newSet, 0x4000100)},
		Places:    map[string]catalog.Place{"nas": stored(0x5000100), "offsite": stored(0x5000100)},
	}
	st.Backups.Catalogs = map[string]catalog.Catalog{facts.ProfilePostgres: c}
	st.Backups.Feeders = map[string]string{"nas": "s-backup", "offsite": "s-witness"}
	in.Self.Feeds = []decide.Feed{{Location: "nas", Timeline: 2, Archived: 0x5000100, Rate: 1 << 20}}
	change(&in, "witness", func(r *decide.Report) {
		r.Feeds = []decide.Feed{{Location: "offsite", Timeline: 2, Archived: 0x5000100}}
	})
	return in
}

func location() facts.LocationPolicy {
	l := facts.DefaultLocation()
	l.Kind, l.Node, l.Path = facts.LocationLocal, "backup", "/srv/backups"
	return l
}

// stored is log from the fork to an LSN, with a commit before its end.
func stored(to pos.LSN) catalog.Place {
	return catalog.Place{WAL: []catalog.Span{{Timeline: 2, From: 0x3000000, To: to, Marks: []catalog.Mark{
		{LSN: 0x3000180, At: now.Add(-4 * 24 * time.Hour)}, {LSN: to - 0x10, At: now.Add(-10 * time.Second)},
	}}}}
}

// place edits what a location holds.
func place(in *view.Input, name string, f func(*catalog.Place)) {
	c := in.State.Backups.Catalogs[facts.ProfilePostgres]
	p := c.Places[name]
	f(&p)
	c.Places[name] = p
}

func eachCopy(in *view.Input, f func(label string, copies map[string]catalog.Copy)) {
	for label, set := range in.State.Backups.Catalogs[facts.ProfilePostgres].Sets {
		f(label, set.Copies)
	}
}

func disable(in *view.Input, name string) {
	l := in.State.Policy.Locations[name]
	l.Disabled = true
	in.State.Policy = in.State.Policy.WithLocation(name, l)
}

// late makes a location's log end long ago.
func late(in *view.Input, name, waiting string) {
	place(in, name, func(p *catalog.Place) {
		*p = stored(0x5000000)
		p.WAL[0].Marks[1].At = now.Add(-3 * time.Hour)
	})
	feed := func(r *decide.Report) {
		for i := range r.Feeds {
			if r.Feeds[i].Location == name {
				r.Feeds[i].Archived, r.Feeds[i].Backlog, r.Feeds[i].Waiting = 0x5000000, 17<<20, waiting
			}
		}
	}
	feed(&in.Self)
	change(in, "witness", feed)
}

var backupScenarios = []struct {
	name     string
	level    view.BackupLevel
	rule     string
	sentence string
	edit     func(*view.Input)
}{
	{"Whole", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas and offsite.", func(*view.Input) {}},
	{"NoLocation", view.BackupsOff, "no-location", "No backups: the policy names no location for them.", func(in *view.Input) { in.State.Policy.Locations = nil }},
	{"AllDisabled", view.BackupsOff, "disabled", "No backups: every location is disabled.", func(in *view.Input) {
		disable(in, "nas")
		disable(in, "offsite")
	}},
	{"OneDisabled", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas.", func(in *view.Input) { disable(in, "offsite") }},
	{"NoSet", view.BackupsNone, "no-set", "Nothing can be restored: no location has a full backup with the log that it needs.", func(in *view.Input) {
		clear(in.State.Backups.Catalogs[facts.ProfilePostgres].Sets)
	}},
	{"FirstSet", view.BackupsNone, "first-set", "Nothing can be restored yet: a full backup is being taken.", func(in *view.Input) {
		clear(in.State.Backups.Catalogs[facts.ProfilePostgres].Sets)
		in.State.Backups.Jobs = map[string]facts.Job{"j1": {ID: "j1", Kind: facts.JobBackup, State: facts.JobRunning, Store: "s-backup", Node: "backup",
			Label: "20260301-115900F", Locations: []string{"nas"}, Began: now.Add(-time.Minute)}}
		in.Self.Work = []decide.Work{{Job: "j1", Step: "copying", Done: 1 << 30, Total: 4 << 30}}
	}},
	{"OldLedger", view.BackupsOff, "no-location", "No backups: the policy names no location for them.", func(in *view.Input) {
		in.State.Backups, in.State.Policy.Locations = facts.Backups{}, nil
	}},
	{"OneEmpty", view.BackupsDegraded, "location", "Every moment of the last 3 days can be restored from nas, but offsite has no full backup yet.", func(in *view.Input) {
		eachCopy(in, func(_ string, copies map[string]catalog.Copy) { delete(copies, "offsite") })
	}},
	{"OneFails", view.BackupsDegraded, "location", "Every moment of the last 3 days can be restored from nas and offsite, but offsite cannot be written to (no space left at the location).", func(in *view.Input) {
		change(in, "witness", func(r *decide.Report) {
			r.Feeds = []decide.Feed{{Location: "offsite", Timeline: 2, Archived: 0x5000100, Problem: "no space left at the location", Since: now.Add(-time.Minute)}}
		})
	}},
	{"Gap", view.BackupsDegraded, "location", "Every moment of the last 3 days can be restored from offsite, but nas lacks log after its newest set 20260301-023000F.", func(in *view.Input) {
		place(in, "nas", func(p *catalog.Place) {
			p.WAL = []catalog.Span{{Timeline: 2, From: 0x3000000, To: 0x4800000}, {Timeline: 2, From: 0x4900000, To: 0x5000100}}
			p.Gaps = []catalog.Gap{{Timeline: 2, From: 0x4800000, To: 0x4900000, Cause: "the log was gone", Since: now.Add(-time.Hour)}}
		})
	}},
	{"AllBehind", view.BackupsBehind, "behind", "Backups are behind: nas is 3 h behind and offsite waits (for 22:00).", func(in *view.Input) {
		late(in, "nas", "")
		late(in, "offsite", "for 22:00")
	}},
	{"Idle", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas and offsite.", func(in *view.Input) {
		late(in, "nas", "")
		in.Self.Feeds[0].Backlog = 0x100 // of no commit
	}},
	{"Unfed", view.BackupsDegraded, "location", "Every moment of the last 3 days can be restored from nas and offsite, but nas is fed by no node.", func(in *view.Input) {
		delete(in.State.Backups.Feeders, "nas")
	}},
	{"FeederAway", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas and offsite.", func(in *view.Input) {
		silence(in, "witness", 10*time.Second) // what the ledger has counts then
	}},
	{"ColdIsNotFed", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas.", func(in *view.Input) {
		l := location()
		l.Tier = facts.TierCold
		in.State.Policy = in.State.Policy.WithLocation("offsite", l)
		delete(in.State.Backups.Feeders, "offsite")
	}},
	{"Frozen", view.BackupsWhole, "whole", "Every moment of the last 3 days can be restored from nas and offsite.", func(in *view.Input) {
		in.State.Backups.Frozen = &facts.Freeze{Why: "we look for a row", Since: now}
	}},
}

func TestBackups_LevelRuleSentence(t *testing.T) {
	for _, sc := range backupScenarios {
		t.Run(sc.name, func(t *testing.T) {
			in := backedUp()
			sc.edit(&in)
			b := view.Build(in).Backups
			if b.Level != sc.level || b.Rule != sc.rule || b.Sentence != sc.sentence {
				t.Errorf("got %s by %s: %s", b.Level, b.Rule, b.Sentence)
			}
			if b.Protected != (b.Level == view.BackupsWhole || b.Level == view.BackupsDegraded) {
				t.Errorf("protected %v", b.Protected)
			}
			if (b.Frozen != "") != (sc.name == "Frozen") {
				t.Errorf("frozen %q", b.Frozen)
			}
			p := view.ProtectionOf(in.State)
			in.Protection = &p
			if d := cmp.Diff(b, view.Build(in).Backups); d != "" {
				t.Errorf("with what is known already: %s", d)
			}
		})
	}
}

func TestBackups_NoGroupHasNone(t *testing.T) {
	in := backedUp()
	in.State = facts.State{}
	if b := view.Build(in).Backups; b != nil {
		t.Errorf("got %+v", b)
	}
}

// The status document and its text with everything that backups have.
func TestBackups_Golden(t *testing.T) {
	in := backedUp()
	backupScenarios[5].edit(&in) // the first set is being taken
	in.State.Backups.Jobs["j2"] = facts.Job{ID: "j2", Kind: facts.JobVerify, State: facts.JobRunning, Store: "s-witness", Node: "witness", Locations: []string{"offsite"}, Began: now}
	in.State.Backups.Finished = []facts.Job{
		{ID: "f1", Kind: facts.JobPrune, State: facts.JobDone, Node: "backup", Began: now.Add(-2 * time.Hour), Ended: now.Add(-time.Hour)},
		{ID: "f2", Kind: facts.JobPrune, State: facts.JobFailed, Node: "backup", Problem: "nas is full", Began: now.Add(-time.Hour), Ended: now.Add(-time.Minute)},
	}
	in.State.Backups.Drills = []facts.Drill{{OK: true, At: now.Add(-time.Hour), Duration: 90 * time.Second}}
	in.State.Backups.Catalogs[facts.ProfilePostgres].Sets[oldSet] = backedUp().State.Backups.Catalogs[facts.ProfilePostgres].Sets[oldSet]
	st := view.Build(in)
	doc, err := json.MarshalIndent(st.Backups, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "backups.json", append(doc, '\n'))
	var b bytes.Buffer
	if err := view.Render(&b, st, 80, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "backups.txt", b.Bytes())
}

// Whatever is stored and heard: never "protected" when no enabled location has
// a set with all log up to the last minutes, and never a crash.
func TestBackups_NeverProtectedByMistake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := backedUp()
		for range rapid.IntRange(0, 3).Draw(t, "edits") {
			i := rapid.IntRange(0, len(backupScenarios)-1).Draw(t, "edit")
			if in.State.Policy.Locations == nil || in.State.Backups.Catalogs == nil {
				break
			}
			backupScenarios[i].edit(&in)
		}
		b := view.Build(in).Backups
		if strings.Contains(b.Sentence, "%!") || strings.Contains(b.Sentence, "  ") || !strings.HasSuffix(b.Sentence, ".") {
			t.Fatalf("sentence %q", b.Sentence)
		}
		c, _ := in.State.Catalog(facts.ProfilePostgres)
		good := false
		for _, name := range view.EnabledLocations(in.State.Policy) {
			s := c.Stand(name)
			fed := s.UpTo >= 0x5000100 || now.Sub(s.Last) < 5*time.Minute
			for _, f := range append(in.Self.Feeds, in.Heard["witness"].Report.Feeds...) {
				fed = fed || f.Location == name && f.Problem == "" && f.Backlog < in.State.Group.SegSize || f.Location == name && f.Backlog == 0
			}
			good = good || len(s.Sets) > 0 && s.Whole && fed
		}
		if b.Protected && !good {
			t.Fatalf("protected: %+v", b)
		}
	})
}
