package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/test/bench/internal/group"
)

func TestFaults_EachCanBeTakenBack(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range faults() {
		if seen[f.name] || f.title == "" || f.strike == nil || f.mend == nil || f.worst < f.median {
			t.Errorf("%s: %+v", f.name, f)
		}
		seen[f.name] = true
	}
	o, _, err := parseFlags([]string{"-only=loss", "-scenarios=freeze,cut"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := o.chosenFaults(); err != nil || len(got) != 2 || got[0].name != "cut" || got[1].name != "freeze" {
		t.Errorf("got %v, %v", got, err)
	}
}

// Parts with networks of their own come last: each change between the two kinds
// of group starts another one.
func TestParts_LabLast(t *testing.T) {
	all := parts()
	first := slices.IndexFunc(all, func(p part) bool { return p.lab })
	if first < 0 || slices.ContainsFunc(all[first:], func(p part) bool { return !p.lab }) || slices.ContainsFunc(all, func(p part) bool { return p.lab && p.pair }) {
		t.Errorf("got %+v", all)
	}
}

var struck = time.Unix(1000, 0)

// history is a change whose phases came so long after the fault.
func history(from, to string, phases ...any) group.Change {
	c := group.Change{Kind: "failover", From: from, To: to, Opened: true, Return: &group.Return{Method: "rewind", At: struck}}
	for i := 0; i < len(phases); i += 2 {
		c.Phases = append(c.Phases, group.Phase{Name: phases[i].(string), At: struck.Add(time.Duration(phases[i+1].(int)) * time.Millisecond)})
	}
	return c
}

func lostOnce(outage int, c group.Change) changed {
	d := time.Duration(outage) * time.Millisecond
	return changed{from: c.From, to: c.To, leader: "witness", outage: d, slowest: d + time.Millisecond, back: time.Second, epochs: 1, struck: struck, first: struck.Add(d), change: c}
}

func TestLasted_StagesOfAChange(t *testing.T) {
	for _, c := range []struct {
		name   string
		phases []any
		want   string
	}{
		{"All", []any{"lost", -10, "epoch", 100, "fenced", 110, "copied", 115, "assigned", 117, "replayed", 150, "promoting", 150, "promoted", 220, "opened", 260},
			"detect 110, fence 10, elect 7, catch up 33, promote 70, open 40, clients 140"},
		{"NoLastSignOfLife", []any{"epoch", 100, "fenced", 110}, "detect 100, fence 10"},
		{"AssignedTwice", []any{"epoch", 1, "fenced", 2, "assigned", 3, "epoch", 11, "fenced", 13, "assigned", 16, "opened", 20}, "detect 11, fence 2, elect 3, open 4, clients 380"},
		{"OpenedAgain", []any{"epoch", 5, "fenced", 10, "assigned", 20, "opened", 300}, "detect 5, fence 5, elect 10, open 280, clients 100"},
		{"OutOfOrder", []any{"epoch", 10, "fenced", 8, "opened", 500}, "detect 10, fence 0, clients 0"},
		{"Nothing", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := stagesText(lostOnce(400, history("main", "backup", c.phases...))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// oneSpace is a text whose tables are not padded.
func oneSpace(text string) string { return regexp.MustCompile(` +`).ReplaceAllString(text, " ") }

func TestLossReport_BarsAndStages(t *testing.T) {
	phases := []any{"epoch", 200, "fenced", 210, "assigned", 220, "replayed", 250, "promoted", 330, "opened", 380}
	again := history("main", "main", "epoch", 5, "fenced", 10, "assigned", 20, "opened", 300)
	again.Kind, again.Return = "restart", nil
	of := func(name string) fault {
		all := faults()
		return all[slices.IndexFunc(all, func(f fault) bool { return f.name == name })]
	}
	c := &changes{times: []bareTimes{{stop: 70 * time.Millisecond, promote: 90 * time.Millisecond, outage: 180 * time.Millisecond}}}
	got := oneSpace(lossReport(7, "Intro.", "None is missing.", []*losses{
		{changes: c, fault: of("killall"), runs: []changed{lostOnce(400, history("main", "backup", phases...)), lostOnce(1600, history("backup", "main", phases...))}},
		{changes: c, fault: of("killall-leader"), runs: []changed{lostOnce(900, history("main", "backup", phases...))}, unarranged: 1},
		{changes: c, fault: of("postgres"), runs: []changed{lostOnce(600, again)}},
		{changes: c, fault: of("frozenpg")},
	}))
	for _, want := range []string{
		"`-seed=7`", "Intro. None is missing.",
		"| killall | 2 | 1000 | ≤ 700 | **miss** | 1600 | ≤ 1500 | **miss** | 1001 | 1601 |",
		"| killall-leader | 1 | 900 | | | 900 | | | 901 | 901 |",
		"| postgres | 1 | 600 | ≤ 700 | pass | 600 | ≤ 700 | pass | 601 | 601 |",
		"| frozenpg | 0 | – | | | – | | | – | – |",
		"| killall | 200 | 10 | 10 | 30 | 80 | 50 | 620 |",
		"| postgres | 5 | 5 | 10 | – | – | 280 | 300 |",
		"In 1 of 2 runs this could not be arranged", "Kinds of change: restart 1", "came back by: opening again 1", "came back by: rewind 2",
		"Nothing was measured", "| backup → main |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "plain PostgreSQL: fast stop"); n != 1 {
		t.Errorf("the plain pair is in %d scenarios", n)
	}
}

func TestAlarms_Report(t *testing.T) {
	c := &changes{bench: &bench{options: options{seed: 9}}}
	guard := group.Process{Node: "main", Kind: group.Guard}
	a := &alarms{changes: c, pauses: map[group.Process]int{guard: 3, {Node: "witness", Kind: group.Daemon}: 1}, took: time.Minute, gap: 310 * time.Millisecond, commits: 6000, busy: 0.99}
	got := a.report("Intro.", "None is missing.")
	for _, want := range []string{"`-seed=9`", "Intro. None is missing.", "|    0 | pass |", "| pauses                                          |    4 |", "|  310 |", "|  100 |", "| 99 % |", "| main's guard        |     3 |", "| main's daemon       |     0 |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	a.begun, a.causes = 1, []string{"epoch 1.9: silence"}
	if got := a.report("", ""); !strings.Contains(got, "**miss**") || !strings.Contains(got, "* epoch 1.9: silence") {
		t.Errorf("got\n%s", got)
	}
	if (&alarms{}).report("", "") != "" {
		t.Error("a part that never ran has a report")
	}
}

// A process that did not run is counted and no error.
func TestAlarms_PauseOfNobody(t *testing.T) {
	a := &alarms{changes: &changes{bench: &bench{group: &group.Group{Dir: t.TempDir()}}}, pauses: map[group.Process]int{}}
	if err := a.pause(group.Process{Node: "main", Kind: group.Daemon}); err != nil || a.missed != 1 || a.count() != 0 {
		t.Errorf("missed %d, count %d, %v", a.missed, a.count(), err)
	}
}

// The load lasts until it is stopped, and one that ended before is told.
func TestBurners_LastUntilStopped(t *testing.T) {
	b, err := startBurners(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := len(b.cmds)
	if err := b.stop(); err != nil || n < 3 {
		t.Errorf("%d processes, %v", n, err)
	}
	if b, err = startBurners(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	b.cmds[0].Process.Kill()
	if err := b.stop(); err == nil || !strings.Contains(err.Error(), helperMemory) {
		t.Errorf("got %v", err)
	}
}
