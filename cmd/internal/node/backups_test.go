package node_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/node"
	"understudy/failover/decide"
	"understudy/ledger/agenda"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
)

var backupNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	setOld = "20260101-023000F"
	setNew = "20260228-023000F"
)

// sighted is a trio with two locations and two sets, as an order finds it.
type sighted struct {
	st    facts.State
	in    agenda.Input
	boots map[string]string
}

func (s *sighted) catalog() catalog.Catalog {
	return s.st.Backups.Catalogs[facts.ProfilePostgres]
}

func (s *sighted) plan(action string, args map[string]string) ([]facts.Job, []string, *doc.RetentionPlan, error) {
	s.in.Catalog, _ = s.st.Catalog(facts.ProfilePostgres)
	return node.PlanJobs(node.BackupSight(s.st, s.in, s.boots), action, args)
}

func (s *sighted) needed() doc.Needed {
	s.in.Catalog, _ = s.st.Catalog(facts.ProfilePostgres)
	return node.NeededFull(node.BackupSight(s.st, s.in, s.boots))
}

func newSighted() *sighted {
	s := &sighted{boots: map[string]string{"main": "b1", "backup": "b2", "witness": "b3"}}
	member := func(name string, kind facts.Kind) facts.Member {
		return facts.Member{Name: name, Store: "s-" + name, Kind: kind}
	}
	set := func(label string, start pos.LSN, ended time.Time) catalog.Set {
		whole := catalog.Copy{State: catalog.CopyComplete, At: ended}
		return catalog.Set{Label: label, State: catalog.SetComplete, Timeline: 1, Start: start, End: start + 0x100, Began: ended.Add(-time.Minute), Ended: ended,
			Copies: map[string]catalog.Copy{"nas": whole, "offsite": whole}}
	}
	wal := catalog.Place{WAL: []catalog.Span{{Timeline: 1, From: 0x1000000, To: 0x9000000, Marks: []catalog.Mark{{LSN: 0x8000300, At: backupNow.Add(-30 * time.Hour)}, {LSN: 0x8ff0000, At: backupNow.Add(-time.Minute)}}}}}
	keep := facts.DefaultLocation()
	keep.Retention = facts.Retention{Keep: 1}
	s.st = facts.State{
		Group:   facts.Group{ID: "g", Name: "shop", SegSize: 16 << 20},
		Members: map[string]facts.Member{"s-main": member("main", facts.KindData), "s-backup": member("backup", facts.KindData), "s-witness": member("witness", facts.KindWitness)},
		Policy:  facts.DefaultPolicy().WithLocation("nas", keep).WithLocation("offsite", keep),
		Backups: facts.Backups{Feeders: map[string]string{"nas": "s-backup", "offsite": "s-witness"}, Catalogs: map[string]catalog.Catalog{facts.ProfilePostgres: {
			Group: "shop", Profile: facts.ProfilePostgres, SegSize: 16 << 20, Timelines: map[pos.Timeline]catalog.Timeline{1: {}},
			Sets:   map[string]catalog.Set{setOld: set(setOld, 0x1000100, backupNow.Add(-59*24*time.Hour)), setNew: set(setNew, 0x8000100, backupNow.Add(-33*time.Hour))},
			Places: map[string]catalog.Place{"nas": wal, "offsite": wal},
		}}},
	}
	all := []string{"backup", "main", "witness"}
	s.in = agenda.Input{Now: backupNow, Policy: agenda.Policy{From: agenda.FromStandby, QuickN: 3, QuickEvery: time.Minute, RetryEvery: 30 * time.Minute, LostAfter: time.Minute},
		Nodes:     []agenda.Node{{Name: "main", Role: agenda.Primary, Alive: true, Healthy: true, HasLog: true}, {Name: "backup", Role: agenda.Standby, Alive: true, Healthy: true, HasLog: true}, {Name: "witness", Role: agenda.Witness, Alive: true, Healthy: true, HasLog: true}},
		Locations: []agenda.Location{{Name: "nas", Enabled: true, Open: true, Nodes: all, Feeder: "backup"}, {Name: "offsite", Enabled: true, Open: true, Nodes: all, Feeder: "witness"}}}
	return s
}

// disable switches a location off, for the ledger and the agenda.
func (s *sighted) disable(name string) {
	l := s.st.Policy.Locations[name]
	l.Disabled = true
	s.st.Policy = s.st.Policy.WithLocation(name, l)
	for i := range s.in.Locations {
		s.in.Locations[i].Enabled = s.in.Locations[i].Enabled && s.in.Locations[i].Name != name
	}
}

// runs adds a running job.
func (s *sighted) runs(j facts.Job) {
	j.State, j.Node, j.Store, j.Began, j.Profile = facts.JobRunning, "backup", "s-backup", backupNow, facts.ProfilePostgres
	s.st.Backups.Jobs = map[string]facts.Job{j.ID: j}
	s.in.Jobs = append(s.in.Jobs, agenda.Job{ID: j.ID, Kind: agenda.JobKind(j.Kind), Node: j.Node, State: agenda.JobRunning, Locations: j.Locations, Began: j.Began})
}

func TestPlanJobs(t *testing.T) {
	for name, tt := range map[string]struct {
		action, args string
		edit         func(*sighted)
		jobs         string // node and what, one each
		refused      string
	}{
		"Backup":            {"backup", "", nil, "backup nas,offsite", ""},
		"BackupTo":          {"backup", "locations=offsite", nil, "backup offsite", ""},
		"BackupNotes":       {"backup", "note.why=upgrade", nil, "backup nas,offsite map[why:upgrade]", ""},
		"BackupNoStandby":   {"backup", "", func(s *sighted) { s.in.Nodes[1].Alive = false }, "main nas,offsite", ""},
		"BackupNobody":      {"backup", "", func(s *sighted) { s.in.Nodes[0].Healthy, s.in.Nodes[1].Healthy = false, false }, "", "no location can take it: nas is not reached by a node with a database that works"},
		"BackupUnknown":     {"backup", "locations=tape", nil, "", `the policy has no location "tape"; it has nas, offsite.`},
		"BackupDisabled":    {"backup", "locations=nas", func(s *sighted) { s.disable("nas") }, "", "location nas is disabled; enable it with location.nas.enabled"},
		"BackupTwice":       {"backup", "locations=nas,nas", nil, "", "location nas is named twice."},
		"BackupNoLocation":  {"backup", "", func(s *sighted) { s.st.Policy.Locations = nil }, "", "the policy has no location that is enabled"},
		"BackupRuns":        {"backup", "", func(s *sighted) { s.runs(facts.Job{ID: "j1", Kind: facts.JobBackup, Locations: []string{"nas"}}) }, "", "a backup runs already on backup; wait for it, or end it with: understudy jobs cancel j1."},
		"BackupNodeUnheard": {"backup", "", func(s *sighted) { delete(s.boots, "backup") }, "", "backup is not heard now; look at: understudy status."},
		"BackupOneClosed":   {"backup", "", func(s *sighted) { s.in.Locations[1].Open = false }, "backup nas", ""},
		"BackupFailing":     {"backup", "locations=nas", func(s *sighted) { s.in.Locations[0].Problem = "no space left" }, "backup nas", ""},

		"Verify":           {"verify", "", nil, "backup nas log; backup offsite log", ""},
		"VerifyOne":        {"verify", "label=" + setNew + " locations=nas", nil, "backup nas " + setNew, ""},
		"VerifyOneAndLog":  {"verify", "label=" + setNew + " locations=nas log=true", nil, "backup nas " + setNew + " log", ""},
		"VerifyAtItsOwner": {"verify", "locations=nas", func(s *sighted) { s.in.Locations[0].Owner = "main" }, "main nas log", ""},
		"VerifyDamaged": {"verify", "label=" + setOld + " locations=nas", func(s *sighted) {
			s.catalog().Sets[setOld].Copies["nas"] = catalog.Copy{State: catalog.CopyDamaged}
		}, "backup nas " + setOld, ""},
		"VerifyUnknown": {"verify", "label=20200101-000000F", nil, "", `No set has the label "20200101-000000F"`},
		"VerifyNoCopy": {"verify", "locations=nas", func(s *sighted) {
			for _, set := range s.catalog().Sets {
				delete(set.Copies, "nas")
			}
		}, "", "there is no whole copy at nas to be proven"},
		"VerifyNothing": {"verify", "", func(s *sighted) { clear(s.catalog().Sets) }, "", "no location has a whole copy to be proven"},
		"VerifyRuns":    {"verify", "", func(s *sighted) { s.runs(facts.Job{ID: "j1", Kind: facts.JobVerify, Locations: []string{"nas"}}) }, "", "a verify runs already on backup"},

		"Drill":            {"drill", "", nil, "backup nas,offsite uses " + setOld + "," + setNew + " from 0/1000100", ""},
		"DrillLatest":      {"drill", "target=latest", nil, "backup nas,offsite target=latest uses " + setNew + " from 0/8000100", ""},
		"DrillAt":          {"drill", "target=2026-02-28 08:00:00+00", nil, "backup nas,offsite target=2026-02-28 08:00:00+00:00 uses " + setNew + " from 0/8000100", ""},
		"DrillTooEarly":    {"drill", "target=2025-12-01 00:00:00+00", nil, "", "the target cannot be reached"},
		"DrillInTheFuture": {"drill", "target=2027-01-01 00:00:00+00", nil, "", "nearest that can be reached"},
		"DrillNoOffset":    {"drill", "target=2026-02-28 08:00:00", nil, "", "has no offset from UTC"},
		"DrillNothing":     {"drill", "", func(s *sighted) { clear(s.catalog().Sets) }, "", "nothing can be restored yet; take a backup with: understudy backup."},
		"DrillNobody":      {"drill", "", func(s *sighted) { s.in.Nodes[0].Alive, s.in.Nodes[1].Alive = false, false }, "", "no node with a PostgreSQL that is heard"},
		"DrillBackupRuns":  {"drill", "", func(s *sighted) { s.runs(facts.Job{ID: "j1", Kind: facts.JobBackup, Locations: []string{"nas"}}) }, "", "a backup runs already"},

		"Prune":    {"prune", "", nil, "backup nas; witness offsite", ""},
		"PruneOne": {"prune", "locations=offsite", nil, "witness offsite", ""},
		"PruneLeftovers": {"prune", "", func(s *sighted) {
			l := facts.DefaultLocation()
			l.Retention = facts.Retention{}
			s.st.Policy = facts.DefaultPolicy().WithLocation("nas", l)
		}, "backup nas", ""},
		"PruneFrozen": {"prune", "", func(s *sighted) { s.st.Backups.Frozen = &facts.Freeze{Why: "we look"} }, "", "nothing may be deleted now: we look; allow it again with: understudy ledger thaw."},
		"PruneRuns":   {"prune", "", func(s *sighted) { s.runs(facts.Job{ID: "j1", Kind: facts.JobPrune, Locations: []string{"nas"}}) }, "", "a prune runs already"},
		"PruneNobody": {"prune", "locations=nas", func(s *sighted) { s.in.Locations[0].Nodes = nil }, "", "no node that is heard can clean up nas now"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSighted()
			if tt.edit != nil {
				tt.edit(s)
			}
			jobs, steps, _, err := s.plan(tt.action, arguments(tt.args))
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) || !strings.HasSuffix(strings.TrimSpace(err.Error()), ".") && actionCode(err) == admin.CodeRefused {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, j := range jobs {
				got = append(got, jobWords(j))
				if j.ID == "" || j.Store != "s-"+j.Node || j.Lease != s.boots[j.Node] || j.Profile != facts.ProfilePostgres || j.Why == "" || !j.Deadline.After(backupNow) {
					t.Errorf("got %+v", j)
				}
				if (j.Kind == facts.JobBackup) != (j.Label != "" && tt.action == "backup") {
					t.Errorf("label %q", j.Label)
				}
			}
			if d := cmp.Diff(tt.jobs, strings.Join(got, "; ")); d != "" {
				t.Error(d)
			}
			for _, text := range steps {
				if !strings.HasSuffix(text, ".") || strings.Contains(text, "%!") {
					t.Errorf("step %q", text)
				}
			}
			if len(steps) == 0 {
				t.Error("it says nothing")
			}
		})
	}
}

// arguments reads "a=1 b=2"; a value may hold blanks.
func arguments(text string) map[string]string {
	args, last := map[string]string{}, ""
	for _, f := range strings.Fields(text) {
		if k, v, ok := strings.Cut(f, "="); ok {
			args[k], last = v, k
			continue
		}
		args[last] += " " + f
	}
	return args
}

func jobWords(j facts.Job) string {
	text := j.Node + " " + strings.Join(j.Locations, ",")
	if j.Kind != facts.JobBackup && j.Label != "" {
		text += " " + j.Label
	}
	if j.Notes != nil {
		text += fmt.Sprint(" ", j.Notes)
	}
	if j.Log {
		text += " log"
	}
	if j.Target != "" {
		text += " target=" + j.Target
	}
	if j.Kind == facts.JobDrill && len(j.Uses.Labels) > 0 {
		text += " uses " + strings.Join(j.Uses.Labels, ",") + " from " + j.Uses.Floor.String()
	}
	return text
}

func TestPlanPrune_SaysWhatGoes(t *testing.T) {
	_, _, plan, err := newSighted().plan("prune", map[string]string{"locations": "nas"})
	if err != nil || len(plan.Places) != 1 || len(plan.Places[0].Remove) == 0 || plan.Places[0].Remove[0].Label != setOld || plan.Places[0].Keep[0].Label != setNew {
		t.Errorf("got %+v, %v", plan, err)
	}
}

func TestNeededFull(t *testing.T) {
	daily, err := agenda.ParseSchedule("daily 02:30", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		edit   func(*sighted)
		needed bool
		reason string
		newest string
	}{
		"Whole":    {func(*sighted) {}, false, "none", setNew},
		"First":    {func(s *sighted) { clear(s.catalog().Sets) }, true, "first", ""},
		"Schedule": {func(s *sighted) { s.in.Policy.Schedule = daily }, true, "schedule", setNew},
		"Timeline": {func(s *sighted) { s.catalog().Timelines[2] = catalog.Timeline{Parent: 1, Fork: 0x9000000} }, true, "timeline", setNew},
		"Gap": {func(s *sighted) {
			gap := catalog.Place{WAL: []catalog.Span{{Timeline: 1, From: 0x1000000, To: 0x8800000}, {Timeline: 1, From: 0x8900000, To: 0x9000000}}}
			maps.Copy(s.catalog().Places, map[string]catalog.Place{"nas": gap, "offsite": gap})
		}, true, "gap", setNew},
		// What stands in the way of taking one is no answer to the question.
		"FailedJustNow": {func(s *sighted) {
			clear(s.catalog().Sets)
			s.in.Jobs = []agenda.Job{{ID: "x", Kind: agenda.JobFull, State: agenda.JobFailed, Began: backupNow.Add(-time.Second), Ended: backupNow}}
		}, true, "first", ""},
		"NoLocation": {func(s *sighted) { clear(s.catalog().Sets); s.in.Locations = nil }, true, "first", ""},
		"Runs":       {func(s *sighted) { clear(s.catalog().Sets); s.runs(facts.Job{ID: "j1", Kind: facts.JobBackup}) }, true, "first", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSighted()
			tt.edit(s)
			got := s.needed()
			if got.Needed != tt.needed || got.Reason != tt.reason || got.Newest != tt.newest || got.Why == "" || (got.Running != "") != (name == "Runs") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestPlanMark(t *testing.T) {
	gap := func(st *facts.State) {
		p := st.Backups.Catalogs[facts.ProfilePostgres].Places["nas"]
		p.Gaps = []catalog.Gap{{Timeline: 1, From: 0x8800000, To: 0x8900000}}
		st.Backups.Catalogs[facts.ProfilePostgres].Places["nas"] = p
	}
	pinned := func(st *facts.State) {
		set := st.Backups.Catalogs[facts.ProfilePostgres].Sets[setOld]
		set.Pinned, set.Notes = true, map[string]string{"a": "1"}
		st.Backups.Catalogs[facts.ProfilePostgres].Sets[setOld] = set
	}
	for name, tt := range map[string]struct {
		action, args string
		edit         func(*facts.State)
		changed      bool
		words        string // of the sentence or the refusal
		code         string
	}{
		"Pin":           {"pin", "label=" + setOld, nil, true, "is pinned", ""},
		"PinAgain":      {"pin", "label=" + setOld, pinned, false, "was pinned already", ""},
		"PinUnknown":    {"pin", "label=x", nil, false, `No set has the label "x"`, admin.CodeUnknownSet},
		"Unpin":         {"unpin", "label=" + setOld, pinned, true, "is not pinned any more", ""},
		"UnpinAgain":    {"unpin", "label=" + setOld, nil, false, "was not pinned already", ""},
		"Note":          {"note", "label=" + setOld + " note.a=2", pinned, true, "Noted on set", ""},
		"NoteAgain":     {"note", "label=" + setOld + " note.a=1", pinned, false, "had these notes", ""},
		"NoteNothing":   {"note", "label=" + setOld, nil, false, "note.reason", admin.CodeBadArgument},
		"Freeze":        {"freeze", "why=we look", nil, true, "No backup is deleted", ""},
		"FreezeNoWhy":   {"freeze", "", nil, false, "why must be", admin.CodeBadArgument},
		"FreezeAgain":   {"freeze", "why=x", func(st *facts.State) { st.Backups.Frozen = &facts.Freeze{Why: "old"} }, false, "already to delete backups: old", ""},
		"Thaw":          {"thaw", "", func(st *facts.State) { st.Backups.Frozen = &facts.Freeze{Why: "old"} }, true, "are deleted again", ""},
		"ThawNothing":   {"thaw", "", nil, false, "Nobody had forbidden", ""},
		"CancelUnknown": {"cancel", "id=x", nil, false, `No job has the id "x"`, admin.CodeUnknownJob},
		"Cancel": {"cancel", "id=j why=slow", func(st *facts.State) {
			st.Backups.Jobs = map[string]facts.Job{"j": {ID: "j", Kind: facts.JobBackup, State: facts.JobRunning, Node: "backup"}}
		}, true, "backup is told to end the backup j", ""},
		"CancelOver": {"cancel", "id=j", func(st *facts.State) { st.Backups.Finished = []facts.Job{{ID: "j", State: facts.JobDone}} }, false, "had ended already: it is done", ""},
		"CancelTwice": {"cancel", "id=j", func(st *facts.State) {
			st.Backups.Jobs = map[string]facts.Job{"j": {ID: "j", State: facts.JobRunning, Cancel: "slow"}}
		}, false, "is to end already: slow", ""},
		"CloseGap":     {"close-gap", "name=nas timeline=1 from=0/8800000", gap, true, "off the record", ""},
		"GiveGapUp":    {"close-gap", "name=nas timeline=1 from=0/8800000 given_up=true why=lost", gap, true, "is given up", ""},
		"GiveUpNoWhy":  {"close-gap", "name=nas timeline=1 from=0/8800000 given_up=true", gap, false, "needs a reason", admin.CodeBadArgument},
		"NoSuchGap":    {"close-gap", "name=nas timeline=1 from=0/1", gap, false, "no gap is recorded", admin.CodeRefused},
		"GapBadLSN":    {"close-gap", "name=nas timeline=1 from=x", gap, false, "an LSN such as", admin.CodeBadArgument},
		"GapBadNumber": {"close-gap", "name=nas timeline=99999999999 from=0/1", gap, false, "must be a number", admin.CodeBadArgument},
	} {
		t.Run(name, func(t *testing.T) {
			st := newSighted().st
			if tt.edit != nil {
				tt.edit(&st)
			}
			m, c, err := node.PlanMark(st, tt.action, arguments(tt.args))
			if tt.code != "" {
				if actionCode(err) != tt.code || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || m.Changed != tt.changed || (c != nil) != tt.changed || !strings.Contains(m.Sentence, tt.words) || !strings.HasSuffix(m.Sentence, ".") || m.Action != tt.action {
				t.Errorf("got %+v, %v, %v", m, c, err)
			}
		})
	}
}

func TestDescribeInit(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := local.Init(filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"new": "is made for location nas", "full": "is not empty (1 entries), and they stay", "full/x": "The empty directory", "old": "is a location already.",
		"none/new": "is its disk mounted?", "file": "is no directory",
	} {
		m, err := node.DescribeInit("nas", filepath.Join(dir, path), dir)
		got := m.Sentence + fmt.Sprint(err)
		if !strings.Contains(got, want) || err == nil && m.Changed != (path != "old") || m.Changed && !strings.Contains(got, "It is on the file system of the database") {
			t.Errorf("%s: %s", path, got)
		}
	}
	if m, err := node.DescribeInit("nas", filepath.Join(dir, "new"), ""); err != nil || strings.Contains(m.Sentence, "of the database") {
		t.Errorf("got %+v, %v", m, err)
	}
}

// backupPlanner is a group of one with a location, whose node is its primary.
func backupPlanner(t *testing.T) (p node.Planner, dir string) {
	t.Helper()
	p = planner(t)
	dir = filepath.Join(t.TempDir(), "place")
	name := p.State().Members[p.Store()].Name
	st := p.State()
	l := facts.DefaultLocation()
	l.Kind, l.Node, l.Path = facts.LocationLocal, name, dir
	policy := st.Policy
	if policy.IsZero() {
		policy = facts.DefaultPolicy()
	}
	if err := p.Propose(t.Context(), facts.Command{SetPolicy: &facts.SetPolicy{Expect: st.Policy.Version, Policy: policy.WithLocation("nas", l)}}); err != nil {
		t.Fatal(err)
	}
	p.TakesBackups(decide.Report{Node: name, Store: p.Store(), Boot: "boot-1", Role: decide.RoleStandby, Server: decide.Server{State: decide.ServerReplica, Streaming: true}})
	return p, dir
}

func do[T any](t *testing.T, p node.Planner, action, args string) T {
	t.Helper()
	v, known, err := p.Backup(t.Context(), action, arguments(args))
	if err != nil || !known {
		t.Fatalf("%s %s: %v, %v", action, args, known, err)
	}
	return v.(T)
}

// An order goes through the ledger, and is seen by whoever asks next.
func TestBackupOrder_BeginsAndCancels(t *testing.T) {
	p, _ := backupPlanner(t)
	if n, err := p.Needed(t.Context()); err != nil || !n.Needed || n.Reason != "first" {
		t.Errorf("got %+v, %v", n, err)
	}
	dry := do[doc.JobsReply](t, p, "backup", "dry_run=true")
	if dry.Started || len(dry.Jobs) != 1 || len(p.State().Backups.Jobs) != 0 {
		t.Errorf("got %+v", dry)
	}
	r := do[doc.JobsReply](t, p, "backup", "note.reason=upgrade")
	if !r.Started || len(r.Jobs) != 1 || r.Jobs[0].State != doc.JobRunning || r.Jobs[0].Label == "" {
		t.Fatalf("got %+v", r)
	}
	j, ok := p.State().Job(r.Jobs[0].ID)
	if !ok || j.Lease != "boot-1" || j.Notes["reason"] != "upgrade" || !slices.Equal(j.Locations, []string{"nas"}) || j.Store != p.Store() {
		t.Errorf("got %+v", j)
	}
	if _, _, err := p.Backup(t.Context(), "backup", nil); actionCode(err) != admin.CodeRefused || !strings.Contains(err.Error(), "understudy jobs cancel "+j.ID) {
		t.Errorf("got %v", err)
	}
	m := do[doc.Mark](t, p, "cancel", "id="+j.ID+" why=too slow")
	if !m.Changed {
		t.Errorf("got %+v", m)
	}
	if j, _ := p.State().Job(j.ID); j.Cancel != "too slow" {
		t.Errorf("got %+v", j)
	}
}

func TestBackupOrder_FreezeAndThaw(t *testing.T) {
	p, _ := backupPlanner(t)
	if m := do[doc.Mark](t, p, "freeze", "why=we look dry_run=true"); !m.Changed || p.State().Backups.Frozen != nil {
		t.Errorf("got %+v", m)
	}
	if m := do[doc.Mark](t, p, "freeze", "why=we look"); !m.Changed || p.State().Backups.Frozen == nil || p.State().Backups.Frozen.Why != "we look" {
		t.Errorf("got %+v", m)
	}
	if _, _, err := p.Backup(t.Context(), "prune", nil); actionCode(err) != admin.CodeRefused || !strings.Contains(err.Error(), "we look") {
		t.Errorf("got %v", err)
	}
	if m := do[doc.Mark](t, p, "thaw", ""); !m.Changed || p.State().Backups.Frozen != nil {
		t.Errorf("got %+v", m)
	}
}

func TestBackupOrder_InitLocation(t *testing.T) {
	p, dir := backupPlanner(t)
	if m := do[doc.Mark](t, p, "location-init", "name=nas dry_run=true"); !m.Changed {
		t.Errorf("got %+v", m)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a dry run made it")
	}
	if m := do[doc.Mark](t, p, "location-init", "name=nas"); !m.Changed {
		t.Errorf("got %+v", m)
	}
	if _, err := os.Stat(filepath.Join(dir, local.Marker)); err != nil {
		t.Error(err)
	}
	if m := do[doc.Mark](t, p, "location-init", "name=nas"); m.Changed {
		t.Errorf("got %+v", m)
	}
	if _, _, err := p.Backup(t.Context(), "location-init", arguments("name=tape")); actionCode(err) != admin.CodeUnknownLocation {
		t.Errorf("got %v", err)
	}
}

func TestBackupOrder_OtherActionsAreNotItsOwn(t *testing.T) {
	p, _ := backupPlanner(t)
	for _, action := range []string{"", "stop", "backups", "policy"} {
		if _, known, err := p.Backup(t.Context(), action, nil); known || err != nil {
			t.Errorf("%s: %v, %v", action, known, err)
		}
	}
}

// A remembered answer is given only for the state that it was made of.
func TestProtection_FollowsTheState(t *testing.T) {
	a, b, c := newSighted().st, newSighted().st, newSighted().st
	a.Version, b.Version, c.Version = 1, 1, 2
	clear(b.Backups.Catalogs[facts.ProfilePostgres].Sets) // the same version: not looked at
	clear(c.Backups.Catalogs[facts.ProfilePostgres].Sets)
	d := a
	d.Version, d.Group.LedgerID = 2, "another"
	if got := node.ProtectionSets(a, b, c, d); !slices.Equal(got, []int{2, 2, 0, 2}) {
		t.Errorf("got %v", got)
	}
}
