package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// pauser is a daemon that answers pause and resume.
type pauser struct {
	backend
	mu     sync.Mutex
	did    []string
	answer doc.Pause
	err    error
}

func (b *pauser) Do(_ context.Context, action string, args map[string]string) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, strings.TrimSpace(action+" "+args["for"]))
	return b.answer, b.err
}

func TestPauseAndResume(t *testing.T) {
	config, socket, _ := nodeFile(t)
	b := &pauser{}
	serve(t, socket, admin.Handler(b, admin.Options{Writable: true}))
	auto := doc.Pause{Mode: "automatic", Version: 5}
	with := func(edit func(*doc.Pause)) doc.Pause { p := auto; edit(&p); return p }
	for _, tt := range []struct {
		args   []string
		answer doc.Pause
		did    string
		want   string
	}{
		{[]string{"pause"}, with(func(p *doc.Pause) { p.Paused, p.Changed = true, true }), "pause",
			"Automatic failover is paused until understudy resume. Switchover and failover still work by command.\n"},
		{[]string{"pause", "--for", "2h"}, with(func(p *doc.Pause) { p.Paused, p.Changed, p.Until = true, true, start.Add(2*time.Hour) }), "pause 2h0m0s",
			"Automatic failover is paused until 2026-03-01 14:00:00, or understudy resume. Switchover and failover still work by command.\n"},
		{[]string{"pause"}, with(func(p *doc.Pause) { p.Paused = true }), "pause", "Automatic failover was paused already, until understudy resume.\n"},
		{[]string{"resume"}, with(func(p *doc.Pause) { p.Changed = true }), "resume", "Automatic failover is no longer paused.\n"},
		{[]string{"resume"}, with(func(p *doc.Pause) { p.Mode = "manual" }), "resume",
			"Automatic failover was not paused.\nThe policy says failover: manual, so nothing is done by itself in any case.\n"},
	} {
		b.answer, b.did = tt.answer, nil
		var out buffer
		if err := run(t.Context(), &out, append(tt.args, "--config", config)...); err != nil || out.String() != tt.want || strings.Join(b.did, ";") != tt.did {
			t.Errorf("%v: %v, did %v, said %q", tt.args, err, b.did, out.String())
		}
		out = buffer{}
		var got doc.Pause
		if err := run(t.Context(), &out, append(tt.args, "--json", "--config", config)...); err != nil || json.Unmarshal([]byte(out.String()), &got) != nil || !got.Until.Equal(tt.answer.Until) || got.Paused != tt.answer.Paused {
			t.Errorf("%v: %v, said %q", tt.args, err, out.String())
		}
	}
	b.err = &admin.ActionError{Code: admin.CodeRefused, Text: "The ledger has no leader."}
	for _, verb := range []string{"pause", "resume"} {
		if err := run(t.Context(), io.Discard, verb, "--config", config); cli.Code(err) != cli.ExitRefused {
			t.Errorf("%s: %v", verb, err)
		}
	}
	for _, d := range []string{"0", "-1h", "x", "9000h"} {
		if err := run(t.Context(), io.Discard, "pause", "--for", d, "--config", config); cli.Code(err) != cli.ExitUsage {
			t.Errorf("--for %s: %v", d, err)
		}
	}
}

func TestSwitchover_Scheduled(t *testing.T) {
	reply := func(action string, args map[string]string) (doc.OrderReply, error) {
		return doc.OrderReply{Kind: action, Started: true, Steps: []string{"At 22:00 a switchover begins.", "Now it would be refused: no\x1b."},
			Scheduled: &doc.Scheduled{ID: "x", To: args["to"], At: start, Until: start.Add(time.Minute)}}, nil
	}
	const said = "At 22:00 a switchover begins.\nNow it would be refused: no .\n"
	for _, tt := range []struct{ args, did string }{
		{"--to backup --at 22:00", "schedule at=22:00 to=backup"},
		{"--at +30m --within 5m", "schedule at=+30m within=5m0s"},
		{"--at 2026-03-01T22:00:00Z --within 0s", "schedule at=2026-03-01T22:00:00Z within=0s"},
		{"--at 22:00 --dry-run", "schedule at=22:00 dry_run=true"},
		{"--cancel", "unschedule"},
	} {
		g := &group{reply: reply}
		config := g.begin(t)
		args := append([]string{"switchover", "--config", config}, strings.Fields(tt.args)...)
		var out buffer
		if err := run(t.Context(), &out, args...); err != nil || g.orders() != tt.did || out.String() != said {
			t.Errorf("%s: %v, did %s, said %q", tt.args, err, g.orders(), out.String())
		}
		out = buffer{}
		var got doc.OrderReply
		if err := run(t.Context(), &out, append(args, "--json")...); err != nil || json.Unmarshal([]byte(out.String()), &got) != nil || got.Scheduled == nil {
			t.Errorf("%s: %v in %s", tt.args, err, out.String())
		}
	}
	config, _, _ := nodeFile(t)
	for args, want := range map[string]string{
		"--at=": "--at needs a time", "--cancel --at 22:00": "no other flag", "--cancel --to backup": "no other flag", "--cancel --dry-run": "no other flag",
		"--within 5m": "--within needs --at", "--at 22:00 --within -1m": "negative", "--at 22:00 --within soon": "within",
	} {
		err := run(t.Context(), io.Discard, append([]string{"switchover", "--config", config}, strings.Fields(args)...)...)
		if cli.Code(err) != cli.ExitUsage || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %d %v", args, cli.Code(err), err)
		}
	}
	for code, refuse := range map[int]string{cli.ExitRefused: admin.CodeRefused, cli.ExitUsage: admin.CodeBadArgument} {
		g := &group{reply: func(string, map[string]string) (doc.OrderReply, error) {
			return doc.OrderReply{}, &admin.ActionError{Code: refuse, Text: "No."}
		}}
		config := g.begin(t)
		for _, args := range []string{"--at 22:00", "--cancel", "--at 22:00 --dry-run"} {
			if err := run(t.Context(), io.Discard, append([]string{"switchover", "--config", config}, strings.Fields(args)...)...); cli.Code(err) != code {
				t.Errorf("%s: got %d, want %d", args, cli.Code(err), code)
			}
		}
	}
}

// troubled is a group with incidents.
type troubled struct{ backend }

func (troubled) input() view.Input {
	in := view.Input{Now: start, Self: decide.Report{Node: "main", Store: "s", Problems: map[string]string{"clock": "The clock jumps.\x1b[31m"}}}
	in.State.Group = facts.Group{ID: "g", Name: "shop"}
	in.State.Members = map[string]facts.Member{"s": {Name: "main", Store: "s", Kind: facts.KindData}}
	in.State.Incidents = map[string]facts.Incident{
		"a": {Key: "a", Severity: "error", Text: "No primary.", Since: start.Add(-time.Hour)},
		"b": {Key: "b", Severity: "warning", Node: "main", Text: "It is late.", Since: start.Add(-2 * time.Hour), Until: start.Add(-time.Minute)},
	}
	return in
}

func (b troubled) Status(context.Context) (view.Status, error) { return view.Build(b.input()), nil }
func (b troubled) Self() (facts.State, decide.Report)          { return b.input().State, b.input().Self }

func TestIncidents(t *testing.T) {
	config, socket, _ := nodeFile(t)
	serve(t, socket, admin.Handler(troubled{}, admin.Options{}))
	for name, args := range map[string][]string{"incidents.txt": nil, "incidents-all.txt": {"--all"}} {
		var out buffer
		if err := run(t.Context(), &out, append([]string{"incidents", "--config", config}, args...)...); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
		out = buffer{}
		var got doc.Incidents
		if err := run(t.Context(), &out, append([]string{"incidents", "--json", "--config", config}, args...)...); err != nil || json.Unmarshal([]byte(out.String()), &got) != nil || len(got.Incidents) != 2+len(args) {
			t.Errorf("%v in %s", err, out.String())
		}
	}
	quiet, _ := daemon(t)
	var out buffer
	if err := run(t.Context(), &out, "incidents", "--config", quiet); err != nil || out.String() != "No incident is standing.\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
