package admin_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/failover/decide"
	"understudy/ledger/audit"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	first  = "20260226-023000F"
	second = "20260301-023000F"
	failed = "20260228-023000F"
)

// backedUp is a group with two locations, three sets, jobs and drills. What
// lies at a location differs: offsite lacks log, and one copy is damaged.
func backedUp(t *testing.T) *backend {
	t.Helper()
	b := newBackend(t, "main")
	b.dir = t.TempDir()
	b.in.Now = noon
	for name, h := range b.in.Heard {
		h.At = noon
		b.in.Heard[name] = h
	}
	st := &b.in.State
	st.Group.SegSize, st.Group.SystemID, st.Group.PGMajor = 16<<20, 7, 17
	nas, offsite := facts.DefaultLocation(), facts.DefaultLocation()
	nas.Kind, nas.Node, nas.Path = facts.LocationLocal, "main", "/srv/backups"
	offsite.Kind, offsite.Bucket, offsite.Prefix, offsite.Endpoint, offsite.Secret, offsite.EncryptTo = facts.LocationS3, "shop", "/pg/", "s3.example.com", "key", "age1x"
	offsite.Order, offsite.Window, offsite.ThrottleBytes = -1, "22:00-06:00", 1<<20
	offsite.Retention = facts.Retention{Keep: 2, Monthly: 12, GoldEvery: 90 * 24 * time.Hour, FailedDays: 30}
	st.Policy = st.Policy.WithLocation("nas", nas).WithLocation("offsite", offsite)
	whole := func(at time.Time) catalog.Copy { return catalog.Copy{State: catalog.CopyComplete, At: at} }
	proven := whole(noon.Add(-9 * time.Hour))
	proven.Verified = noon.Add(-time.Hour)
	sets := map[string]catalog.Set{
		first: {Label: first, State: catalog.SetComplete, Timeline: 2, Start: 0x3000100, End: 0x3000200, Began: noon.Add(-81 * time.Hour), Ended: noon.Add(-80 * time.Hour),
			Node: "backup", Bytes: 1000, RawBytes: 4000, Digest: "d1", Pinned: true, Notes: map[string]string{"reason": "upgrade"},
			Copies: map[string]catalog.Copy{"nas": whole(noon.Add(-80 * time.Hour)), "offsite": {State: catalog.CopyDamaged, At: noon.Add(-time.Hour), Problem: "base.tar.zst: a byte is wrong"}}},
		failed: {Label: failed, State: catalog.SetFailed, Timeline: 2, Start: 0x3800000, Began: noon.Add(-33 * time.Hour), Node: "backup", Problem: "nas was full"},
		second: {Label: second, State: catalog.SetComplete, Timeline: 2, Start: 0x4000100, End: 0x4000200, Began: noon.Add(-10 * time.Hour), Ended: noon.Add(-9 * time.Hour),
			Node: "main", Bytes: 2000, RawBytes: 8000, Digest: "d2", Gold: true, Copies: map[string]catalog.Copy{"nas": proven, "offsite": whole(noon.Add(-8 * time.Hour))}},
	}
	marks := []catalog.Mark{{LSN: 0x3000300, At: noon.Add(-79 * time.Hour)}, {LSN: 0x3900000, At: noon.Add(-30 * time.Hour), Name: "before_upgrade"}, {LSN: 0x50000f0, At: noon.Add(-time.Second)}}
	since := noon.Add(-20 * time.Hour)
	st.Backups.Catalogs = map[string]catalog.Catalog{facts.ProfilePostgres: {Group: "shop", Profile: facts.ProfilePostgres, SystemID: 7, Major: 17, SegSize: 16 << 20,
		Timelines: map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 0x3000000}}, Sets: sets,
		Places: map[string]catalog.Place{
			"nas": {WAL: []catalog.Span{{Timeline: 2, From: 0x3000000, To: 0x5000100, Marks: marks}}},
			"offsite": {WAL: []catalog.Span{{Timeline: 2, From: 0x3000000, To: 0x4000000}, {Timeline: 2, From: 0x4800000, To: 0x5000000}},
				Gaps: []catalog.Gap{{Timeline: 2, From: 0x4000000, To: 0x4800000, Cause: "the log was gone", Since: since}}},
		}}}
	st.Backups.Feeders = map[string]string{"nas": "s-main", "offsite": "s-backup"}
	b.in.Self.Feeds = []decide.Feed{{Location: "nas", Timeline: 2, Archived: 0x5000100, Rate: 4096}}
	h := b.in.Heard["backup"]
	h.Report.Feeds = []decide.Feed{{Location: "offsite", Timeline: 2, Archived: 0x5000000, Backlog: 256, Problem: "the location cannot be reached", Since: noon.Add(-time.Minute)}}
	h.Report.Work = []decide.Work{{Job: "run", Step: "copying", Done: 250, Total: 1000}}
	b.in.Heard["backup"] = h
	st.Backups.Jobs = map[string]facts.Job{"run": {ID: "run", Kind: facts.JobVerify, State: facts.JobRunning, Store: "s-backup", Node: "backup", Label: second,
		Locations: []string{"nas"}, Why: "ordered by the operator", Began: noon.Add(-30 * time.Second), Attempt: 1, Uses: facts.Uses{Labels: []string{second}}}}
	st.Backups.Finished = []facts.Job{
		{ID: "old", Kind: facts.JobBackup, State: facts.JobFailed, Store: "s-backup", Node: "backup", Label: failed, Locations: []string{"nas"}, Began: noon.Add(-33 * time.Hour), Ended: noon.Add(-32 * time.Hour), Problem: "nas was full", Attempt: 2},
		{ID: "new", Kind: facts.JobBackup, State: facts.JobDone, Store: "s-main", Node: "main", Label: second, Locations: []string{"nas", "offsite"}, Began: noon.Add(-10 * time.Hour), Ended: noon.Add(-9 * time.Hour), Result: "2000 bytes", Bytes: 2000, Attempt: 1},
	}
	st.Backups.Drills = []facts.Drill{{Profile: facts.ProfilePostgres, OK: true, At: noon.Add(-2 * time.Hour), Duration: 10 * time.Second, Bytes: 1000}, {OK: false, At: noon.Add(-time.Hour), Problem: "x"}}
	b.space = map[string]location.Space{"nas": {Free: 5000, Total: 9000}}
	return b
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s: %s", path, d)
	}
}

// The documents of backups are read by programs of others: their names and
// forms are kept.
func TestBackups_DocumentsGolden(t *testing.T) {
	b := backedUp(t)
	h := admin.Handler(b, admin.Options{})
	write(t, filepath.Join(b.dir, "new", "log"), "one\ntwo\nthree\n")
	write(t, filepath.Join(b.dir, "new", "files.jsonl"), `{"location":"nas","key":"a/set.json","bytes":7}`+"\n"+`{"location":"nas","key":"old","bytes":3,"removed":true}`+"\n"+`{"location":"n`)
	b.retention = retention.Plan{At: noon, Gold: []string{second}, Places: []retention.Place{{Location: "nas", Keep: []retention.Keep{{Label: second, Why: []string{"gold", "pinned"}}},
		Steps: []retention.Step{{Kind: retention.StepSet, Label: first, Bytes: 1000, Why: "no rule keeps it"},
			{Kind: retention.StepWAL, Timeline: 2, WAL: pos.Range{From: 0x3000000, To: 0x4000000}, Why: "no kept set needs it"}}}, {Location: "offsite", Frozen: "it cannot be reached"}}}
	b.needed = doc.Needed{Needed: true, Reason: "gap", Why: "log is missing", Newest: second, EndedAt: noon, Next: noon.Add(time.Hour)}
	for name, path := range map[string]string{
		"sets": "/api/v1/sets", "set": "/api/v1/sets/" + first, "points": "/api/v1/points", "points-offsite": "/api/v1/points?location=offsite",
		"jobs": "/api/v1/jobs", "job": "/api/v1/jobs/new?lines=2", "locations": "/api/v1/locations", "retention": "/api/v1/retention", "needed": "/api/v1/needed",
	} {
		t.Run(name, func(t *testing.T) {
			w := request(t, h, "GET", path, "")
			if w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			var out bytes.Buffer
			if err := json.Indent(&out, w.Body.Bytes(), "", "  "); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", out.Bytes())
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A group without anything answers with empty lists, never with null.
func TestBackups_EmptyGroup(t *testing.T) {
	b := newBackend(t, "main")
	b.dir = t.TempDir()
	h := admin.Handler(b, admin.Options{})
	for path, want := range map[string]string{
		"/api/v1/sets": `{"profile":"postgres","sets":[]}`, "/api/v1/points": `{"intervals":[],"gaps":[],"named":[],"measured":false}`,
		"/api/v1/jobs": `{"jobs":[]}`, "/api/v1/locations": `{"locations":[]}`,
	} {
		if w := request(t, h, "GET", path, ""); w.Code != 200 || w.Body.String() != want+"\n" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestBackups_WhatIsNotThere(t *testing.T) {
	h := admin.Handler(backedUp(t), admin.Options{})
	for path, want := range map[string]string{
		"/api/v1/sets/20200101-000000F":           `404 {"code":"unknown-set","error":"No set has the label 20200101-000000F; list them with: understudy sets"}`,
		"/api/v1/sets/" + strings.Repeat("x", 99): `404 {"code":"unknown-set","error":"No set has the label ` + strings.Repeat("x", 80) + `…; list them with: understudy sets"}`,
		"/api/v1/points?location=tape":            `404 {"code":"unknown-location","error":"The policy has no location tape; it has nas, offsite."}`,
		"/api/v1/retention?location=tape":         `404 {"code":"unknown-location","error":"The policy has no location tape; it has nas, offsite."}`,
		"/api/v1/jobs/none":                       `404 {"code":"unknown-job","error":"No job has the id none; list them with: understudy jobs"}`,
		"/api/v1/jobs?max=x":                      `400 {"code":"bad-argument","error":"max must be a number up to 500."}`,
		"/api/v1/jobs?max=501":                    `400 {"code":"bad-argument","error":"max must be a number up to 500."}`,
		"/api/v1/jobs/new?lines=9999":             `400 {"code":"bad-argument","error":"lines must be a number up to 1000, and files up to 10000."}`,
		"/api/v1/audit?n=x":                       `400 {"code":"bad-argument","error":"n must be the number of an entry."}`,
	} {
		w := request(t, h, "GET", path, "")
		if got := fmt.Sprint(w.Code, " ", w.Body.String()); got != want+"\n" {
			t.Errorf("%s: got %s", path, got)
		}
	}
}

func TestJob_LogAndFilesAreWhereItRan(t *testing.T) {
	b := backedUp(t)
	h := admin.Handler(b, admin.Options{})
	get := func(path string) (d doc.JobDetail) {
		t.Helper()
		w := request(t, h, "GET", path, "")
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &d) != nil {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return d
	}
	if d := get("/api/v1/jobs/run"); d.Here || d.Elsewhere != "Log and files are on backup: ask its daemon." {
		t.Errorf("got %+v", d)
	}
	if d := get("/api/v1/jobs/new"); d.Here || d.Elsewhere != "This node keeps nothing of the job any more." {
		t.Errorf("got %+v", d)
	}
	var log, list strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&log, "line %d %s\n", i, strings.Repeat("x", 100))
		fmt.Fprintf(&list, `{"location":"nas","key":"k%d","bytes":2}`+"\n", i)
	}
	write(t, filepath.Join(b.dir, "new", "log"), log.String())
	write(t, filepath.Join(b.dir, "new", "files.jsonl"), list.String())
	d := get("/api/v1/jobs/new?lines=3&files=2")
	if !d.Here || d.Elsewhere != "" || !d.LogCut || len(d.Log) != 3 || !strings.HasPrefix(d.Log[2], "line 4999 ") || d.FileN != 5000 || d.FileBytes != 10000 || len(d.Files) != 2 || d.Files[1].Key != "k1" {
		t.Errorf("got %+v", d)
	}
	d = get("/api/v1/jobs/new?lines=1000&files=10000")
	if len(d.Log) != 1000 || len(d.Files) != 5000 || !strings.HasPrefix(d.Log[0], "line 4000 ") {
		t.Errorf("got %d lines from %q, %d files", len(d.Log), d.Log[0], len(d.Files))
	}
}

// An id that is a path names no folder, whoever put it into the ledger.
func TestJob_IDsThatArePaths(t *testing.T) {
	b := backedUp(t)
	write(t, filepath.Join(b.dir, "log"), "secret\n")
	for _, id := range []string{"..", ".", "a/../.."} {
		b.in.State.Backups.Finished = append(b.in.State.Backups.Finished, facts.Job{ID: id, Kind: facts.JobPrune, State: facts.JobDone, Node: "main"})
	}
	h := admin.Handler(b, admin.Options{})
	for _, path := range []string{"/api/v1/jobs/%2e%2e", "/api/v1/jobs/%2e", "/api/v1/jobs/a%2f..%2f.."} {
		if w := request(t, h, "GET", path, ""); strings.Contains(w.Body.String(), "secret") || w.Code == 200 && !strings.Contains(w.Body.String(), `"here":false`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestJobs_KindAndMax(t *testing.T) {
	h := admin.Handler(backedUp(t), admin.Options{})
	for query, want := range map[string]string{"": "run new old", "?kind=backup": "new old", "?max=1": "run new", "?kind=drill": "", "?max=0": "run"} {
		var jobs doc.Jobs
		if err := json.Unmarshal(request(t, h, "GET", "/api/v1/jobs"+query, "").Body.Bytes(), &jobs); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, j := range jobs.Jobs {
			ids = append(ids, j.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: got %s", query, got)
		}
	}
}

func TestBackups_Metrics(t *testing.T) {
	b := backedUp(t)
	body := request(t, admin.Handler(b, admin.Options{}), "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		"understudy_backup_protected 1\n", `understudy_backup_level{level="degraded"} 1` + "\n", "understudy_backup_newest_set_age_seconds 32400\n",
		"understudy_backup_last_drill_ok 0\n", `understudy_backup_location_lag_bytes{location="offsite"} 256` + "\n", `understudy_backup_location_lag_seconds{location="nas"} 0` + "\n",
		`understudy_backup_location_ok{location="offsite"} 0` + "\n", `understudy_backup_location_sets{location="nas"} 2` + "\n", `understudy_backup_jobs_running{kind="verify"} 1` + "\n",
		`understudy_backup_last_job{kind="backup",state="done"} 1` + "\n", `understudy_backup_last_job{kind="backup",state="failed"} 0` + "\n", "understudy_backup_prune_frozen 0\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, id := range []string{first, second, failed, `"run"`, `"new"`} {
		if strings.Contains(body, id) {
			t.Errorf("%s is in the metrics", id)
		}
	}
}

// chained is a state whose audit has n entries, with a copy of all of them.
func chained(t *testing.T, path string, n int) facts.State {
	t.Helper()
	f, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st facts.State
	for i := range n {
		e := facts.AuditEntry{N: uint64(i + 1), At: noon.Add(time.Duration(i) * time.Second), Kind: "policy", Node: "main", Text: fmt.Sprintf("entry %d", i+1), Epoch: epoch, Prev: st.Audit.Head}
		e.Hash = e.Sum()
		st.Audit = facts.Audit{N: e.N, Head: e.Hash, Newest: append(st.Audit.Newest, e)}
	}
	if err := f.Follow(st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestAudit_ChecksThisNodesCopy(t *testing.T) {
	b := backedUp(t)
	b.in.State.Audit = chained(t, b.AuditFile(), 20).Audit
	h := admin.Handler(b, admin.Options{})
	get := func(path string) (c doc.AuditCheck) {
		t.Helper()
		w := request(t, h, "GET", path, "")
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &c) != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return c
	}
	want := doc.AuditCheck{Node: "main", OK: true, Entries: 20, Head: b.in.State.Audit.Head}
	if d := cmp.Diff(want, get("/api/v1/audit")); d != "" {
		t.Error(d)
	}
	want.Asked, want.AskedHash = 7, b.in.State.Audit.Newest[6].Hash
	if d := cmp.Diff(want, get("/api/v1/audit?n=7")); d != "" {
		t.Error(d)
	}
	whole, err := os.ReadFile(b.AuditFile())
	if err != nil {
		t.Fatal(err)
	}
	// A line that is being written is no damage.
	write(t, b.AuditFile(), string(whole)+`{"n":21,"at`)
	if c := get("/api/v1/audit"); !c.OK {
		t.Errorf("got %+v", c)
	}
	export := request(t, h, "GET", "/api/v1/audit/export", "").Body.Bytes()
	if err := audit.Check(bytes.NewReader(export), audit.HeadOf(b.in.State)); err != nil {
		t.Errorf("export: %v in %s", err, export)
	}
	write(t, b.AuditFile(), strings.Replace(string(whole), "entry 13", "entry 31", 1))
	if c := get("/api/v1/audit"); c.OK || c.BrokenAt != 13 || !strings.Contains(c.Problem, "entry 13: it was changed") {
		t.Errorf("got %+v", c)
	}
	if err := os.Remove(b.AuditFile()); err != nil {
		t.Fatal(err)
	}
	if c := get("/api/v1/audit"); c.OK || c.BrokenAt != 1 {
		t.Errorf("got %+v", c)
	}
}

func TestLedger_Export(t *testing.T) {
	b := backedUp(t)
	w := request(t, admin.Handler(b, admin.Options{}), "GET", "/api/v1/ledger", "")
	x, err := facts.Import(w.Body.Bytes())
	if err != nil || x.Group.Name != "shop" || len(x.Catalogs[facts.ProfilePostgres].Sets) != 3 {
		t.Errorf("got %+v, %v", x.Group, err)
	}
}
