package agenda_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/ledger/agenda"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// healthy is a group of three with two locations, in which all is well and
// nothing is due: last night's backup is everywhere.
func healthy() agenda.Input {
	night := now.Add(-6 * time.Hour)
	whole := catalog.Copy{State: catalog.CopyComplete, At: night}
	wal := catalog.Place{WAL: []catalog.Span{{Timeline: 1, From: 0x1000, To: 0x9000}}}
	day := func(kind agenda.JobKind) time.Time {
		return map[agenda.JobKind]time.Time{agenda.JobDrill: now.Add(-20 * time.Hour), agenda.JobPrune: now.Add(-3 * time.Hour)}[kind]
	}
	return agenda.Input{
		Now: now, Policy: agenda.DefaultPolicy(time.UTC), Marked: now.Add(-time.Minute),
		Catalog: catalog.Catalog{SegSize: 0x1000, Timelines: map[pos.Timeline]catalog.Timeline{1: {}},
			Sets: map[string]catalog.Set{"last": {State: catalog.SetComplete, Timeline: 1, Start: 0x2000, End: 0x2800, Began: night, Ended: night.Add(time.Minute),
				Copies: map[string]catalog.Copy{"disk": whole, "far": whole}}},
			Places: map[string]catalog.Place{"disk": wal, "far": wal}},
		Nodes: []agenda.Node{
			{Name: "main", Role: agenda.Primary, Alive: true, Heard: now, Healthy: true, HasLog: true},
			{Name: "backup", Role: agenda.Standby, Alive: true, Heard: now, Healthy: true, HasLog: true},
			{Name: "witness", Role: agenda.Witness, Alive: true, Heard: now, HasLog: true}},
		Locations: []agenda.Location{
			{Name: "disk", Enabled: true, Owner: "backup", Nodes: []string{"main", "backup", "witness"}, Open: true, Feeder: "backup", Wants: []string{"last"}},
			{Name: "far", Enabled: true, Nodes: []string{"main", "backup", "witness"}, Open: true, Feeder: "backup", Wants: []string{"last"}}},
		Last: map[agenda.JobKind]time.Time{agenda.JobDrill: day(agenda.JobDrill), agenda.JobPrune: day(agenda.JobPrune)},
	}
}

// brief writes orders in a line, leaving out the reasons.
func brief(orders []agenda.Order) string {
	var out []string
	for _, o := range orders {
		var w []string
		for _, s := range []string{string(o.Kind), string(o.Job), o.ID, o.Node, strings.Join(o.Locations, ","), o.Label, o.Parent, string(o.Cause), o.Key, string(o.Severity)} {
			if s != "" {
				w = append(w, s)
			}
		}
		if o.Attempt > 1 {
			w = append(w, fmt.Sprintf("#%d", o.Attempt))
		}
		out = append(out, strings.Join(w, " "))
	}
	return strings.Join(out, "; ")
}

func noSets(in *agenda.Input) { in.Catalog.Sets = nil }

func node(in *agenda.Input, name string) *agenda.Node {
	return &in.Nodes[slices.IndexFunc(in.Nodes, func(n agenda.Node) bool { return n.Name == name })]
}

func full(state agenda.JobState, ago, took time.Duration) agenda.Job {
	j := agenda.Job{ID: fmt.Sprintf("full-%s", ago), Kind: agenda.JobFull, Node: "backup", State: state, Began: now.Add(-ago), Locations: []string{"disk", "far"}}
	if state != agenda.JobRunning {
		j.Ended = j.Began.Add(took)
	}
	return j
}

func TestDecide(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*agenda.Input)
		want   string
	}{
		"Nothing": {func(*agenda.Input) {}, ""},
		"Schedule": {func(in *agenda.Input) {
			in.Now = now.Add(18 * time.Hour)
			in.Marked = in.Now
			in.Last[agenda.JobPrune] = in.Now
		}, "begin backup backup disk,far schedule"},
		"First":            {noSets, "begin backup backup disk,far first"},
		"NewTimeline":      {func(in *agenda.Input) { in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: 0x9000} }, "begin backup backup disk,far timeline"},
		"Gap":              {gap, "begin backup backup disk,far gap"},
		"GapAtOneLocation": {func(in *agenda.Input) { in.Catalog.Places["far"] = catalog.Place{} }, ""},
		"LogIsStillOnItsWay": {func(in *agenda.Input) {
			in.Catalog.Places = map[string]catalog.Place{"disk": {WAL: []catalog.Span{{Timeline: 1, From: 0x1000, To: 0x2400}}}}
		}, ""},
		"Operator":         {func(in *agenda.Input) { in.Requests = []agenda.Request{{ID: "r", Kind: agenda.JobFull, Node: "main"}} }, "begin backup main disk,far operator"},
		"FromPrimary":      {func(in *agenda.Input) { noSets(in); in.Policy.From = agenda.FromPrimary }, "begin backup main disk,far first"},
		"StandbyDown":      {func(in *agenda.Input) { noSets(in); node(in, "backup").Healthy = false }, "begin backup main disk,far first"},
		"StandbyFarBehind": {func(in *agenda.Input) { noSets(in); node(in, "backup").LagBytes = 2 << 30 }, "begin backup main disk,far first"},
		"NobodyCan": {func(in *agenda.Input) {
			noSets(in)
			node(in, "backup").Healthy, node(in, "main").Healthy = false, false
		}, "raise backup-location error"},
		"DeadLocation":     {func(in *agenda.Input) { noSets(in); in.Locations[1].Problem = "no answer" }, "begin backup backup disk first"},
		"DisabledLocation": {func(in *agenda.Input) { noSets(in); in.Locations[1].Enabled = false }, "begin backup backup disk first"},
		"NoLocationSoFar": {func(in *agenda.Input) {
			noSets(in)
			in.Locations[0].Problem, in.Locations[1].Problem = "full", "gone"
			in.Requests = []agenda.Request{{ID: "r", Kind: agenda.JobFull}}
		}, "begin backup backup disk,far operator"},
		"NoLocation":          {func(in *agenda.Input) { noSets(in); in.Locations[0].Problem, in.Locations[1].Problem = "full", "gone" }, "raise backup-location error"},
		"ColdIsFilledLater":   {func(in *agenda.Input) { noSets(in); in.Locations[1].Cold = true }, "begin backup backup disk first"},
		"ColdWhenNothingElse": {func(in *agenda.Input) { noSets(in); in.Locations[1].Cold = true; in.Locations[0].Problem = "full" }, "begin backup backup far first"},
		"NeverTwo":            {func(in *agenda.Input) { noSets(in); in.Jobs = []agenda.Job{full(agenda.JobRunning, time.Hour, 0)} }, ""},
		"QuickRetry": {func(in *agenda.Input) {
			noSets(in)
			in.Jobs = []agenda.Job{full(agenda.JobFailed, time.Hour, 59*time.Minute)}
		}, "begin backup main disk,far first #2"},
		"NotAtOnce": {func(in *agenda.Input) {
			noSets(in)
			in.Jobs = []agenda.Job{full(agenda.JobFailed, time.Hour, 59*time.Minute+time.Second)}
		}, ""},
		"QuickRetriesAreOver": {func(in *agenda.Input) { noSets(in); in.Jobs = failures(5, 10*time.Minute) }, "raise backup-failed error"},
		"LongRetry":           {func(in *agenda.Input) { noSets(in); in.Jobs = failures(5, 30*time.Minute) }, "raise backup-failed error; begin backup main disk,far first #6"},
		"CancelledByOperator": {func(in *agenda.Input) {
			in.Now = now.Add(18 * time.Hour)
			in.Marked, in.Last[agenda.JobPrune] = in.Now, in.Now
			j := full(agenda.JobCancelled, -17*time.Hour-40*time.Minute, time.Minute)
			in.Jobs = []agenda.Job{j}
		}, ""},
		"ClockWasWrong": {func(in *agenda.Input) {
			in.Now = now.Add(18 * time.Hour)
			in.Marked, in.Last[agenda.JobPrune] = in.Now, in.Now
			in.Jobs = []agenda.Job{full(agenda.JobDone, -9999*time.Hour, time.Hour)}
		}, "begin backup backup disk,far schedule"},
		"Overrun": {func(in *agenda.Input) { in.Jobs = []agenda.Job{full(agenda.JobRunning, 10*time.Hour, 0)} }, "raise overrun-backup warning"},
		"OverrunsInRow": {func(in *agenda.Input) {
			in.Policy.Limits = nil
			in.Jobs = []agenda.Job{full(agenda.JobDone, 55*time.Hour, 24*time.Hour), full(agenda.JobDone, 31*time.Hour, 21*time.Hour), full(agenda.JobRunning, 7*time.Hour, 0)}
		}, "raise overrun-backup error"},
		"TimeLimit": {func(in *agenda.Input) {
			in.Policy.Schedule = agenda.Schedule{}
			in.Jobs = []agenda.Job{full(agenda.JobRunning, 24*time.Hour, 0)}
		}, "cancel full-24h0m0s backup"},
		"DoesNotStop": {func(in *agenda.Input) {
			in.Policy.Schedule = agenda.Schedule{}
			in.Jobs = []agenda.Job{full(agenda.JobRunning, 25*time.Hour, 0)}
		}, "lose full-25h0m0s backup"},
		"NodeGone": {func(in *agenda.Input) {
			in.Jobs = []agenda.Job{full(agenda.JobRunning, time.Hour, 0)}
			node(in, "backup").Alive, node(in, "backup").Heard = false, now.Add(-2*time.Minute)
		}, "lose full-1h0m0s backup; raise feeder-disk error; feed witness far"},
		"FeederKeeps":  {func(in *agenda.Input) { in.Locations[1].Feeder = "main" }, ""},
		"FeederIsNew":  {func(in *agenda.Input) { in.Locations[1].Feeder = "" }, "feed backup far"},
		"FeederIsGone": {func(in *agenda.Input) { in.Locations[1].Feeder = "x"; node(in, "backup").HasLog = false }, "raise feeder-disk error; feed witness far"},
		"Fill":         {func(in *agenda.Input) { in.Catalog.Sets["last"] = without(in, "far") }, "begin fill backup far last"},
		"FillDamaged": {func(in *agenda.Input) {
			s := without(in, "far")
			s.Copies["far"] = catalog.Copy{State: catalog.CopyDamaged}
			in.Catalog.Sets["last"] = s
		}, "begin fill backup far last"},
		"FillFromDeadLocation": {func(in *agenda.Input) { in.Catalog.Sets["last"] = without(in, "far"); in.Locations[0].Problem = "gone" }, ""},
		"FillOutsideWindow":    {func(in *agenda.Input) { in.Catalog.Sets["last"] = without(in, "far"); in.Locations[1].Open = false }, ""},
		"FillNotWanted":        {func(in *agenda.Input) { in.Catalog.Sets["last"] = without(in, "far"); in.Locations[1].Wants = nil }, ""},
		"FillLogFirst": {func(in *agenda.Input) {
			in.Catalog.Sets["last"] = without(in, "far")
			in.Locations[1].WantsLog = []catalog.Stretch{{Timeline: 1, From: 0x1000, To: 0x2000, Locations: []string{"disk"}}}
		}, "begin fill backup far"},
		"Verify":       {func(in *agenda.Input) { verified(in, "far", 31*24*time.Hour) }, "begin verify backup far last"},
		"VerifyFuture": {func(in *agenda.Input) { verified(in, "far", -time.Hour) }, "begin verify backup far last"},
		"VerifyAsked": {func(in *agenda.Input) {
			in.Requests = []agenda.Request{{ID: "r", Kind: agenda.JobVerify, Location: "disk"}}
		}, "begin verify backup disk last"},
		"Drill": {func(in *agenda.Input) { in.Last[agenda.JobDrill] = now.Add(-22 * time.Hour) }, "begin drill backup disk,far"},
		"DrillAloneOnPrimary": {func(in *agenda.Input) {
			in.Last[agenda.JobDrill] = now.Add(-22 * time.Hour)
			in.Nodes = in.Nodes[:1]
			in.Locations[0].Enabled = false
			in.Locations[1].Feeder = "main"
		}, "begin drill main far"},
		"Prune": {func(in *agenda.Input) { in.Last[agenda.JobPrune] = now.Add(-5 * time.Hour) }, "begin prune backup disk; begin prune backup far"},
		"PruneDead": {func(in *agenda.Input) {
			in.Last[agenda.JobPrune] = now.Add(-5 * time.Hour)
			in.Locations[0].Problem = "gone"
		}, "begin prune backup far"},
		"Marker": {func(in *agenda.Input) { in.Marked = now.Add(-15 * time.Minute) }, "mark main"},
	} {
		t.Run(name, func(t *testing.T) {
			in := healthy()
			tc.change(&in)
			if got := brief(agenda.Decide(in)); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// gap takes the same stretch out of the log at both locations.
func gap(in *agenda.Input) {
	wal := catalog.Place{WAL: []catalog.Span{{Timeline: 1, From: 0x1000, To: 0x4000}, {Timeline: 1, From: 0x5000, To: 0x9000}}}
	in.Catalog.Places = map[string]catalog.Place{"disk": wal, "far": wal}
}

// failures are backups that failed one after the other, the last some time ago.
func failures(n int, ago time.Duration) (out []agenda.Job) {
	for i := range n {
		out = append(out, full(agenda.JobFailed, ago+time.Duration(n-i)*time.Minute, time.Minute))
	}
	out[n-1].Ended = now.Add(-ago)
	return out
}

func without(in *agenda.Input, location string) catalog.Set {
	s := in.Catalog.Sets["last"]
	s.Copies = maps.Clone(s.Copies)
	delete(s.Copies, location)
	return s
}

func verified(in *agenda.Input, location string, ago time.Duration) {
	s := without(in, "")
	c := s.Copies[location]
	c.Verified = now.Add(-ago)
	s.Copies[location] = c
	in.Catalog.Sets["last"] = s
}

// group plays what may happen to a group whose agenda is carried out.
type group struct {
	in   agenda.Input
	next int
}

func (g *group) job(id string) *agenda.Job {
	return &g.in.Jobs[slices.IndexFunc(g.in.Jobs, func(j agenda.Job) bool { return j.ID == id })]
}

func (g *group) carryOut(o agenda.Order) {
	switch o.Kind {
	case agenda.Begin:
		g.next++
		g.in.Jobs = append(g.in.Jobs, agenda.Job{ID: fmt.Sprint(g.next), Kind: o.Job, Node: o.Node, State: agenda.JobRunning, Label: o.Label, Locations: o.Locations, Due: o.Due, Began: g.in.Now})
	case agenda.Cancel, agenda.Lose:
		g.end(o.ID, map[agenda.OrderKind]agenda.JobState{agenda.Cancel: agenda.JobFailed, agenda.Lose: agenda.JobLost}[o.Kind])
	case agenda.Feed:
		for i, l := range g.in.Locations {
			if l.Name == o.Locations[0] {
				g.in.Locations[i].Feeder = o.Node
			}
		}
	case agenda.Mark:
		g.in.Marked = g.in.Now
	}
}

func (g *group) end(id string, state agenda.JobState) {
	j := g.job(id)
	j.State, j.Ended = state, g.in.Now
	if state != agenda.JobDone || j.Kind != agenda.JobFull {
		return
	}
	s := catalog.Set{State: catalog.SetComplete, Timeline: 1, Start: 0x3000, End: 0x3800, Began: j.Began, Ended: j.Ended, Copies: map[string]catalog.Copy{}}
	for _, l := range j.Locations {
		s.Copies[l] = catalog.Copy{State: catalog.CopyComplete, At: g.in.Now}
	}
	g.in.Catalog.Sets = maps.Clone(g.in.Catalog.Sets)
	if g.in.Catalog.Sets == nil {
		g.in.Catalog.Sets = map[string]catalog.Set{}
	}
	g.in.Catalog.Sets["set"+id] = s
}

func (g *group) happen(t *rapid.T) {
	g.in.Now = g.in.Now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "seconds")) * time.Second)
	n := &g.in.Nodes[rapid.IntRange(0, 2).Draw(t, "node")]
	l := &g.in.Locations[rapid.IntRange(0, 1).Draw(t, "location")]
	switch rapid.IntRange(0, 6).Draw(t, "event") {
	case 0:
		n.Alive = !n.Alive
	case 1:
		n.Healthy = !n.Healthy
	case 2:
		l.Problem = rapid.SampledFrom([]string{"", "gone"}).Draw(t, "problem")
	case 3:
		l.Enabled = rapid.Bool().Draw(t, "enabled")
	default:
		for _, j := range slices.Clone(g.in.Jobs) {
			if j.State == agenda.JobRunning && rapid.Bool().Draw(t, "ends") {
				g.end(j.ID, rapid.SampledFrom([]agenda.JobState{agenda.JobDone, agenda.JobDone, agenda.JobFailed, agenda.JobCancelled}).Draw(t, "state"))
			}
		}
	}
	for i := range g.in.Nodes {
		if g.in.Nodes[i].Alive {
			g.in.Nodes[i].Heard = g.in.Now
		}
	}
}

// Whatever happens: never two backups at once, none on a node or to a location
// that is not there, no incident twice, the same answer twice, and no order
// again once it is carried out.
func TestDecide_IsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &group{in: healthy()}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			g.happen(t)
			orders := agenda.Decide(g.in)
			if again := agenda.Decide(g.in); !reflect.DeepEqual(orders, again) {
				t.Fatalf("got %q, then %q", brief(orders), brief(again))
			}
			raised := map[string]bool{}
			for _, o := range orders {
				if o.Why == "" || o.Kind == agenda.Raise && raised[o.Key] {
					t.Fatalf("no reason, or twice: %+v", o)
				}
				raised[o.Key] = true
				g.admit(t, o)
				g.carryOut(o)
			}
			for _, o := range agenda.Decide(g.in) {
				if o.Kind == agenda.Begin && slices.ContainsFunc(orders, func(x agenda.Order) bool { return reflect.DeepEqual(x, o) }) {
					t.Fatalf("ordered again: %+v", o)
				}
			}
		}
	})
}

// admit checks an order against the state it was made for.
func (g *group) admit(t *rapid.T, o agenda.Order) {
	if o.Kind != agenda.Begin {
		return
	}
	for _, j := range g.in.Jobs {
		if o.Job == agenda.JobFull && j.Kind == agenda.JobFull && j.State == agenda.JobRunning {
			t.Fatalf("a second backup: %+v while %+v runs", o, j)
		}
	}
	if len(o.Locations) == 0 {
		t.Fatalf("nowhere: %+v", o)
	}
	for _, n := range g.in.Nodes {
		if n.Name == o.Node && (!n.Alive || o.Job == agenda.JobFull && !n.Healthy) {
			t.Fatalf("on a node that cannot: %+v", o)
		}
	}
	for _, l := range g.in.Locations {
		if slices.Contains(o.Locations, l.Name) && (!l.Enabled || l.Problem != "" && o.Cause != agenda.CauseOperator) {
			t.Fatalf("at a location that cannot: %+v", o)
		}
	}
}

// A location that is dead changes nothing for the other one.
func TestDecide_DeadLocationNeverBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &group{in: healthy()}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			g.happen(t)
			for _, o := range agenda.Decide(g.in) {
				g.carryOut(o)
			}
		}
		for i := range g.in.Locations {
			g.in.Locations[i].Enabled = true
		}
		g.in.Locations[0].Problem = ""
		dead, gone := g.in, g.in
		dead.Locations = slices.Clone(g.in.Locations)
		dead.Locations[1].Problem = "gone"
		gone.Locations = g.in.Locations[:1]
		if a, b := about(dead, "disk"), about(gone, "disk"); a != b {
			t.Fatalf("with a dead location %q, without it %q", a, b)
		}
	})
}

// about are the orders that begin something at a location.
func about(in agenda.Input, location string) string {
	var out []agenda.Order
	for _, o := range agenda.Decide(in) {
		if o.Kind != agenda.Raise && slices.Contains(o.Locations, location) {
			out = append(out, o)
		}
	}
	return brief(out)
}

// However often a backup fails, it is tried again, and one that works ends the
// incident.
func TestDecide_RetriesWithoutEnd(t *testing.T) {
	g := &group{in: healthy()}
	noSets(&g.in)
	tries := 0
	for range 40 * 60 {
		g.in.Now = g.in.Now.Add(time.Minute)
		for i := range g.in.Nodes {
			g.in.Nodes[i].Heard = g.in.Now
		}
		for _, o := range agenda.Decide(g.in) {
			g.carryOut(o)
			if o.Job == agenda.JobFull {
				g.end(fmt.Sprint(g.next), agenda.JobFailed)
				tries++
			}
		}
	}
	if tries < 4+75 || tries > 4+85 {
		t.Errorf("tried %d times in 40 hours, want 4 quick ones and one every 30 minutes", tries)
	}
	if got := brief(agenda.Decide(g.in)); !strings.Contains(got, "backup-failed error") {
		t.Errorf("no incident: %q", got)
	}
	g.in.Jobs = append(g.in.Jobs, agenda.Job{ID: "good", Kind: agenda.JobFull, Node: "main", Began: g.in.Now, State: agenda.JobRunning, Locations: []string{"disk", "far"}})
	g.end("good", agenda.JobDone)
	if got := brief(agenda.Decide(g.in)); strings.Contains(got, "backup-failed") || strings.Contains(got, "begin backup") {
		t.Errorf("after success: %q", got)
	}
}
