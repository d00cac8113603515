package agenda_test

import (
	"testing"
	"time"

	"understudy/ledger/agenda"
	"understudy/shipper/catalog"
)

// nextNight is healthy when the next backup is due and the policy wants
// incremental ones.
func nextNight() agenda.Input {
	in := healthy()
	in.Now = now.Add(18 * time.Hour)
	in.Marked, in.Last[agenda.JobPrune], in.Last[agenda.JobDrill] = in.Now, in.Now, in.Now
	in.Policy.Incremental, in.Policy.FullEvery = true, 7*24*time.Hour
	return in
}

// edit changes a set of the catalog, or adds it.
func edit(in *agenda.Input, label string, change func(*catalog.Set)) {
	s := in.Catalog.Sets[label]
	change(&s)
	in.Catalog.Sets[label] = s
}

// older puts the full set that last night's was built on before it.
func older(in *agenda.Input, ago time.Duration) {
	root := in.Catalog.Sets["last"]
	root.Start, root.End, root.Began, root.Ended = 0x1000, 0x1800, in.Now.Add(-ago), in.Now.Add(-ago).Add(time.Minute)
	in.Catalog.Sets["root"] = root
	edit(in, "last", func(s *catalog.Set) { s.Parent = "root" })
}

func ask(in *agenda.Input, form agenda.Form) {
	in.Requests = []agenda.Request{{ID: "r", Kind: agenda.JobFull, Form: form}}
}

func TestDecide_Incremental(t *testing.T) {
	const incremental, plain = "begin backup backup disk,far last schedule", "begin backup backup disk,far schedule"
	for name, tc := range map[string]struct {
		change func(*agenda.Input)
		want   string
	}{
		"OnTheNewest":     {func(*agenda.Input) {}, incremental},
		"PolicyIsOff":     {func(in *agenda.Input) { in.Policy.Incremental = false }, plain},
		"OnAnIncremental": {func(in *agenda.Input) { older(in, 3*24*time.Hour) }, incremental},
		"FullIsOld":       {func(in *agenda.Input) { older(in, 7*24*time.Hour) }, plain},
		"FullIsAlmostOld": {func(in *agenda.Input) { older(in, 7*24*time.Hour-10*time.Second) }, plain},
		"ParentIsElsewhere": {func(in *agenda.Input) {
			edit(in, "last", func(s *catalog.Set) { s.Copies = map[string]catalog.Copy{"moon": {State: catalog.CopyComplete}} })
		}, "begin backup backup disk,far schedule"},
		"RootIsLost": {func(in *agenda.Input) {
			older(in, 24*time.Hour)
			edit(in, "root", func(s *catalog.Set) { s.Copies = nil })
		}, "begin backup backup disk,far gap"},
		"PagesWereDamaged":  {func(in *agenda.Input) { edit(in, "last", func(s *catalog.Set) { s.Damaged = true }) }, plain},
		"First":             {noSets, "begin backup backup disk,far first"},
		"NewTimeline":       {func(in *agenda.Input) { in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: 0x9000} }, "begin backup backup disk,far timeline"},
		"FailedOnce":        {func(in *agenda.Input) { fails(in, 1) }, "begin backup main disk,far last schedule #2"},
		"FailedTwice":       {func(in *agenda.Input) { fails(in, 2) }, "begin backup main disk,far schedule #3"},
		"Operator":          {func(in *agenda.Input) { ask(in, "") }, "begin backup backup disk,far last operator"},
		"OperatorWantsFull": {func(in *agenda.Input) { ask(in, agenda.Full) }, "begin backup backup disk,far operator"},
		"OperatorWantsIncremental": {func(in *agenda.Input) {
			ask(in, agenda.Incremental)
			in.Policy.Incremental = false
		}, "begin backup backup disk,far last operator"},
		"OperatorWantsTheImpossible": {func(in *agenda.Input) { noSets(in); ask(in, agenda.Incremental) }, "raise backup-parent error"},
	} {
		t.Run(name, func(t *testing.T) {
			in := nextNight()
			tc.change(&in)
			if got := brief(agenda.Decide(in)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// fails makes the last n backups of this night fail.
func fails(in *agenda.Input, n int) {
	for i := range n {
		j := full(agenda.JobFailed, 0, time.Second)
		j.Began = in.Now.Add(time.Duration(i-n) * 10 * time.Minute)
		j.Ended = j.Began.Add(time.Second)
		in.Jobs = append(in.Jobs, j)
	}
}
