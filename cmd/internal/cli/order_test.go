package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	after = pos.Epoch{Gen: 1, Num: 6}
)

const statement = "If main still runs, everything it acknowledged after 12:00:07 is lost."

// group is a daemon that takes orders and plays a history after them.
type group struct {
	backend
	mu    sync.Mutex
	reply func(action string, args map[string]string) (doc.OrderReply, error)
	did   []string // orders, dry runs marked
	// play are the histories after a started order, one a question, the last
	// for ever; nil fails the question.
	play    []*doc.History
	started bool
	primary string // in epoch 1.6 or, once another one opened, in its epoch
	explain map[string]doc.Explanation
	plans   doc.Plans
}

func (g *group) Do(_ context.Context, action string, args map[string]string) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(args)) {
		parts = append(parts, k+"="+args[k])
	}
	g.did = append(g.did, strings.Join(append([]string{action}, parts...), " "))
	r, err := g.reply(action, args)
	if args["dry_run"] != "" {
		r.Started = false
	}
	g.started = g.started || r.Started
	return r, err
}

func (g *group) History(context.Context) (doc.History, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.play[0]
	if g.started && len(g.play) > 1 {
		g.play = g.play[1:]
	}
	if h == nil {
		return doc.History{}, errors.New("not now")
	}
	return *h, nil
}

func (g *group) Plans(context.Context) (doc.Plans, error) { return g.plans, nil }

func (g *group) Explain(_ context.Context, id string) (doc.Explanation, error) {
	e, ok := g.explain[id]
	if !ok {
		return e, &admin.ActionError{Code: admin.CodeUnknownPlan, Text: "No decision " + id + " is stored."}
	}
	return e, nil
}

func (g *group) Status(context.Context) (view.Status, error) {
	in := view.Input{Now: start, Self: decide.Report{Node: "main"}}
	in.State.Group = facts.Group{ID: "g", Name: "shop"}
	in.State.Primary = facts.Primaryship{Epoch: after, Phase: facts.PhaseOpened, Node: g.primary, Store: "s"}
	if g.primary == "" {
		in.State.Primary.Phase = facts.PhaseFencing
	} else {
		in.State.Members = map[string]facts.Member{"s": {Name: g.primary, Store: "s", Kind: facts.KindData}}
	}
	return view.Build(in), nil
}

func (g *group) orders() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.did, "\n")
}

// begin serves the group on a node's socket.
func (g *group) begin(t *testing.T) (config string) {
	t.Helper()
	config, socket, _ := nodeFile(t)
	if g.reply == nil {
		g.reply = func(action string, args map[string]string) (doc.OrderReply, error) {
			r := doc.OrderReply{ID: "o1", Kind: action, From: "main", To: "backup", Started: true, After: after,
				Steps: []string{"Clients of main are shut out and its PostgreSQL is stopped.", "backup takes over with everything main had."}}
			if args["force"] != "" {
				r.Statement = statement
				r.Started = args["confirm"] == statement
			}
			return r, nil
		}
	}
	if g.play == nil {
		g.play = []*doc.History{{}}
	}
	serve(t, socket, admin.Handler(g, admin.Options{Writable: true}))
	return config
}

func runWith(ctx context.Context, opts cli.Options, args ...string) error {
	root := &cobra.Command{Use: "understudy"}
	root.AddCommand(cli.Commands(opts)...)
	cli.Prepare(root)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

// change is one to node in epoch 1.num with phases of the names, 30 ms apart.
func change(num uint64, to string, phases ...string) doc.Change {
	c := doc.Change{Epoch: pos.Epoch{Gen: 1, Num: num}, Kind: doc.KindSwitchover, From: "main", To: to, Cause: "ordered by the operator", Timeline: 3, Start: 0x3000148}
	c.ID = c.Epoch.String()
	for i, name := range phases {
		d := time.Duration(i) * 30 * time.Millisecond
		c.Phases = append(c.Phases, doc.Phase{Name: name, Node: to, At: start.Add(d), AfterNS: d.Nanoseconds()})
		c.Opened = c.Opened || name == doc.PhaseOpened
	}
	return c
}

// proven adds a proof by the old primary itself.
func proven(c doc.Change) doc.Change {
	c.Proof = &doc.Proof{Heard: 0x3000100, Bound: 0x3000148, Promoted: 0x3000148, Sentence: "Nothing acknowledged was lost: everything up to 0/3000148 is there."}
	return c
}

var allPhases = []string{doc.PhaseOrdered, doc.PhaseFrozen, doc.PhaseStopped, doc.PhaseEpoch, doc.PhaseFenced, doc.PhaseAssigned, doc.PhaseReplayed, doc.PhasePromoting, doc.PhasePromoted, doc.PhaseOpened}

// growing are the histories of a change phase by phase, after an older one.
func growing(full doc.Change) []*doc.History {
	older := change(6, "main", allPhases...)
	out := []*doc.History{{Changes: []doc.Change{older}, Order: "o1"}, nil}
	for n := range full.Phases {
		c := full
		c.Phases, c.Opened, c.Proof = full.Phases[:n+1], false, nil
		out = append(out, &doc.History{Changes: []doc.Change{older, c}, Order: "o1"})
	}
	return append(out, &doc.History{Changes: []doc.Change{older, full}})
}

func TestSwitchover_ShowsPhasesAndEndsWithASentence(t *testing.T) {
	g := &group{primary: "main", play: growing(proven(change(7, "backup", allPhases...)))}
	config := g.begin(t)
	var out buffer
	if err := run(t.Context(), &out, "switchover", "--to", "backup", "--config", config); err != nil {
		t.Fatal(err)
	}
	golden(t, "switchover.txt", out.String())
	if g.orders() != "switchover to=backup" {
		t.Errorf("did %s", g.orders())
	}
}

func TestSwitchover_Ends(t *testing.T) {
	opened := proven(change(7, "backup", allPhases...))
	failed := change(7, "backup", allPhases[:6]...)
	failed.Failed = "epoch 1.8 began before it was opened: backup did not promote."
	fellBack := proven(change(8, "main", append(slices.Clone(allPhases[:6]), doc.PhaseEpoch, doc.PhaseOpened)...))
	unproven := change(7, "backup", doc.PhaseOrdered, doc.PhaseOpened)
	provisional := proven(change(7, "backup", allPhases...))
	provisional.Proof.Provisional, provisional.Proof.Sentence = true, "Nothing acknowledged was lost: a majority vouches for it."
	for _, tt := range []struct {
		name string
		play []*doc.History
		args []string
		code int
		want string // of the error, or the last line
	}{
		{"Done", []*doc.History{{Changes: []doc.Change{opened}}}, nil, cli.ExitOK, "backup is primary in epoch 1.7 after 0.24 s without a writer; nothing acknowledged was lost."},
		{"NoTarget", []*doc.History{{Changes: []doc.Change{opened}}}, []string{"--to="}, cli.ExitOK, "backup is primary in epoch 1.7"},
		{"NoProof", []*doc.History{{Changes: []doc.Change{unproven}}}, nil, cli.ExitOK, "backup is primary in epoch 1.7 after 0.03 s. What was lost is not recorded."},
		{"Provisional", []*doc.History{{Changes: []doc.Change{provisional}}}, nil, cli.ExitOK, "after 0.24 s without a writer. Nothing acknowledged was lost: a majority vouches for it."},
		{"FellBack", []*doc.History{{Changes: []doc.Change{failed}}, {Changes: []doc.Change{failed, fellBack}}}, nil, cli.ExitFailure,
			"the switchover to backup did not succeed: main is primary in epoch 1.8. epoch 1.8 began before it was opened: backup did not promote"},
		{"SecondAttempt", []*doc.History{{Changes: []doc.Change{failed, proven(change(8, "backup", allPhases...))}}}, nil, cli.ExitOK, "backup is primary in epoch 1.8"},
		{"FirstOpeningCounts", []*doc.History{{Changes: []doc.Change{fellBack, proven(change(9, "backup", allPhases...))}}}, nil, cli.ExitFailure, "main is primary in epoch 1.8"},
		{"GivenUp", []*doc.History{{}, {Order: "o1"}, {Order: "o1"}, {}}, nil, cli.ExitFailure,
			"the switchover did not succeed: it was given up; understudy events says why. main is primary in epoch 1.6"},
		{"GivenUpWithFailure", []*doc.History{{Order: "o1"}, {Changes: []doc.Change{failed}}}, nil, cli.ExitFailure, "backup did not promote"},
		{"TooLong", []*doc.History{{Changes: []doc.Change{change(6, "main", allPhases...)}}}, []string{"--wait", "120ms"}, cli.ExitFailure,
			"it took longer than 120ms; what was begun goes on, and understudy history shows it. main is primary in epoch 1.6"},
		{"NeverHeard", []*doc.History{nil}, []string{"--wait", "120ms"}, cli.ExitFailure, "main is primary in epoch 1.6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &group{primary: "main", play: tt.play}
			config := g.begin(t)
			var out buffer
			err := run(t.Context(), &out, append([]string{"switchover", "--to", "backup", "--config", config}, tt.args...)...)
			got := fmt.Sprint(err)
			if err == nil {
				lines := strings.Split(strings.TrimSpace(out.String()), "\n")
				got = lines[len(lines)-1]
			}
			if cli.Code(err) != tt.code || !strings.Contains(got, tt.want) {
				t.Errorf("got %d %s", cli.Code(err), got)
			}
		})
	}
}

func TestSwitchover_NobodyIsPrimaryAfterIt(t *testing.T) {
	g := &group{}
	err := run(t.Context(), io.Discard, "switchover", "--wait", "60ms", "--config", g.begin(t))
	if cli.Code(err) != cli.ExitFailure || !strings.Contains(err.Error(), "No node is primary now") {
		t.Errorf("got %d %v", cli.Code(err), err)
	}
}

func TestSwitchover_Interrupted(t *testing.T) {
	g := &group{play: []*doc.History{{Changes: []doc.Change{change(7, "backup", doc.PhaseOrdered)}}}}
	config := g.begin(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out buffer
	done := make(chan error, 1)
	go func() { done <- run(ctx, &out, "switchover", "--config", config) }()
	eventually(t, "the first phase", func() bool { return strings.Contains(out.String(), "0.000 s  ordered") })
	cancel()
	if err := <-done; cli.Code(err) != cli.ExitFailure || !strings.Contains(err.Error(), "the switchover goes on") {
		t.Errorf("got %v", err)
	}
}

func TestSwitchover_JSON(t *testing.T) {
	failed := change(7, "backup", doc.PhaseOrdered)
	failed.Failed = "no"
	for name, tt := range map[string]struct {
		args []string
		play []*doc.History
		code int
		done bool
		want string
	}{
		"Done":   {nil, growing(proven(change(7, "backup", allPhases...))), cli.ExitOK, true, "backup is primary"},
		"Failed": {nil, []*doc.History{{Order: "o1", Changes: []doc.Change{failed}}, {Changes: []doc.Change{failed}}}, cli.ExitFailure, false, "did not succeed"},
		"DryRun": {[]string{"--dry-run"}, nil, cli.ExitOK, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := &group{primary: "main", play: tt.play}
			config := g.begin(t)
			var out buffer
			err := run(t.Context(), &out, append([]string{"switchover", "--json", "--config", config}, tt.args...)...)
			var got doc.Outcome
			if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
				t.Fatalf("%v in %s", err, out.String())
			}
			if cli.Code(err) != tt.code || got.Done != tt.done || !strings.Contains(got.Sentence, tt.want) || len(got.Order.Steps) != 2 {
				t.Errorf("%d: %s", cli.Code(err), out.String())
			}
		})
	}
}

func TestSwitchover_DryRunDoesNothing(t *testing.T) {
	g := &group{}
	config := g.begin(t)
	var out buffer
	if err := run(t.Context(), &out, "switchover", "--dry-run", "--config", config); err != nil || g.started {
		t.Errorf("started %v, %v", g.started, err)
	}
	if want := "Clients of main are shut out and its PostgreSQL is stopped.\nbackup takes over with everything main had.\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

func TestOrders_Refused(t *testing.T) {
	for name, refuse := range map[string]func() (doc.OrderReply, error){
		"ByReply": func() (doc.OrderReply, error) { return doc.OrderReply{Refused: "backup is 20 MiB\x1b[2J behind."}, nil },
		"ByError": func() (doc.OrderReply, error) {
			return doc.OrderReply{}, &admin.ActionError{Code: admin.CodeRefused, Text: "backup is 20 MiB\x1b[2J behind."}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &group{reply: func(string, map[string]string) (doc.OrderReply, error) { return refuse() }}
			config := g.begin(t)
			for _, args := range [][]string{
				{"switchover"}, {"switchover", "--dry-run"}, {"switchover", "--json"}, {"failover", "--to", "backup", "--force", "--yes"},
				{"reseed", "backup"}, {"reseed", "backup", "--dry-run"}, {"offline"}, {"online"},
			} {
				err := run(t.Context(), io.Discard, append(args, "--config", config)...)
				if cli.Code(err) != cli.ExitRefused || err.Error() != "backup is 20 MiB [2J behind." {
					t.Errorf("%v: %d %q", args, cli.Code(err), err)
				}
			}
		})
	}
}

// A daemon that began nothing and refused nothing must not look like success.
func TestOrders_NotStarted(t *testing.T) {
	g := &group{reply: func(string, map[string]string) (doc.OrderReply, error) {
		return doc.OrderReply{Statement: "All is lost."}, nil
	}}
	config := g.begin(t)
	for _, args := range [][]string{{"switchover"}, {"failover", "--to", "b"}, {"failover", "--to", "b", "--force", "--yes"}, {"reseed", "b", "--yes"}, {"offline"}, {"online"}} {
		err := run(t.Context(), io.Discard, append(args, "--config", config)...)
		if cli.Code(err) != cli.ExitRefused || !strings.Contains(err.Error(), "All is lost.") {
			t.Errorf("%v: %d %v", args, cli.Code(err), err)
		}
	}
}

func TestFailover_RefusalSaysWhatForceMeans(t *testing.T) {
	refused := &admin.ActionError{Code: admin.CodeRefused, Text: "main still writes."}
	for name, tt := range map[string]struct {
		reply func(force bool) (doc.OrderReply, error)
		want  string
	}{
		"InTheReply": {func(bool) (doc.OrderReply, error) {
			return doc.OrderReply{Refused: refused.Text, Statement: statement}, nil
		},
			"main still writes.\nWith --force it would be tried all the same, and this has to be confirmed: " + statement},
		"Asked": {func(force bool) (doc.OrderReply, error) {
			if force {
				return doc.OrderReply{Statement: statement}, nil
			}
			return doc.OrderReply{}, refused
		}, "main still writes.\nWith --force it would be tried all the same, and this has to be confirmed: " + statement},
		"NothingToLose": {func(force bool) (doc.OrderReply, error) {
			if force {
				return doc.OrderReply{}, nil
			}
			return doc.OrderReply{}, refused
		}, "main still writes.\nWith --force it would be tried all the same"},
		"NoHelp": {func(force bool) (doc.OrderReply, error) {
			if force {
				return doc.OrderReply{Refused: "backup has no base."}, nil
			}
			return doc.OrderReply{}, refused
		}, "main still writes.\n--force would not help: backup has no base."},
		"Unknown": {func(force bool) (doc.OrderReply, error) {
			if force {
				return doc.OrderReply{}, errors.New("broken")
			}
			return doc.OrderReply{}, refused
		}, "main still writes."},
	} {
		t.Run(name, func(t *testing.T) {
			g := &group{reply: func(_ string, args map[string]string) (doc.OrderReply, error) {
				if args["force"] != "" && args["dry_run"] == "" {
					t.Errorf("forced without being told: %v", args)
				}
				return tt.reply(args["force"] != "")
			}}
			config := g.begin(t)
			for _, extra := range [][]string{nil, {"--dry-run"}} {
				err := run(t.Context(), io.Discard, append([]string{"failover", "--to", "backup", "--config", config}, extra...)...)
				if cli.Code(err) != cli.ExitRefused || err.Error() != tt.want {
					t.Errorf("%v: got %d %v", extra, cli.Code(err), err)
				}
			}
		})
	}
}

func TestFailover_ForceIsConfirmed(t *testing.T) {
	full := change(7, "backup", allPhases[3:]...)
	full.Kind, full.Phases[0].Name = doc.KindForced, doc.PhaseOrdered
	full.Proof = &doc.Proof{Lost: &pos.Range{From: 0x3000148, To: 0x3000200}, Sentence: "Acknowledged commits were lost: everything from 0/3000148 to 0/3000200."}
	const dry, sent = "failover dry_run=true force=true to=backup", "failover confirm=" + statement + " force=true to=backup"
	for name, tt := range map[string]struct {
		in   io.Reader
		args []string
		code int
		did  string
		want string
	}{
		"Typed":      {strings.NewReader("backup\n"), nil, cli.ExitOK, dry + "\n" + sent, ""},
		"TypedNoEnd": {strings.NewReader(" backup "), nil, cli.ExitOK, dry + "\n" + sent, ""},
		"TypedOther": {strings.NewReader("yes\n"), nil, cli.ExitRefused, dry, "nothing was done"},
		"TypedPart":  {strings.NewReader("back\nup\n"), nil, cli.ExitRefused, dry, "nothing was done"},
		"Nothing":    {strings.NewReader(""), nil, cli.ExitRefused, dry, "nothing was done"},
		"NoTerminal": {nil, nil, cli.ExitUsage, dry, "--yes"},
		"Broken":     {brokenReader{}, nil, cli.ExitFailure, dry, "read the answer"},
		"Yes":        {nil, []string{"--yes"}, cli.ExitOK, dry + "\n" + sent, ""},
		"DryRun":     {nil, []string{"--dry-run"}, cli.ExitOK, dry, ""},
		"JSON":       {strings.NewReader("backup\n"), []string{"--json"}, cli.ExitUsage, dry, statement},
		"JSONYes":    {nil, []string{"--json", "--yes"}, cli.ExitOK, dry + "\n" + sent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := &group{play: []*doc.History{{Changes: []doc.Change{full}}}}
			config := g.begin(t)
			var out buffer
			err := runWith(t.Context(), cli.Options{Out: &out, In: tt.in}, append([]string{"failover", "--to", "backup", "--force", "--config", config}, tt.args...)...)
			if cli.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %d %v", cli.Code(err), err)
			}
			if g.orders() != tt.did {
				t.Errorf("did %s, want %s", g.orders(), tt.did)
			}
			if !strings.Contains(out.String(), statement) {
				t.Errorf("the statement was not shown: %s", out.String())
			}
			if name == "Typed" {
				golden(t, "failover-forced.txt", out.String())
			}
		})
	}
}

func TestFailover_InterruptedQuestion(t *testing.T) {
	g := &group{}
	config := g.begin(t)
	in, end := io.Pipe()
	defer end.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out buffer
	done := make(chan error, 1)
	go func() {
		done <- runWith(ctx, cli.Options{Out: &out, In: in}, "failover", "--to", "backup", "--force", "--config", config)
	}()
	eventually(t, "the question", func() bool { return strings.Contains(out.String(), "Type backup to go on: ") })
	cancel()
	if err := <-done; cli.Code(err) != cli.ExitRefused || !strings.Contains(err.Error(), "nothing was done") || g.started {
		t.Errorf("got %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestReseed(t *testing.T) {
	const lose = "The database on backup is deleted."
	plain := func(string, map[string]string) (doc.OrderReply, error) {
		return doc.OrderReply{Steps: []string{"backup follows again."}, Started: true}, nil
	}
	deletes := func(_ string, args map[string]string) (doc.OrderReply, error) {
		return doc.OrderReply{Steps: []string{"Everything is copied."}, Statement: lose, Started: args["confirm"] == lose}, nil
	}
	for name, tt := range map[string]struct {
		reply func(string, map[string]string) (doc.OrderReply, error)
		in    io.Reader
		args  []string
		code  int
		did   string
		out   string
	}{
		"Plain":    {plain, nil, nil, cli.ExitOK, "reseed dry_run=true node=backup\nreseed node=backup", "backup follows again.\nBegun. understudy status shows how far backup is.\n"},
		"DryRun":   {deletes, nil, []string{"--dry-run", "--method", "full"}, cli.ExitOK, "reseed dry_run=true method=full node=backup", "Everything is copied.\n" + lose + "\n"},
		"Yes":      {deletes, nil, []string{"--yes"}, cli.ExitOK, "reseed dry_run=true node=backup\nreseed confirm=" + lose + " node=backup", "Everything is copied.\n" + lose + "\nBegun. understudy status shows how far backup is.\n"},
		"Typed":    {deletes, strings.NewReader("backup\n"), nil, cli.ExitOK, "reseed dry_run=true node=backup\nreseed confirm=" + lose + " node=backup", "Everything is copied.\n" + lose + "\nType backup to go on: Begun. understudy status shows how far backup is.\n"},
		"NotAsked": {deletes, nil, nil, cli.ExitUsage, "reseed dry_run=true node=backup", "Everything is copied.\n" + lose + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &group{reply: tt.reply}
			config := g.begin(t)
			var out buffer
			err := runWith(t.Context(), cli.Options{Out: &out, In: tt.in}, append([]string{"reseed", "backup", "--config", config}, tt.args...)...)
			if cli.Code(err) != tt.code || g.orders() != tt.did || out.String() != tt.out {
				t.Errorf("got %d %v, did %s, said %s", cli.Code(err), err, g.orders(), out.String())
			}
		})
	}
}

func TestOfflineAndOnline(t *testing.T) {
	g := &group{reply: func(action string, _ map[string]string) (doc.OrderReply, error) {
		return doc.OrderReply{Steps: []string{"Now " + action + "."}, Started: true}, nil
	}}
	config := g.begin(t)
	for _, tt := range []struct {
		args []string
		did  string
	}{{[]string{"offline"}, "offline wait=30s"}, {[]string{"offline", "--wait", "0"}, "offline wait=0s"}, {[]string{"online"}, "online"}} {
		g.did = nil
		var out buffer
		if err := run(t.Context(), &out, append(tt.args, "--config", config)...); err != nil || g.orders() != tt.did || out.String() != "Now "+tt.args[0]+".\n" {
			t.Errorf("%v: %v, did %s, said %s", tt.args, err, g.orders(), out.String())
		}
	}
}

func TestOrders_UsageAndNotRunning(t *testing.T) {
	config, _, _ := nodeFile(t) // nobody answers
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"switchover", "backup"}, cli.ExitUsage, "backup"},
		{[]string{"switchover", "--wait", "0"}, cli.ExitUsage, "--wait"},
		{[]string{"switchover", "--wait", "x"}, cli.ExitUsage, "wait"},
		{[]string{"failover"}, cli.ExitUsage, "--to NODE"},
		{[]string{"failover", "--to", "b", "--wait", "-1s"}, cli.ExitUsage, "--wait"},
		{[]string{"failover", "backup"}, cli.ExitUsage, "backup"},
		{[]string{"history", "0"}, cli.ExitUsage, `"0"`},
		{[]string{"history", "many"}, cli.ExitUsage, `"many"`},
		{[]string{"history", "1", "2"}, cli.ExitUsage, "arg"},
		{[]string{"explain", "--list", "1.7"}, cli.ExitUsage, "--list"},
		{[]string{"explain", "1", "2"}, cli.ExitUsage, "arg"},
		{[]string{"reseed"}, cli.ExitUsage, "arg"},
		{[]string{"reseed", "backup", "--method", "magic"}, cli.ExitUsage, `"magic"`},
		{[]string{"offline", "--wait", "-1s"}, cli.ExitUsage, "--wait"},
		{[]string{"offline", "--wait", "25h"}, cli.ExitUsage, "--wait"},
		{[]string{"online", "x"}, cli.ExitUsage, "x"},
		{[]string{"switchover"}, cli.ExitNotRunning, "not running"},
		{[]string{"failover", "--to", "b"}, cli.ExitNotRunning, "not running"},
		{[]string{"failover", "--to", "b", "--force"}, cli.ExitNotRunning, "not running"},
		{[]string{"history"}, cli.ExitNotRunning, "not running"},
		{[]string{"explain"}, cli.ExitNotRunning, "not running"},
		{[]string{"explain", "--list"}, cli.ExitNotRunning, "not running"},
		{[]string{"reseed", "backup"}, cli.ExitNotRunning, "not running"},
		{[]string{"offline"}, cli.ExitNotRunning, "not running"},
		{[]string{"online"}, cli.ExitNotRunning, "not running"},
	} {
		err := run(t.Context(), io.Discard, append(tt.args, "--config", config)...)
		if cli.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%v: %d %v", tt.args, cli.Code(err), err)
		}
	}
}
