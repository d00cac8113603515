package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
)

// vault is a daemon that answers with given documents.
type vault struct {
	mu   sync.Mutex
	docs map[string]any // by path and query
	// plays are documents that change with each question, the last for ever.
	plays map[string][]any
	// replies are the answers to actions; an *admin.ErrorReply refuses.
	replies map[string]any
	did     []string
	asked   []string
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if action, ok := strings.CutPrefix(r.URL.Path, "/api/v1/do/"); ok {
		args := map[string]string{}
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			panic(err)
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(args)) {
			parts = append(parts, k+"="+args[k])
		}
		v.did = append(v.did, strings.Join(append([]string{action}, parts...), " "))
		v.write(w, v.replies[action])
		return
	}
	path := r.URL.RequestURI()
	v.asked = append(v.asked, path)
	if play := v.plays[path]; len(play) > 0 {
		if len(play) > 1 {
			v.plays[path] = play[1:]
		}
		v.write(w, play[0])
		return
	}
	v.write(w, v.docs[path])
}

func (v *vault) write(w http.ResponseWriter, d any) {
	switch d := d.(type) {
	case nil:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"code":"unknown-job","error":"No such thing."}`)
	case admin.ErrorReply:
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(d)
	case []byte:
		_, _ = w.Write(d)
	default:
		_ = json.NewEncoder(w).Encode(d)
	}
}

func (v *vault) orders() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.did, "\n")
}

func (v *vault) begin(t *testing.T) (config string) {
	t.Helper()
	config, socket, _ := nodeFile(t)
	serve(t, socket, v)
	return config
}

// noon of a zone that is not UTC, so that offsets are seen.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))

func seconds(n float64) *float64 { return &n }

// stock are documents with everything that can be in them, and texts that must
// not reach a terminal as they are.
func stock() *vault {
	const long = "the location cannot be reached: dial tcp 203.0.113.7:22: connect: connection timed out\x1b[31m"
	sets := doc.Sets{Profile: "postgres", Frozen: "we look for a lost row", Sets: []doc.Set{
		{Label: "20260301-023000F", State: "running", Began: noon, Copies: []doc.Copy{{Location: "nas", State: "writing"}}, Job: "a1b2c3"},
		{Label: "20260228-023000F", State: "complete", Timeline: 3, Start: 0x3000028, End: 0x3000148, Began: noon.Add(-33 * time.Hour), Ended: noon.Add(-32 * time.Hour), DurationNS: int64(time.Hour),
			Node: "backup", Bytes: 1 << 30, RawBytes: 5 << 30, Digest: "8a6b", Gold: true, Restorable: true, Notes: map[string]string{"reason": "before the upgrade", "ticket": "7"},
			Copies: []doc.Copy{{Location: "nas", State: "complete", At: noon, Verified: noon, Restorable: true}, {Location: "offsite", State: "damaged", At: noon, Problem: "base.tar.zst: a byte is wrong"}}},
		{Label: "20260227-023000F", State: "failed", Began: noon.Add(-50 * time.Hour), Problem: "every location failed: " + long},
		{Label: "20260226-023000F", State: "complete", Ended: noon.Add(-80 * time.Hour), Bytes: 900, Pinned: true, Damaged: true, Copies: []doc.Copy{{Location: "offsite", State: "complete", At: noon}}},
	}}
	jobs := doc.Jobs{Jobs: []doc.Job{
		{ID: "a1b2c3", Kind: "backup", State: "running", Node: "backup", Label: "20260301-023000F", Locations: []string{"nas", "offsite"}, Why: "the schedule has it", Began: noon, Deadline: noon.Add(24 * time.Hour),
			Progress: &doc.Progress{Step: "copying", DoneBytes: 3 << 29, TotalBytes: 5 << 30, Percent: 30, RemainingNS: int64(95 * time.Second)}},
		{ID: "d4e5f6", Kind: "prune", State: "failed", Node: "main", Locations: []string{"nas"}, Why: "the schedule has it", Began: noon.Add(-8 * time.Hour), Ended: noon.Add(-8*time.Hour + 3*time.Second), Attempt: 2, Problem: long},
		{ID: "070809", Kind: "drill", State: "done", Node: "backup", Why: "ordered by the operator", Began: noon.Add(-30 * time.Hour), Ended: noon.Add(-29 * time.Hour), Result: "1,000,000 rows agree", Bytes: 5 << 30},
	}}
	return &vault{docs: map[string]any{
		"/api/v1/sets": sets, "/api/v1/sets/20260228-023000F": sets.Sets[1], "/api/v1/jobs?kind=": jobs, "/api/v1/jobs?kind=prune": doc.Jobs{},
		"/api/v1/points": doc.Points{Intervals: []doc.Interval{
			{Timeline: 3, From: noon.Add(-80 * time.Hour), To: noon, FromLSN: 0x3000148, ToLSN: 0x5000000, Sets: []string{"a", "b"}, EstimateNS: int64(130 * time.Second)},
			{Timeline: 2, FromLSN: 0x2000148, ToLSN: 0x2000148, Sets: []string{"c"}},
		}, Gaps: []doc.Gap{{Timeline: 3, From: 0x5000000, To: 0x6000000, Cause: "the log was gone before offsite could be reached again", Since: noon}},
			Named: []doc.Named{{Name: "before_upgrade", At: noon, LSN: 0x4000000, Timeline: 3}}},
		"/api/v1/points?location=offsite": doc.Points{Location: "offsite"},
		"/api/v1/locations": doc.Locations{Locations: []doc.Location{
			{Name: "nas", Kind: "local", Node: "backup", Where: "/srv/backups", Tier: "disk", Enabled: true, State: "ok", Feeder: "backup", Archived: 0x5000000, LagSeconds: seconds(0), SetN: 2, Bytes: 2 << 30, Free: 80 << 30, Total: 200 << 30},
			{Name: "offsite", Kind: "s3", Where: "s3://shop/pg at s3.example.com", Tier: "cold", Enabled: true, Encrypted: true, State: "failing", Feeder: "witness", Archived: 0x4000000, LagBytes: 1 << 24, LagSeconds: seconds(4000), Bytes: 1 << 30,
				Problem: long, Since: noon, Gaps: []doc.Gap{{Timeline: 3, From: 0x5000000, To: 0x6000000, Cause: "the log was gone"}}},
			{Name: "usb", Kind: "local", Node: "main", Where: "/mnt/usb", State: "disabled"},
		}},
		"/api/v1/jobs/d4e5f6?lines=0&files=0": doc.JobDetail{Job: jobs.Jobs[1], Elsewhere: "Log and files are on main: ask its daemon."},
		"/api/v1/jobs/a1b2c3?lines=1000&files=10000": doc.JobDetail{Job: jobs.Jobs[0], Here: true, Log: []string{"level=INFO msg=begin", "level=INFO msg=\x1b[2J"}, LogCut: true,
			Files: []doc.File{{Location: "nas", Key: "shop/postgres/sets/20260301-023000F/base.tar.zst", Bytes: 1 << 30}, {Location: "nas", Key: "old", Removed: true}}, FileN: 3, FileBytes: 1 << 30},
		"/api/v1/jobs/d4e5f6?lines=1000&files=0": doc.JobDetail{Job: jobs.Jobs[1], Elsewhere: "Log and files are on main: ask its daemon."},
		"/api/v1/retention":                      plan(),
		"/api/v1/needed":                         doc.Needed{Reason: "none", Why: "the newest one is whole", Newest: "20260228-023000F", EndedAt: noon, Next: noon.Add(time.Hour)},
	}, replies: map[string]any{}, plays: map[string][]any{}}
}

func plan() doc.RetentionPlan {
	return doc.RetentionPlan{At: noon, Gold: []string{"20260228-023000F"}, Places: []doc.RetentionPlace{
		{Location: "nas", Keep: []doc.Kept{{Label: "20260226-023000F", Why: []string{"pinned"}}, {Label: "20260228-023000F", Why: []string{"among the newest 2", "the last of the month 2026-02", "becomes gold"}}},
			Remove: []doc.Removed{{Label: "20260110-023000F", Bytes: 1 << 30, Why: "no rule keeps it"}, {Timeline: 3, From: 0x1000000, To: 0x3000000, Bytes: 2 << 24, Why: "no kept set needs it"}}},
		{Location: "offsite", Frozen: "it has no whole set that can be restored on the newest timeline", Keep: []doc.Kept{{Label: "20260228-023000F", Why: []string{"it has no whole set"}}}},
	}}
}

// looks are the commands that only show something.
var looks = map[string][]string{
	"sets.txt": {"sets"}, "set.txt": {"sets", "20260228-023000F"}, "jobs.txt": {"jobs"}, "jobs-none.txt": {"jobs", "--kind", "prune"}, "job.txt": {"jobs", "d4e5f6"},
	"job-log.txt": {"jobs", "a1b2c3", "--log", "--files"}, "points.txt": {"points"}, "points-none.txt": {"points", "--location", "offsite"}, "locations.txt": {"locations"},
	"prune-dry.txt": {"prune", "--dry-run"}, "needed.txt": {"backup", "--needed"},
}

func TestBackupCommands_Golden(t *testing.T) {
	zone := time.Local
	time.Local = time.FixedZone("", 3600)
	defer func() { time.Local = zone }()
	config := stock().begin(t)
	for name, args := range looks {
		t.Run(name, func(t *testing.T) {
			var out buffer
			if err := runWith(t.Context(), cli.Options{Out: &out, Width: 100}, append(args, "--config", config)...); err != nil {
				t.Fatal(err)
			}
			golden(t, "backup-"+name, out.String())
		})
	}
}

// Nothing is wider than the terminal, and nothing of others controls it.
func TestBackupCommands_FitTheTerminal(t *testing.T) {
	config := stock().begin(t)
	for name, args := range looks {
		if name == "job-log.txt" {
			continue // lines of a log are as long as they are
		}
		for _, width := range []int{20, 40, 60, 80, 132} {
			var out buffer
			if err := runWith(t.Context(), cli.Options{Out: &out, Width: width}, append(args, "--config", config)...); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if utf8.RuneCountInString(line) > width || strings.ContainsRune(line, 0x1b) {
					t.Errorf("%s at %d: %q", name, width, line)
				}
			}
		}
	}
}

func TestBackupCommands_JSON(t *testing.T) {
	v := stock()
	config := v.begin(t)
	for name, args := range looks {
		if name == "job.txt" || name == "job-log.txt" {
			args = []string{"jobs", "a1b2c3"}
		}
		var out buffer
		if err := run(t.Context(), &out, append(args, "--json", "--config", config)...); err != nil || !json.Valid([]byte(out.String())) {
			t.Errorf("%v: %v in %s", args, err, out.String())
		}
	}
	var out buffer
	var got doc.Sets
	if err := run(t.Context(), &out, "sets", "--json", "--config", config); err != nil || json.Unmarshal([]byte(out.String()), &got) != nil || len(got.Sets) != 4 {
		t.Errorf("got %s, %v", out.String(), err)
	}
}

func TestBackup_Needed(t *testing.T) {
	v := stock()
	v.docs["/api/v1/needed"] = doc.Needed{Needed: true, Reason: "first", Why: "there is no backup yet", Running: "a1"}
	config := v.begin(t)
	var out buffer
	err := run(t.Context(), &out, "backup", "--needed", "--config", config)
	if cli.Code(err) != cli.ExitNeeded || !cli.Silent(err) || out.String() != "A backup is needed: there is no backup yet.\nJob a1 is taking one.\n" {
		t.Errorf("got %v, %s", err, out.String())
	}
}

const followed = "/api/v1/jobs/a1?lines=0&files=0"

// taking is a daemon on which a backup runs through its steps.
func taking(end doc.Job) *vault {
	v := stock()
	job := doc.Job{ID: "a1", Kind: "backup", State: "running", Node: "backup", Label: "20260301-120000F", Locations: []string{"nas"}, Began: noon}
	v.replies["backup"] = doc.JobsReply{Action: "backup", Started: true, Jobs: []doc.Job{job}, Steps: []string{"backup takes full backup 20260301-120000F and writes it to nas."}}
	at := func(step string, percent int) doc.JobDetail {
		j := job
		j.Progress = &doc.Progress{Step: step, DoneBytes: int64(percent) << 20, TotalBytes: 100 << 20, Percent: percent}
		return doc.JobDetail{Job: j}
	}
	end.ID, end.Kind, end.Node, end.Label, end.Began, end.Ended, end.Locations = "a1", "backup", "backup", job.Label, noon, noon.Add(72*time.Second), job.Locations
	v.plays[followed] = []any{doc.JobDetail{Job: job}, at("copying", 10), at("copying", 60), at("waiting for log", 100), doc.JobDetail{Job: end}}
	return v
}

func TestBackup_WaitsAndSaysHowItEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		end  doc.Job
		code int
		want string
	}{
		"Done":      {doc.Job{State: "done", Result: "1.0 GiB"}, cli.ExitOK, ""},
		"Failed":    {doc.Job{State: "failed", Problem: "nas is full"}, cli.ExitFailure, "backup 20260301-120000F on backup at nas failed: nas is full"},
		"Cancelled": {doc.Job{State: "cancelled", Problem: "too slow"}, cli.ExitFailure, "was cancelled: too slow"},
		"Lost":      {doc.Job{State: "lost", Problem: "the daemon of backup restarted"}, cli.ExitFailure, "was lost: the daemon of backup restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			config := taking(tt.end).begin(t)
			var out buffer
			err := run(t.Context(), &out, "backup", "--config", config)
			if cli.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			golden(t, "backup-run-"+strings.ToLower(name)+".txt", out.String())
		})
	}
}

func TestBackup_ArgumentsAndJSON(t *testing.T) {
	v := taking(doc.Job{State: "done"})
	config := v.begin(t)
	var out buffer
	err := run(t.Context(), &out, "backup", "--location", "nas", "--location", "offsite", "--note", "reason=up=grade", "--note", "x=", "--json", "--config", config)
	var r doc.JobsReply
	if err != nil || json.Unmarshal([]byte(out.String()), &r) != nil || len(r.Jobs) != 1 || r.Jobs[0].State != "done" {
		t.Errorf("got %v, %s", err, out.String())
	}
	if want := "backup locations=nas,offsite note.reason=up=grade note.x="; v.orders() != want {
		t.Errorf("got %s", v.orders())
	}
}

func TestBackup_DetachAndDryRunDoNotWait(t *testing.T) {
	v := taking(doc.Job{State: "failed"})
	config := v.begin(t)
	var out buffer
	if err := run(t.Context(), &out, "backup", "--detach", "--config", config); err != nil || !strings.Contains(out.String(), "Job a1: backup 20260301-120000F on backup at nas.\n") {
		t.Errorf("got %v, %s", err, out.String())
	}
	v.replies["backup"] = doc.JobsReply{Action: "backup", Steps: []string{"It would."}, Jobs: []doc.Job{{ID: "a1"}}}
	out = buffer{}
	if err := run(t.Context(), &out, "backup", "--dry-run", "--config", config); err != nil || out.String() != "It would.\n" {
		t.Errorf("got %v, %s", err, out.String())
	}
	if len(v.asked) != 0 || !strings.HasSuffix(v.orders(), "dry_run=true locations=") {
		t.Errorf("asked %v, did %s", v.asked, v.orders())
	}
}

func TestBackup_WaitIsBounded(t *testing.T) {
	v := taking(doc.Job{State: "done"})
	v.plays[followed] = v.plays[followed][:1] // for ever
	config := v.begin(t)
	err := run(t.Context(), io.Discard, "backup", "--wait", "50ms", "--config", config)
	if cli.Code(err) != cli.ExitFailure || err.Error() != "it takes longer than 50ms; it goes on: understudy jobs a1 shows it, and understudy jobs cancel a1 ends it" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, io.Discard, "backup", "--config", config) }()
	eventually(t, "a question", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return len(v.asked) > 3 })
	cancel()
	if err := <-done; cli.Code(err) != cli.ExitFailure || !strings.HasPrefix(err.Error(), "interrupted; it goes on") {
		t.Errorf("got %v", err)
	}
}

// On a terminal one line is redrawn, and is gone at the end.
func TestBackup_RedrawsOneLine(t *testing.T) {
	config := taking(doc.Job{State: "done", Result: "1.0 GiB"}).begin(t)
	var out buffer
	if err := runWith(t.Context(), cli.Options{Out: &out, Width: 60}, "backup", "--config", config); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	last := text[strings.LastIndex(text, "\x1b[K")+3:]
	if !strings.Contains(text, "\r\x1b[Kbackup: copying, 60 %, 60.0 MiB of 100.0 MiB") || !strings.HasPrefix(last, "Backup 20260301-120000F on backup at nas is done: 1.0 GiB") {
		t.Errorf("got %q", text)
	}
}

func TestBackup_Refused(t *testing.T) {
	v := stock()
	v.replies["backup"] = admin.ErrorReply{Code: "refused", Error: "A backup runs already."}
	config := v.begin(t)
	if err := run(t.Context(), io.Discard, "backup", "--config", config); cli.Code(err) != cli.ExitRefused || err.Error() != "A backup runs already." {
		t.Errorf("got %v", err)
	}
}

func TestPrune_AsksBeforeItDeletes(t *testing.T) {
	v := stock()
	v.replies["prune"] = doc.JobsReply{Action: "prune", Started: true, Steps: []string{"main cleans up nas."}, Jobs: []doc.Job{{ID: "p1", Kind: "prune", State: "running", Node: "main"}}}
	v.docs["/api/v1/jobs/p1?lines=0&files=0"] = doc.JobDetail{Job: doc.Job{ID: "p1", Kind: "prune", State: "done", Node: "main", Result: "1 set", Began: noon, Ended: noon}}
	config := v.begin(t)
	prune := func(in io.Reader, args ...string) (string, error) {
		var out buffer
		err := runWith(t.Context(), cli.Options{Out: &out, In: in}, append([]string{"prune", "--config", config}, args...)...)
		return out.String(), err
	}
	if _, err := prune(nil); cli.Code(err) != cli.ExitUsage || v.orders() != "" {
		t.Errorf("nobody to ask: %v, did %s", err, v.orders())
	}
	if _, err := prune(strings.NewReader("no\n")); cli.Code(err) != cli.ExitRefused || v.orders() != "" {
		t.Errorf("no: %v, did %s", err, v.orders())
	}
	if _, err := prune(nil, "--json"); cli.Code(err) != cli.ExitUsage || v.orders() != "" {
		t.Errorf("json: %v, did %s", err, v.orders())
	}
	if _, err := prune(nil, "--dry-run"); err != nil || v.orders() != "" {
		t.Errorf("dry run: %v, did %s", err, v.orders())
	}
	out, err := prune(strings.NewReader("prune\n"))
	if err != nil || v.orders() != "prune locations=" || !strings.Contains(out, "Type prune to go on: ") {
		t.Errorf("yes: %v, did %s: %s", err, v.orders(), out)
	}
	if _, err := prune(nil, "--json", "--yes", "--location", "nas"); cli.Code(err) != cli.ExitUsage { // the plan of that location is unknown to this vault
		t.Errorf("got %v", err)
	}
	v.docs["/api/v1/retention?location=nas"] = plan()
	if _, err := prune(nil, "--json", "--yes", "--location", "nas"); err != nil || !strings.HasSuffix(v.orders(), "prune locations=nas") {
		t.Errorf("got %v, did %s", err, v.orders())
	}
	v.docs["/api/v1/retention"] = doc.RetentionPlan{Frozen: "frozen"}
	before := v.orders()
	if out, err := prune(nil); err != nil || v.orders() != before || out != "Nothing is deleted: frozen.\nThere is nothing to delete.\n" {
		t.Errorf("got %v, %s", err, out)
	}
}

func TestMarks_SendTheirArguments(t *testing.T) {
	v := stock()
	for _, a := range doc.MarkActions() {
		v.replies[a] = doc.Mark{Action: a, Changed: true, Sentence: "Done \x1b[1mso."}
	}
	for _, a := range []string{"verify", "drill"} {
		v.replies[a] = doc.JobsReply{Action: a}
	}
	config := v.begin(t)
	for _, tt := range []struct{ args, want string }{
		{"sets pin 20260228-023000F", "pin label=20260228-023000F"},
		{"sets unpin 20260228-023000F", "unpin label=20260228-023000F"},
		{"sets note 20260228-023000F a=1 b=", "note label=20260228-023000F note.a=1 note.b="},
		{"jobs cancel a1 --why slow", "cancel id=a1 why=slow"},
		{"ledger freeze we look", "freeze why=we look"},
		{"ledger thaw", "thaw why="},
		{"locations close-gap nas 0/5000000 --timeline 3", "close-gap from=0/5000000 name=nas timeline=3"},
		{"locations close-gap nas 0/5000000 --timeline 3 --given-up lost", "close-gap from=0/5000000 given_up=true name=nas timeline=3 why=lost"},
		{"locations init nas --yes", "location-init dry_run=true name=nas\nlocation-init name=nas"},
		{"verify", "verify locations= log=true"},
		{"verify 20260228-023000F --location nas", "verify label=20260228-023000F locations=nas"},
		{"verify 20260228-023000F --wal", "verify label=20260228-023000F locations= log=true"},
		{"drill", "drill "},
		{"drill --target latest", "drill target=latest"},
	} {
		v.did = nil
		var out buffer
		if err := run(t.Context(), &out, append(strings.Fields(tt.args), "--config", config)...); err != nil || strings.TrimSpace(v.orders()) != strings.TrimSpace(tt.want) {
			t.Errorf("%s: %v, did %s", tt.args, err, v.orders())
		}
		if strings.ContainsRune(out.String(), 0x1b) {
			t.Errorf("%s: %q", tt.args, out.String())
		}
	}
}

// A time without an offset is one of this host's zone.
func TestDrill_TargetInTheLocalZone(t *testing.T) {
	zone := time.Local
	time.Local = time.FixedZone("", 2*3600)
	defer func() { time.Local = zone }()
	v := stock()
	v.replies["drill"] = doc.JobsReply{}
	config := v.begin(t)
	if err := run(t.Context(), io.Discard, "drill", "--target", "2026-03-01 10:00", "--config", config); err != nil || v.orders() != "drill target=2026-03-01 08:00:00+00:00" {
		t.Errorf("got %v, did %s", err, v.orders())
	}
}

func TestLocationsInit_AsksOnce(t *testing.T) {
	v := stock()
	v.replies["location-init"] = doc.Mark{Changed: true, Sentence: "The directory /srv/backups is made for location nas."}
	config := v.begin(t)
	err := runWith(t.Context(), cli.Options{Out: io.Discard, In: strings.NewReader("x\n")}, "locations", "init", "nas", "--config", config)
	if cli.Code(err) != cli.ExitRefused || v.orders() != "location-init dry_run=true name=nas" {
		t.Errorf("got %v, did %s", err, v.orders())
	}
	if err := runWith(t.Context(), cli.Options{Out: io.Discard, In: strings.NewReader("nas\n")}, "locations", "init", "nas", "--config", config); err != nil || !strings.HasSuffix(v.orders(), "\nlocation-init name=nas") {
		t.Errorf("got %v, did %s", err, v.orders())
	}
}

func TestBackupCommands_WrongArguments(t *testing.T) {
	v := stock()
	config := v.begin(t)
	for args, want := range map[string]string{
		"backup extra": "extra", "backup --wait -1s": "--wait must not be negative", "backup --note x": `"x" is no note`, "backup --note =x": "is no note",
		"backup --note a=1 --note a=2": "given twice", "backup --needed --location nas": "--needed goes with --json only", "backup --needed --detach": "--needed goes",
		"verify a b": "arg", "drill --target never:x": "not a target", "drill --target=": "not a target", "jobs --log": "need the ID of a job", "jobs a1 --kind backup": "goes with no ID",
		"jobs cancel": "arg", "sets note x": "arg", "sets note x y": "is no note", "sets pin": "arg", "prune x": "x", "locations x": "x",
		"locations close-gap nas x --timeline 1": "is no LSN", "locations close-gap nas 0/1": "--timeline", "locations close-gap nas 0/1 --timeline 1 --given-up=": "needs a reason",
		"locations init nas --json": "--yes", "ledger freeze": "arg", "ledger check --alone": "needs a FILE", "ledger check /none/x": "does not exist",
	} {
		err := run(t.Context(), io.Discard, append(strings.Fields(args), "--config", config)...)
		if cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d %v", args, cli.Code(err), err)
		}
	}
	for args, want := range map[string]string{"ledger": "say which: export, check, freeze or thaw", "ledger melt": `no "melt"`} {
		if err := run(t.Context(), io.Discard, strings.Fields(args)...); cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d %v", args, cli.Code(err), err)
		}
	}
	if v.orders() != "" {
		t.Errorf("did %s", v.orders())
	}
}

func TestJobs_LogOfAnotherNode(t *testing.T) {
	config := stock().begin(t)
	if err := run(t.Context(), io.Discard, "jobs", "d4e5f6", "--log", "--config", config); cli.Code(err) != cli.ExitFailure || err.Error() != "Log and files are on main: ask its daemon." {
		t.Errorf("got %v", err)
	}
	if err := run(t.Context(), io.Discard, "jobs", "none", "--config", config); cli.Code(err) != cli.ExitUsage {
		t.Errorf("got %v", err)
	}
}
