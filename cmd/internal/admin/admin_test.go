package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = pos.Epoch{Gen: 1, Num: 4}

// backend is a daemon whose state the test sets.
type backend struct {
	mu    sync.Mutex
	in    view.Input
	log   *eventlog.Log
	did   []string
	doErr error
	// What is stored; readErr fails every question for it.
	changes []doc.Change
	plans   []doc.PlanLine
	readErr error
	// What of backups is not in the ledger.
	dir       string // of jobs and the audit
	space     map[string]location.Space
	retention retention.Plan
	needed    doc.Needed
}

func (b *backend) Status(context.Context) (view.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return view.Build(b.in), nil
}

func (b *backend) Self() (facts.State, decide.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.in.State, b.in.Self
}

func (b *backend) Events() *eventlog.Log { return b.log }

func (b *backend) Do(_ context.Context, action string, args map[string]string) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, fmt.Sprint(action, args))
	return map[string]string{"done": action}, b.doErr
}

func (b *backend) History(context.Context) (doc.History, error) {
	return doc.History{Changes: b.changes}, b.readErr
}

func (b *backend) Plans(context.Context) (doc.Plans, error) {
	return doc.Plans{Plans: b.plans}, b.readErr
}

func (b *backend) Explain(_ context.Context, id string) (doc.Explanation, error) {
	for _, p := range b.plans {
		if id == "" || p.ID == id {
			return doc.Explanation{ID: p.ID, Rule: p.Rule}, b.readErr
		}
	}
	return doc.Explanation{}, fmt.Errorf("look up: %w", &admin.ActionError{Code: admin.CodeUnknownPlan, Text: "No such decision."})
}

func (b *backend) JobDir(id string) string                    { return filepath.Join(b.dir, id) }
func (b *backend) AuditFile() string                          { return filepath.Join(b.dir, "audit.jsonl") }
func (b *backend) Retention() retention.Plan                  { return b.retention }
func (b *backend) Needed(context.Context) (doc.Needed, error) { return b.needed, b.readErr }
func (b *backend) Space(_ context.Context, name string) (location.Space, bool) {
	s, ok := b.space[name]
	return s, ok
}

func (b *backend) WAL(context.Context, string, io.Writer) error { return admin.ErrNotYet }

// newBackend is a group of main, which is primary, and backup; the report is
// that of self.
func newBackend(t *testing.T, self string) *backend {
	t.Helper()
	log, err := eventlog.Open(filepath.Join(t.TempDir(), "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	now := time.Now()
	reports := map[string]decide.Report{
		"main": {Node: "main", Store: "s-main", Role: decide.RolePrimary, Epoch: epoch, Timeline: 2, Durable: 0x5000100, Received: 0x5000100, Committed: 0x5000100, SentAt: now,
			Version: "1.0", Server: decide.Server{State: decide.ServerOpen, Major: 17}, Links: []decide.Link{{Peer: "backup", State: "streaming"}}},
		"backup": {Node: "backup", Store: "s-backup", Role: decide.RoleStandby, Epoch: epoch, Timeline: 2, Durable: 0x5000100, Received: 0x5000100, Applied: 0x5000000, SentAt: now,
			Version: "1.0", Server: decide.Server{State: decide.ServerReplica, Major: 17, Streaming: true}},
		"witness": {Node: "witness", Store: "s-witness", Kind: "witness", Role: decide.RoleWitness, Server: decide.Server{State: decide.ServerAbsent}, SentAt: now},
	}
	in := view.Input{Now: now, Self: reports[self], Heard: map[string]decide.Heard{}, LedgerLeader: "backup"}
	in.State = facts.State{
		Group: facts.Group{ID: "g", Name: "shop"},
		Members: map[string]facts.Member{
			"s-main":    {Name: "main", Store: "s-main", Kind: facts.KindData, Address: "10.0.0.1:7420", HTTP: "10.0.0.1:7421", Seeded: true},
			"s-backup":  {Name: "backup", Store: "s-backup", Kind: facts.KindData, Address: "10.0.0.2:7420", Seeded: true},
			"s-witness": {Name: "witness", Store: "s-witness", Kind: facts.KindWitness, Address: "10.0.0.3:7420"},
		},
		Voters:  facts.Voters{Stores: []string{"s-backup", "s-main", "s-witness"}},
		Primary: facts.Primaryship{Epoch: epoch, Phase: facts.PhaseOpened, Store: "s-main", Node: "main", Timeline: 2, Cause: "main was silent", OpenedAt: now},
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 1}, {Epoch: pos.Epoch{Gen: 1, Num: 2}, Timeline: 1, Start: 2}, {Epoch: epoch, Timeline: 2, Start: 0x3000000}},
		Policy:  facts.DefaultPolicy(),
	}
	for name, r := range reports {
		if name != self && name != "witness" {
			in.Heard[name] = decide.Heard{Report: r, At: now}
		}
	}
	return &backend{in: in, log: log}
}

func request(t *testing.T, h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

func TestHandler_Health(t *testing.T) {
	paths := []string{"/", "/primary", "/master", "/read-write", "/leader", "/replica", "/replica?lag=255", "/replica?lag=1kB", "/read-only", "/sync", "/async", "/standby-leader", "/health", "/liveness", "/readiness"}
	primary := "/ /primary /master /read-write /leader /read-only /health /liveness /readiness"
	for name, tt := range map[string]struct {
		self string
		edit func(*backend)
		want string // paths that answer 200
	}{
		"Primary":          {"main", func(*backend) {}, primary},
		"PrimaryLocked":    {"main", func(b *backend) { b.in.Self.Server.State = decide.ServerLocked }, "/health /liveness"},
		"PrimaryNotOpened": {"main", func(b *backend) { b.in.State.Primary.Phase = facts.PhaseStarting }, "/health /liveness"},
		"PrimaryReplaced":  {"main", func(b *backend) { b.in.State.Primary.Store = "s-backup" }, "/health /liveness"},
		"PrimaryOldEpoch":  {"main", func(b *backend) { b.in.State.Primary.Epoch = epoch.Next() }, "/health /liveness"},
		"PrimaryOldReport": {"main", func(b *backend) { b.in.Self.SentAt = time.Now().Add(-5 * time.Second) }, "/liveness"},
		"PrimaryDead":      {"main", func(b *backend) { b.in.Self.SentAt = time.Now().Add(-time.Minute) }, ""},
		"NoReport":         {"main", func(b *backend) { b.in.Self = decide.Report{} }, ""},
		"Standby":          {"backup", func(*backend) {}, "/replica /replica?lag=1kB /read-only /sync /health /liveness /readiness"},
		"StandbyAsync":     {"backup", func(b *backend) { b.in.State.Policy.Durability = facts.Async }, "/replica /replica?lag=1kB /read-only /async /health /liveness /readiness"},
		"StandbyNoVote":    {"backup", func(b *backend) { b.in.State.Voters.Stores = []string{"s-main"} }, "/replica /replica?lag=1kB /read-only /async /health /liveness /readiness"},
		"StandbyDown":      {"backup", func(b *backend) { b.in.Self.Server.State = decide.ServerStarting }, "/liveness"},
		"StandbyAlone":     {"backup", func(b *backend) { b.in.Heard = nil; b.in.Self.Server.Streaming = false }, "/replica /read-only /sync /health /liveness"},
		"Seeding":          {"backup", func(b *backend) { b.in.Self.Role, b.in.Self.Server.State = decide.RoleSeeding, decide.ServerAbsent }, "/liveness"},
		"Witness":          {"witness", func(*backend) {}, "/liveness /readiness"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, tt.self)
			tt.edit(b)
			h := admin.Handler(b, admin.Options{})
			var ok []string
			for _, p := range paths {
				w := request(t, h, "GET", p, "")
				var doc admin.Health
				if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || (w.Code == 200) != (doc.Reason == "") {
					t.Errorf("%s: %d %s %v", p, w.Code, w.Body, err)
				}
				if w.Code == 200 {
					ok = append(ok, p)
				} else if w.Code != 503 {
					t.Errorf("%s: %d", p, w.Code)
				}
				if o := request(t, h, "OPTIONS", p, ""); o.Code != w.Code || o.Body.Len() != 0 {
					t.Errorf("OPTIONS %s: %d %q", p, o.Code, o.Body)
				}
				if hd := request(t, h, "HEAD", p, ""); hd.Code != w.Code {
					t.Errorf("HEAD %s: %d", p, hd.Code)
				}
			}
			if got := strings.Join(ok, " "); got != tt.want {
				t.Errorf("200 from\n%s, want\n%s", got, tt.want)
			}
		})
	}
	h := admin.Handler(newBackend(t, "backup"), admin.Options{})
	for _, bad := range []string{"x", "-1", "1PB", "99999999999999TB", "1.5MB"} {
		if w := request(t, h, "GET", "/replica?lag="+bad, ""); w.Code != 400 {
			t.Errorf("lag=%s: %d", bad, w.Code)
		}
	}
	if w := request(t, h, "POST", "/primary", ""); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestHandler_Cluster(t *testing.T) {
	b := newBackend(t, "main")
	h := admin.Handler(b, admin.Options{Ports: map[string]int{"main": 5432}})
	var c admin.ClusterReply
	if err := json.Unmarshal(request(t, h, "GET", "/cluster", "").Body.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c); got != "{[{main leader running http://10.0.0.1:7421/health 10.0.0.1 5432 2 <nil> <nil>} {backup sync_standby streaming  10.0.0.2 0 2 256 <nil>} {witness witness unknown  10.0.0.3 0 0 <nil> <nil>}] shop false <nil>}" {
		t.Errorf("got %s", got)
	}
}

func TestHandler_ClusterPauseScheduleAndTags(t *testing.T) {
	b := newBackend(t, "main")
	h := admin.Handler(b, admin.Options{})
	b.in.State.Policy = b.in.State.Policy.With("main", facts.NodePolicy{NoFailover: true}).With("backup", facts.NodePolicy{NoVote: true})
	b.in.State.Voters.Stores = []string{"s-main", "s-witness"}
	b.in.State.Policy.Paused = true
	b.in.State.Scheduled = &facts.Scheduled{ID: "s", To: "s-backup", At: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)}
	body := request(t, h, "GET", "/cluster", "").Body.String()
	for _, want := range []string{
		`"role":"leader","state":"running","api_url":"http://10.0.0.1:7421/health","host":"10.0.0.1","timeline":2,"tags":{"nofailover":true}}`,
		`"role":"replica"`, `"lag":256,"tags":{"nofailover":true,"nosync":true}}`,
		`"scope":"shop","pause":true,"scheduled_switchover":{"at":"2026-03-01T22:00:00Z","from":"main","to":"backup"}}`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	b.in.State.Policy.PausedUntil, b.in.State.Scheduled.To = time.Now().Add(-time.Second), ""
	if body := request(t, h, "GET", "/cluster", "").Body.String(); strings.Contains(body, "pause") || !strings.Contains(body, `"from":"main"}}`) {
		t.Errorf("got %s", body)
	}
}

func TestHandler_Incidents(t *testing.T) {
	b := newBackend(t, "main")
	h := admin.Handler(b, admin.Options{})
	if w := request(t, h, "GET", "/api/v1/incidents", ""); w.Code != 200 || w.Body.String() != `{"incidents":[]}`+"\n" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	at := func(min int) time.Time { return time.Date(2026, 3, 1, 12, min, 0, 0, time.UTC) }
	b.in.State.Incidents = map[string]facts.Incident{
		"old": {Key: "old", Severity: "warning", Text: "t", Since: at(1)}, "main/disk": {Key: "main/disk", Node: "main", Severity: "error", Text: "full", Since: at(5)},
		"over": {Key: "over", Severity: "error", Text: "t", Since: at(7), Until: at(9)}, "overer": {Key: "overer", Severity: "error", Text: "t", Since: at(2), Until: at(3)},
	}
	b.in.Self.Problems = map[string]string{"disk": "fuller", "clock": "jumps"}
	for query, want := range map[string]string{"": "clock main/disk old", "?all=false": "clock main/disk old", "?all=true": "clock main/disk old over overer", "?all=1": "clock main/disk old over overer"} {
		var got doc.Incidents
		if err := json.Unmarshal(request(t, h, "GET", "/api/v1/incidents"+query, "").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, i := range got.Incidents {
			keys = append(keys, i.Key)
			if i.Until.IsZero() == strings.HasPrefix(i.Key, "over") || i.Key == "main/disk" && (i.Node != "main" || i.Severity != "error" || !i.Since.Equal(at(5)) || i.Text != "full") {
				t.Errorf("%s: got %+v", query, i)
			}
		}
		if s := strings.Join(keys, " "); s != want {
			t.Errorf("%s: got %s, want %s", query, s, want)
		}
	}
	if w := request(t, h, "GET", "/api/v1/incidents?all=some", ""); w.Code != 400 {
		t.Errorf("got %d", w.Code)
	}
}

func TestHandler_HistoryForLoadBalancers(t *testing.T) {
	b := newBackend(t, "main")
	b.in.State.Lineage = append(b.in.State.Lineage, pos.Entry{Epoch: epoch.Next(), Timeline: 2, Start: 0x4000000}, pos.Entry{Epoch: pos.Epoch{Gen: 2, Num: 1}, Timeline: 19, Start: 0x5000000})
	h := admin.Handler(b, admin.Options{})
	b.changes = []doc.Change{{Epoch: epoch, To: "main", Cause: "main was silent", Opened: true,
		Phases: []doc.Phase{{Name: doc.PhaseEpoch}, {Name: doc.PhaseOpened, At: time.Date(2026, 3, 1, 13, 0, 0, 5e6, time.FixedZone("", 3600))}}}}
	// The second change is not recorded any more, and the one between kept its
	// timeline.
	const want = `[[1,50331648,"main was silent","2026-03-01T12:00:00.005Z","main"],[2,83886080,"epoch 2.1 went on with timeline 19",null,null]]` + "\n"
	if w := request(t, h, "GET", "/history", ""); w.Code != 200 || w.Body.String() != want {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	b.in.State.Lineage = nil
	if w := request(t, h, "GET", "/history", ""); w.Code != 200 || w.Body.String() != "[]\n" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestHandler_HistoryPlansExplain(t *testing.T) {
	b := newBackend(t, "main")
	h := admin.Handler(b, admin.Options{})
	check := func(path string, code int, want string) {
		t.Helper()
		if w := request(t, h, "GET", path, ""); w.Code != code || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	check("/api/v1/history", 200, `{"changes":[]}`)
	check("/api/v1/plans", 200, `{"plans":[]}`)
	check("/api/v1/explain", 404, `{"code":"unknown-plan","error":"No such decision."}`)
	b.changes = []doc.Change{{ID: "1.3"}, {ID: "1.4"}}
	b.plans = []doc.PlanLine{{ID: "a&b", Rule: "first"}, {ID: "c", Rule: "second"}}
	check("/api/v1/history", 200, `"id":"1.4"`)
	check("/api/v1/plans", 200, `"id":"c"`)
	check("/api/v1/explain", 200, `"rule":"first"`)
	check("/api/v1/explain?plan=c", 200, `"rule":"second","rule_meaning":"","why":"","evidence":[],"rejected":[],"actions":[]}`)
	check("/api/v1/explain?plan=a%26b", 200, `"rule":"first"`)
	check("/api/v1/explain?plan=d", 404, "unknown-plan")
	b.readErr = errors.New("the ledger is not read yet")
	for _, path := range []string{"/api/v1/history", "/api/v1/plans", "/api/v1/explain", "/history"} {
		check(path, 503, `{"code":"unavailable","error":"the ledger is not read yet"}`)
	}
	b.readErr = &admin.ActionError{Code: admin.CodeRefused, Text: "Not now."}
	for _, path := range []string{"/api/v1/history", "/api/v1/plans", "/api/v1/explain", "/history"} {
		check(path, 409, "Not now.")
		if w := request(t, h, "POST", path, ""); w.Code != 405 {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestHandler_Metrics(t *testing.T) {
	b := newBackend(t, "main")
	b.in.State.Incidents = map[string]facts.Incident{"x": {Key: "x", Severity: "error", Text: "bad"}}
	b.in.State.Policy.Paused = true
	b.in.Self.Hears = []decide.Hears{{Node: "backup", Ago: 250 * time.Millisecond}}
	w := request(t, admin.Handler(b, admin.Options{}), "GET", "/metrics", "")
	for _, want := range []string{
		"understudy_epoch_number 4\n", "understudy_committed_lsn 8.3886336e+07\n", `understudy_node_is_primary{node="main"} 1` + "\n",
		`understudy_node_apply_lag_bytes{node="backup"} 256` + "\n", `understudy_node_link_up{node="backup"} 1` + "\n",
		`understudy_node_up{node="witness"} 0` + "\n", `understudy_incidents{severity="error"} 1` + "\n", `understudy_safety{level="degraded"} 1` + "\n",
		"understudy_paused 1\n", "understudy_failover_ready 0\n", `understudy_hears_age_seconds{node="main",peer="backup"} 0.25` + "\n", `understudy_node_failing{node="main"} 0` + "\n",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	// The format: a metric's help and type once, before all its samples.
	seen, current := map[string]bool{}, ""
	for line := range strings.Lines(w.Body.String()) {
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			current, _, _ = strings.Cut(name, " ")
			if seen[current] {
				t.Errorf("%s twice", current)
			}
			seen[current] = true
		} else if !strings.HasPrefix(line, "# TYPE "+current+" gauge") && !strings.HasPrefix(line, current+" ") && !strings.HasPrefix(line, current+"{") {
			t.Errorf("line %q under %s", line, current)
		}
	}
}

func TestHandler_Do(t *testing.T) {
	b := newBackend(t, "main")
	if w := request(t, admin.Handler(b, admin.Options{}), "POST", "/api/v1/do/stop", "{}"); w.Code != 403 || len(b.did) != 0 {
		t.Errorf("read-only: %d, did %v", w.Code, b.did)
	}
	h := admin.Handler(b, admin.Options{Writable: true})
	if w := request(t, h, "POST", "/api/v1/do/stop", `{"mode":"fast"}`); w.Code != 200 || w.Body.String() != `{"done":"stop"}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := request(t, h, "POST", "/api/v1/do/stop", ""); w.Code != 200 {
		t.Errorf("empty body: %d", w.Code)
	}
	for _, body := range []string{"[1]", `{"a":1}`, "x", `{"a":"` + strings.Repeat("x", 70<<10) + `"}`} {
		if w := request(t, h, "POST", "/api/v1/do/stop", body); w.Code != 400 {
			t.Errorf("%.10s: %d", body, w.Code)
		}
	}
	for code, want := range map[string]int{admin.CodeUnknownAction: 404, admin.CodeBadArgument: 400, admin.CodeRefused: 409} {
		b.doErr = fmt.Errorf("wrapped: %w", &admin.ActionError{Code: code, Text: "No."})
		if w := request(t, h, "POST", "/api/v1/do/x", "{}"); w.Code != want || !strings.Contains(w.Body.String(), `"error":"No."`) {
			t.Errorf("%s: %d %s", code, w.Code, w.Body)
		}
	}
	if w := request(t, h, "GET", "/api/v1/do/stop", ""); w.Code == 200 {
		t.Error("GET did something")
	}
}

func TestHandler_StatusAndEvents(t *testing.T) {
	b := newBackend(t, "main")
	h := admin.Handler(b, admin.Options{})
	var st view.Status
	if err := json.Unmarshal(request(t, h, "GET", "/api/v1/status", "").Body.Bytes(), &st); err != nil || st.Group.Primary != "main" || len(st.Nodes) != 3 {
		t.Errorf("got %+v, %v", st, err)
	}
	for range 5 {
		b.log.Add(eventlog.Event{Kind: "k"})
	}
	for query, want := range map[string]string{"": "1 5 5 false", "?since=3": "1 5 2 false", "?since=1&max=2": "1 5 2 false", "?since=99": "1 5 0 true"} {
		var r admin.EventsReply
		if err := json.Unmarshal(request(t, h, "GET", "/api/v1/events"+query, "").Body.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(r.Oldest, r.Last, len(r.Events), r.Gap); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	if w := request(t, h, "GET", "/api/v1/events?since=x", ""); w.Code != 400 {
		t.Errorf("got %d", w.Code)
	}
}
