package view_test

import (
	"slices"

	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // golden files name times
	os.Exit(m.Run())
}

var update = flag.Bool("update", false, "write the golden files")

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	epoch = pos.Epoch{Gen: 1, Num: 4}
)

// healthy is a group of three as backup sees it.
func healthy() view.Input {
	member := func(name string, kind facts.Kind) facts.Member {
		return facts.Member{Name: name, Store: "s-" + name, Kind: kind, Address: name + ":7420", HTTP: name + ":7421", LedgerVoter: true, Seeded: kind == facts.KindData}
	}
	in := view.Input{Now: now, LedgerLeader: "witness", Heard: map[string]decide.Heard{}}
	in.State = facts.State{
		Group:   facts.Group{ID: "g1", Name: "shop"},
		Members: map[string]facts.Member{"s-main": member("main", facts.KindData), "s-backup": member("backup", facts.KindData), "s-witness": member("witness", facts.KindWitness)},
		Voters:  facts.Voters{Version: 3, Confirmed: 3, Stores: []string{"s-backup", "s-main", "s-witness"}},
		Primary: facts.Primaryship{Epoch: epoch, Phase: facts.PhaseOpened, Store: "s-main", Node: "main", Timeline: 2},
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 0x1000000}, {Epoch: epoch, Timeline: 2, Start: 0x3000000}},
		Policy:  facts.DefaultPolicy(),
	}
	report := func(name, kind string, role decide.Role, state decide.ServerState) decide.Report {
		return decide.Report{
			Node: name, Store: "s-" + name, Kind: kind, Version: "1.0", Role: role, Epoch: epoch, Fence: epoch, Timeline: 2,
			Received: 0x5000100, Durable: 0x5000100, Applied: 0x5000100, Committed: 0x5000100, SentAt: now,
			Server: decide.Server{State: state, Major: 17, Streaming: state == decide.ServerReplica},
		}
	}
	main := report("main", "data", decide.RolePrimary, decide.ServerOpen)
	main.Links = []decide.Link{{Peer: "backup", State: "streaming", RTT: time.Millisecond}, {Peer: "witness", State: "streaming", RTT: 2 * time.Millisecond}}
	witness := report("witness", "witness", decide.RoleWitness, decide.ServerAbsent)
	witness.Applied = 0
	in.Self = report("backup", "data", decide.RoleStandby, decide.ServerReplica)
	in.Heard["main"] = decide.Heard{Report: main, At: now.Add(-50 * time.Millisecond)}
	in.Heard["witness"] = decide.Heard{Report: witness, At: now.Add(-80 * time.Millisecond)}
	return in
}

// change edits the report of a node, its own included.
func change(in *view.Input, node string, f func(*decide.Report)) {
	if in.Self.Node == node {
		f(&in.Self)
		return
	}
	h := in.Heard[node]
	f(&h.Report)
	in.Heard[node] = h
}

func silence(in *view.Input, node string, d time.Duration) {
	h := in.Heard[node]
	h.At = now.Add(-d)
	in.Heard[node] = h
	link(in, node, "connecting")
}

// delay makes main say how far behind a peer is in time.
func delay(in *view.Input, peer string, d time.Duration) {
	h := in.Heard["main"]
	h.Report.Links = slices.Clone(h.Report.Links)
	for i := range h.Report.Links {
		if h.Report.Links[i].Peer == peer {
			h.Report.Links[i].Delay = d
		}
	}
	in.Heard["main"] = h
}

func link(in *view.Input, peer, state string) {
	change(in, "main", func(r *decide.Report) {
		links := append([]decide.Link(nil), r.Links...)
		for i := range links {
			if links[i].Peer == peer {
				links[i].State = state
			}
		}
		r.Links = links
	})
}

func member(in *view.Input, node string, f func(*facts.Member)) {
	m := in.State.Members["s-"+node]
	f(&m)
	in.State.Members["s-"+node] = m
}

// asMain makes main the node whose view it is.
func asMain(in *view.Input) {
	in.Heard["backup"] = decide.Heard{Report: in.Self, At: now.Add(-20 * time.Millisecond)}
	in.Self = in.Heard["main"].Report
	delete(in.Heard, "main")
}

var scenarios = []struct {
	name  string
	level view.Level
	rule  string
	edit  func(*view.Input)
}{
	{"Healthy", view.LevelSafe, "safe", func(*view.Input) {}},
	{"NoGroup", view.LevelStopped, "no-group", func(in *view.Input) { in.State = facts.State{}; in.Heard = nil; in.Self.Role = decide.RoleNone }},
	{"Founded", view.LevelStopped, "no-epoch", func(in *view.Input) { in.State.Primary = facts.Primaryship{Phase: facts.PhaseNone} }},
	{"Fencing", view.LevelStopped, "fencing", func(in *view.Input) {
		silence(in, "main", 3*time.Second)
		e := epoch.Next()
		in.State.Primary = facts.Primaryship{Epoch: e, Phase: facts.PhaseFencing, Fence: map[string]facts.FenceReport{"s-backup": {Epoch: e}}}
	}},
	{"Promoting", view.LevelStopped, "taking-over", func(in *view.Input) {
		silence(in, "main", 3*time.Second)
		in.State.Primary = facts.Primaryship{Epoch: epoch.Next(), Phase: facts.PhasePromoting, Store: "s-backup", Node: "backup", Timeline: 3}
		in.Self.Role = decide.RolePrimary
	}},
	{"Restarting", view.LevelStopped, "primary-restarting", func(in *view.Input) {
		silence(in, "main", 2*time.Second)
		in.State.Leaving = map[string]facts.Leaving{"s-main": {Store: "s-main", Kind: facts.LeavingRestarting, Until: now.Add(8 * time.Second)}}
	}},
	{"PrimarySilent", view.LevelStopped, "primary-silent", func(in *view.Input) { silence(in, "main", 3*time.Second) }},
	{"PrimaryLocked", view.LevelStopped, "primary-closed", func(in *view.Input) {
		change(in, "main", func(r *decide.Report) { r.Server.State = decide.ServerLocked })
	}},
	{"PrimaryFailed", view.LevelStopped, "primary-closed", func(in *view.Input) {
		change(in, "main", func(r *decide.Report) {
			r.Server = decide.Server{State: decide.ServerFailed, Problem: "could not read pg_control"}
		})
	}},
	{"PrimaryOfOlderEpoch", view.LevelStopped, "primary-closed", func(in *view.Input) {
		change(in, "main", func(r *decide.Report) { r.Epoch = pos.Epoch{Gen: 1, Num: 3} })
	}},
	{"CommitsWait", view.LevelStopped, "commits-wait", func(in *view.Input) {
		asMain(in)
		silence(in, "backup", 40*time.Second)
		silence(in, "witness", 5*time.Minute)
	}},
	{"CommitsWaitLinks", view.LevelStopped, "commits-wait", func(in *view.Input) {
		link(in, "backup", "refused")
		link(in, "witness", "connecting")
	}},
	{"NoStandby", view.LevelUnprotected, "no-standby", func(in *view.Input) {
		asMain(in)
		delete(in.State.Members, "s-backup")
		in.State.Voters.Stores = []string{"s-main", "s-witness"}
	}},
	{"Seeding", view.LevelUnprotected, "not-seeded", func(in *view.Input) {
		member(in, "backup", func(m *facts.Member) { m.Seeded = false })
		in.State.Voters.Stores = []string{"s-main", "s-witness"}
		in.Self.Role, in.Self.Server.State, in.Self.Applied = decide.RoleSeeding, decide.ServerAbsent, 0
		in.Self.Seed = &decide.Seed{Step: "copying", DoneBytes: 415 << 20, TotalBytes: 1000 << 20, Attempt: 2, Problem: "connection reset by peer"}
	}},
	{"SeedingCheckpoint", view.LevelUnprotected, "not-seeded", func(in *view.Input) {
		member(in, "backup", func(m *facts.Member) { m.Seeded = false })
		in.Self.Role, in.Self.Seed = decide.RoleSeeding, &decide.Seed{Step: "checkpoint"}
	}},
	{"NotSeededAway", view.LevelUnprotected, "not-seeded", func(in *view.Input) {
		asMain(in)
		member(in, "backup", func(m *facts.Member) { m.Seeded = false })
		delete(in.Heard, "backup")
	}},
	{"Alone", view.LevelUnprotected, "alone", func(in *view.Input) {
		asMain(in)
		delete(in.State.Members, "s-witness")
		in.State.Voters.Stores = []string{"s-main"}
		silence(in, "backup", 90*time.Minute)
	}},
	{"Async", view.LevelDegraded, "async", func(in *view.Input) {
		in.State.Policy.Durability = facts.Async
		in.Self.Durable, in.Self.Applied = 0x4F00000, 0x4E00000
		delay(in, "backup", 400*time.Millisecond)
	}},
	{"AsyncNobodyFollows", view.LevelDegraded, "async", func(in *view.Input) {
		in.State.Policy.Durability = facts.Async
		link(in, "backup", "connecting")
	}},
	{"WitnessAway", view.LevelDegraded, "no-spare", func(in *view.Input) { silence(in, "witness", 12*time.Second) }},
	{"BackupAway", view.LevelDegraded, "no-spare", func(in *view.Input) {
		asMain(in)
		silence(in, "backup", 3*time.Hour)
	}},
	{"BackupCatchesUp", view.LevelDegraded, "no-spare", func(in *view.Input) {
		link(in, "backup", "catching up")
		in.Self.Durable, in.Self.Applied = 0x4000000, 0x3900000
		delay(in, "backup", 75*time.Second)
	}},
	{"FiveVotersOneAway", view.LevelDegraded, "voter-away", func(in *view.Input) {
		fiveVoters(in)
		silence(in, "witness", 12*time.Second)
	}},
	{"FiveVoters", view.LevelSafe, "safe", fiveVoters},
	{"StandbyServerFailed", view.LevelDegraded, "no-successor", func(in *view.Input) {
		in.Self.Server = decide.Server{State: decide.ServerFailed, Problem: "max_connections is below the primary's"}
	}},
	{"Pair", view.LevelSafe, "safe", func(in *view.Input) {
		delete(in.State.Members, "s-witness")
		in.State.Voters.Stores = []string{"s-backup", "s-main"}
	}},
	{"OtherStore", view.LevelDegraded, "no-spare", func(in *view.Input) {
		change(in, "witness", func(r *decide.Report) { r.Store = "s-new" })
		link(in, "witness", "refused")
	}},
	{"Paused", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy.Paused, in.State.Policy.PausedUntil = true, now.Add(80*time.Minute)
	}},
	{"PauseOver", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy.Paused, in.State.Policy.PausedUntil = true, now.Add(-time.Minute)
	}},
	{"Observe", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy.Failover = facts.FailoverObserve
		in.State.Scheduled = &facts.Scheduled{ID: "s", To: "s-backup", At: now.Add(10 * time.Hour), Until: now.Add(11 * time.Hour)}
	}},
	{"Manual", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy.Failover = facts.FailoverManual
		in.State.Scheduled = &facts.Scheduled{ID: "s", At: now.Add(-time.Minute), Until: now.Add(9 * time.Minute)}
	}},
	{"NodePolicies", view.LevelDegraded, "no-successor", func(in *view.Input) {
		in.State.Policy = in.State.Policy.With("backup", facts.NodePolicy{NoFailover: true, NoVote: true, ApplyDelay: time.Hour}).With("main", facts.NodePolicy{Priority: 10})
		in.State.Voters.Stores = []string{"s-main", "s-witness"}
		in.Self.Applied = 0x4000100
	}},
	{"NoFailover", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy = in.State.Policy.With("backup", facts.NodePolicy{NoFailover: true})
	}},
	{"Failing", view.LevelStopped, "primary-failing", func(in *view.Input) {
		change(in, "main", func(r *decide.Report) {
			r.Server.Failing, r.Server.FailingFor = "the disk of its data directory answers nothing", 3*time.Second
		})
	}},
	{"StandbyFailing", view.LevelDegraded, "no-successor", func(in *view.Input) {
		in.Self.Server.Failing, in.Self.Server.FailingFor = "the disk of its data directory is full", 3*time.Second
	}},
	{"NotHeard", view.LevelStopped, "primary-silent", func(in *view.Input) {
		silence(in, "main", 2*time.Second)
		in.Self.Hears = []decide.Hears{{Node: "witness", Ago: 90 * time.Millisecond}, {Node: "main", Ago: 2 * time.Second, Gone: true, Refusals: 3}, {Node: "stranger", Gone: true}}
		change(in, "witness", func(r *decide.Report) {
			r.Hears = []decide.Hears{{Node: "backup", Ago: 1100 * time.Millisecond}, {Node: "main", Gone: true}}
		})
		change(in, "main", func(r *decide.Report) { r.Hears = []decide.Hears{{Node: "backup", Gone: true}} }) // said long ago
	}},
	{"LedgerVotesAway", view.LevelSafe, "safe", func(in *view.Input) {
		for _, n := range []string{"backup", "witness"} {
			member(in, n, func(m *facts.Member) { m.LedgerVoter = false })
		}
	}},
	{"NoLeader", view.LevelSafe, "safe", func(in *view.Input) { in.LedgerLeader = "" }},
	{"Incidents", view.LevelSafe, "safe", func(in *view.Input) {
		in.State.Policy.Paused = true
		in.State.Incidents = map[string]facts.Incident{
			"a":           {Key: "cannot-fail-over", Node: "backup", Severity: facts.SeverityError, Text: "backup needs a re-seed.", Since: now.Add(-time.Hour)},
			"backup/disk": {Key: "backup/disk", Node: "backup", Severity: facts.SeverityError, Text: "The disk of the spool is 90 % full.", Since: now.Add(-time.Minute)},
			"b":           {Key: "over", Severity: facts.SeverityWarning, Text: "long over", Until: now.Add(-time.Minute)},
		}
		in.Self.Problems = map[string]string{"disk": "The disk of the spool is 91 % full.", "clock": "The clock jumps.\x1b[31m",
			decide.Advice + "unlogged": "Table t is not logged."}
	}},
}

func fiveVoters(in *view.Input) {
	for _, name := range []string{"north", "south"} {
		in.State.Members["s-"+name] = facts.Member{Name: name, Store: "s-" + name, Kind: facts.KindWitness, LedgerVoter: true}
		in.State.Voters.Stores = append(in.State.Voters.Stores, "s-"+name)
		r := in.Heard["witness"].Report
		r.Node, r.Store = name, "s-"+name
		in.Heard[name] = decide.Heard{Report: r, At: now}
		change(in, "main", func(r *decide.Report) { r.Links = append(r.Links, decide.Link{Peer: name, State: "streaming"}) })
	}
}

func TestBuild_Golden(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			in := healthy()
			sc.edit(&in)
			st := view.Build(in)
			if st.Group.Safe.Level != sc.level || st.Group.Safe.Rule != sc.rule {
				t.Errorf("got %+v, want %s by rule %s", st.Group.Safe, sc.level, sc.rule)
			}
			var b bytes.Buffer
			if err := view.Render(&b, st, 100, false); err != nil {
				t.Fatal(err)
			}
			golden(t, sc.name+".txt", b.Bytes())
		})
	}
}

func TestBuild_DocumentGolden(t *testing.T) {
	in := healthy()
	silence(&in, "witness", 12*time.Second)
	b, err := json.MarshalIndent(view.Build(in), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "document.json", append(b, '\n'))
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
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// Status documents of members in every state: what is said of automatic failover
// is what the scenario allows.
func TestBuild_FailoverReady(t *testing.T) {
	reasons := map[string]string{
		"NoGroup": view.NotFounded, "Founded": view.NotChanging, "Fencing": view.NotChanging, "Promoting": view.NotChanging,
		"CommitsWait": view.NotNoStandby, "CommitsWaitLinks": "", "NoStandby": view.NotNoStandby, "Seeding": view.NotNoStandby, "SeedingCheckpoint": view.NotNoStandby,
		"NotSeededAway": view.NotNoStandby, "Alone": view.NotPair, "Pair": view.NotPair, "BackupAway": view.NotNoStandby, "StandbyServerFailed": view.NotNoStandby,
		"WitnessAway": view.NotNoMajority, "OtherStore": view.NotNoMajority, "Paused": view.NotPaused, "Observe": view.NotObserve, "Manual": view.NotManual,
		"Incidents": view.NotPaused, "NodePolicies": view.NotNoStandby, "NoFailover": view.NotNoStandby, "StandbyFailing": view.NotNoStandby,
		"LedgerVotesAway": view.NotNoMajority, "NoLeader": view.NotNoMajority,
	}
	for _, sc := range scenarios {
		in := healthy()
		sc.edit(&in)
		g := view.Build(in).Group
		f := g.Failover
		if f.Reason != reasons[sc.name] || f.Ready != (f.Reason == "") {
			t.Errorf("%s: got %+v, want %q", sc.name, f, reasons[sc.name])
		}
		if f.Ready && (len(f.Candidates) == 0 || g.Paused) || !strings.HasSuffix(f.Sentence, ".") || strings.Contains(f.Sentence, "..") || strings.Contains(g.Safe.Sentence, "by itself") {
			t.Errorf("%s: got %+v, %s", sc.name, f, g.Safe.Sentence)
		}
		if g.Paused != (f.Reason == view.NotPaused) {
			t.Errorf("%s: paused %v", sc.name, g.Paused)
		}
	}
}

// Whatever is heard: never a crash, never "safe" without a seeded standby and
// an acknowledging majority, and one answer per input.
func TestBuild_NeverSafeByMistake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := healthy()
		for range rapid.IntRange(0, 4).Draw(t, "edits") {
			i := rapid.IntRange(0, len(scenarios)-1).Draw(t, "edit")
			if n := scenarios[i].name; n == "FiveVoters" || n == "FiveVotersOneAway" || in.State.Members == nil || in.Heard == nil || in.Self.Node == "main" {
				continue
			}
			scenarios[i].edit(&in)
		}
		st := view.Build(in)
		if diff := cmp.Diff(st, view.Build(in)); diff != "" {
			t.Fatal(diff)
		}
		if s := st.Group.Safe.Sentence; !strings.HasSuffix(s, ".") || strings.Contains(s, "%!") || strings.Contains(s, "  ") {
			t.Fatalf("sentence %q", s)
		}
		if st.Group.Safe.Level == view.LevelSafe {
			seeded, streaming := false, 0
			for _, n := range st.Nodes {
				seeded = seeded || n.Seeded && n.Name != st.Group.Primary
				if n.WALVoter && (n.Link.State == "streaming" || n.Name == st.Group.Primary) {
					streaming++
				}
			}
			if !seeded || !st.Group.Protected || streaming < st.Group.MustAcknowledge.Needed {
				t.Fatalf("%+v", st)
			}
		}
		for _, width := range []int{0, 1, 80} {
			if err := view.Render(&bytes.Buffer{}, st, width, true); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRender_NoForeignEscapes(t *testing.T) {
	in := healthy()
	scenarios[len(scenarios)-1].edit(&in)
	var b bytes.Buffer
	if err := view.Render(&b, view.Build(in), 80, false); err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsRune(b.Bytes(), 0x1b) {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	if err := view.Render(&b, view.Build(in), 80, true); err != nil || !strings.Contains(b.String(), "\x1b[32mSafe") {
		t.Errorf("no colour: %q", b.String())
	}
}
