package retention_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/ledger/retention"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

const segSize = 0x1000

var first = time.Date(2026, 1, 1, 2, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// label is that of the set of a day.
func label(n int) string { return first.AddDate(0, 0, n).Format("20060102") }

// daily is a history of one timeline: a set every night, a segment and a half
// of log per day, a commit every quarter of it.
func daily(days int, places ...string) catalog.Catalog {
	c := catalog.Catalog{SegSize: segSize, Timelines: map[pos.Timeline]catalog.Timeline{1: {}}, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}}
	span := catalog.Span{Timeline: 1, From: segSize, To: at(days)}
	for n := range days {
		began := first.AddDate(0, 0, n)
		s := catalog.Set{State: catalog.SetComplete, Timeline: 1, Start: at(n), End: at(n) + 0x80, Began: began, Ended: began.Add(time.Hour), Copies: map[string]catalog.Copy{}}
		for _, p := range places {
			s.Copies[p] = catalog.Copy{State: catalog.CopyComplete}
		}
		c.Sets[label(n)] = s
		for q := range 4 {
			span.Marks = append(span.Marks, catalog.Mark{LSN: at(n) + 0x100 + pos.LSN(q*0x600), At: began.Add(time.Duration(2+q*6) * time.Hour)})
		}
	}
	for _, p := range places {
		c.Places[p] = catalog.Place{WAL: []catalog.Span{span}}
	}
	return c
}

// at is where the log is when the set of a day begins.
func at(n int) pos.LSN { return segSize + 0x200 + pos.LSN(n*segSize*3/2) }

func kept(p retention.Place) []string {
	var out []string
	for _, k := range p.Keep {
		out = append(out, k.Label)
	}
	return out
}

func labels(days ...int) []string {
	var out []string
	for _, n := range days {
		out = append(out, label(n))
	}
	return out
}

func change(c catalog.Catalog, n int, f func(*catalog.Set)) {
	s := c.Sets[label(n)]
	s.Copies = maps.Clone(s.Copies)
	f(&s)
	c.Sets[label(n)] = s
}

func TestMake_Rules(t *testing.T) {
	for name, tc := range map[string]struct {
		days   int
		rules  retention.Rules
		change func(*retention.Input)
		want   []string
	}{
		"NothingSaid":     {days: 3, want: labels(0, 1, 2)},
		"OnlyFailedSaid":  {days: 3, rules: retention.Rules{FailedAfter: day}, want: labels(0, 1, 2)},
		"Number":          {days: 6, rules: retention.Rules{KeepN: 2}, want: labels(4, 5)},
		"MoreThanThere":   {days: 2, rules: retention.Rules{KeepN: 5}, want: labels(0, 1)},
		"NumberOfUsable":  {days: 6, rules: retention.Rules{KeepN: 2}, change: func(in *retention.Input) { change(in.Catalog, 4, damaged) }, want: labels(3, 4, 5)},
		"Window":          {days: 6, rules: retention.Rules{Window: 2 * day}, want: labels(3, 4, 5)},
		"WindowAndNumber": {days: 6, rules: retention.Rules{Window: 2 * day, KeepN: 5}, want: labels(1, 2, 3, 4, 5)},
		"Cycles":          {days: 6, rules: retention.Rules{Cycles: 2}, want: labels(3, 4, 5)},
		"CycleWithGap": {days: 6, rules: retention.Rules{Cycles: 2}, change: func(in *retention.Input) {
			hole(in.Catalog, "disk", at(3)+segSize, at(3)+segSize+1)
		}, want: labels(2, 3, 4, 5)},
		"Days":           {days: 6, rules: retention.Rules{Daily: 3}, want: labels(3, 4, 5)},
		"Weeks":          {days: 20, rules: retention.Rules{Weekly: 3}, want: labels(10, 17, 19)}, // Sundays and the last
		"MonthsAndYears": {days: 70, rules: retention.Rules{Monthly: 3, Yearly: 9}, want: labels(30, 58, 69)},
		"ZoneOfDays": {days: 3, rules: retention.Rules{Monthly: 5, Zone: time.FixedZone("early", -6*3600)},
			want: labels(0, 2)}, // three at night of the first of January is December there
		"Pinned": {days: 6, rules: retention.Rules{KeepN: 2}, change: func(in *retention.Input) {
			change(in.Catalog, 1, func(s *catalog.Set) { s.Pinned = true })
		}, want: labels(1, 4, 5)},
		"GoldAnywhere": {days: 6, rules: retention.Rules{KeepN: 2}, change: func(in *retention.Input) {
			change(in.Catalog, 1, func(s *catalog.Set) { s.Gold = true })
		}, want: labels(1, 4, 5)},
		"GoldElsewhereOnly": {days: 6, rules: retention.Rules{KeepN: 2}, change: func(in *retention.Input) {
			change(in.Catalog, 1, func(s *catalog.Set) { s.Gold = true })
			in.Rules["cold"] = retention.Rules{GoldEvery: 30 * day}
		}, want: labels(4, 5)},
		"BecomesGold": {days: 6, rules: retention.Rules{KeepN: 1, GoldEvery: 3 * day}, want: labels(0, 3, 5)},
		"NextGold": {days: 6, rules: retention.Rules{KeepN: 1, GoldEvery: 3 * day}, change: func(in *retention.Input) {
			change(in.Catalog, 1, func(s *catalog.Set) { s.Gold = true })
		}, want: labels(1, 4, 5)},
		"Used": {days: 6, rules: retention.Rules{KeepN: 1}, change: func(in *retention.Input) {
			in.Uses = []retention.Use{{Job: "r1", Label: label(2)}, {Job: "r2", Label: label(1), Location: "cold"}}
		}, want: labels(2, 5)},
		"FailedLately": {days: 6, rules: retention.Rules{KeepN: 1, FailedAfter: 3 * day}, change: func(in *retention.Input) {
			change(in.Catalog, 1, failed)
			change(in.Catalog, 4, failed)
		}, want: labels(4, 5)},
		"BeingTaken": {days: 6, rules: retention.Rules{KeepN: 1}, change: func(in *retention.Input) {
			change(in.Catalog, 5, func(s *catalog.Set) { s.State = catalog.SetRunning })
		}, want: labels(4, 5)},
		"RemovingIsLost": {days: 3, rules: retention.Rules{KeepN: 3}, change: func(in *retention.Input) {
			change(in.Catalog, 1, func(s *catalog.Set) { s.Copies["disk"] = catalog.Copy{State: catalog.CopyRemoving}; s.Pinned = true })
		}, want: labels(0, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			in := retention.Input{Catalog: daily(tc.days, "disk"), Rules: map[string]retention.Rules{"disk": tc.rules}, Now: first.AddDate(0, 0, tc.days-1).Add(2 * time.Hour)}
			if tc.change != nil {
				tc.change(&in)
			}
			p := retention.Make(in)
			i := slices.IndexFunc(p.Places, func(x retention.Place) bool { return x.Location == "disk" })
			if got := kept(p.Places[i]); !slices.Equal(got, tc.want) || p.Places[i].Frozen != "" {
				t.Errorf("kept %v, want %v\n%s", got, tc.want, p)
			}
			for _, s := range p.Places[i].Steps {
				if s.Kind != retention.StepWAL && slices.Contains(tc.want, s.Label) {
					t.Errorf("keeps and removes %s", s.Label)
				}
			}
		})
	}
}

func damaged(s *catalog.Set) { s.Copies["disk"] = catalog.Copy{State: catalog.CopyDamaged} }

func failed(s *catalog.Set) { s.State = catalog.SetFailed }

// hole takes whole segments out of the log of a location.
func hole(c catalog.Catalog, place string, from, to pos.LSN) {
	cut(c, place, 1, pos.Range{From: from.SegStart(segSize), To: (to - 1).SegEnd(segSize)})
}

// cut takes a range out of a location's log, on a copy of it.
func cut(c catalog.Catalog, place string, t pos.Timeline, r pos.Range) {
	p := c.Places[place]
	var out []catalog.Span
	for _, s := range p.WAL {
		if s.Timeline != t || s.To <= r.From || s.From >= r.To {
			out = append(out, s)
			continue
		}
		for _, part := range []pos.Range{{From: s.From, To: r.From}, {From: r.To, To: s.To}} {
			if part.From >= part.To {
				continue
			}
			x := catalog.Span{Timeline: t, From: part.From, To: part.To}
			for _, m := range s.Marks {
				if m.LSN > x.From && m.LSN <= x.To {
					x.Marks = append(x.Marks, m)
				}
			}
			out = append(out, x)
		}
	}
	p.WAL = out
	c.Places[place] = p
}

func TestMake_Freezes(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*retention.Input)
		want   string
	}{
		"ByOperator":      {func(in *retention.Input) { in.Freeze = "an audit" }, "an audit"},
		"DamagedIsNewest": {func(in *retention.Input) { change(in.Catalog, 5, func(s *catalog.Set) { s.Damaged = true }) }, "damaged pages"},
		"DamagedAndFailed": {func(in *retention.Input) {
			change(in.Catalog, 5, func(s *catalog.Set) { s.Damaged, s.State, s.Start, s.End = true, catalog.SetFailed, 0, 0 })
		}, "damaged pages"},
		"Unreachable": {func(in *retention.Input) { in.Blocked = map[string]string{"disk": "half of it cannot be read"} }, "half of it"},
		"NothingUsable": {func(in *retention.Input) {
			for n := range 6 {
				change(in.Catalog, n, damaged)
			}
		}, "no whole set"},
		"NoLog":               {func(in *retention.Input) { in.Catalog.Places = nil }, "no whole set"},
		"NothingOnNewHistory": {func(in *retention.Input) { in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: at(0) - 1} }, "no whole set"},
		"HistoryIsNone":       {func(in *retention.Input) { in.Catalog.Timelines[2] = catalog.Timeline{Parent: 2, Fork: 1} }, "history of the newest"},
	} {
		t.Run(name, func(t *testing.T) {
			in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}}, Now: first.AddDate(0, 0, 6)}
			tc.change(&in)
			p := retention.Make(in)
			if len(p.Places[0].Steps) != 0 || len(p.Gold) != 0 || !strings.Contains(p.Frozen+p.Places[0].Frozen, tc.want) {
				t.Errorf("got\n%s", p)
			}
		})
	}
	in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}}, Now: first.AddDate(0, 0, 6)}
	change(in.Catalog, 4, func(s *catalog.Set) { s.Damaged = true })
	if p := retention.Make(in); p.Frozen != "" || len(p.Places[0].Steps) == 0 {
		t.Errorf("a good set is newer than the damaged one, and still:\n%s", p)
	}
}

// One location that cannot be reached keeps nothing at the others.
func TestMake_BlockedLocationHoldsNoOther(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk", "far"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}, "far": {KeepN: 1}}, Now: first.AddDate(0, 0, 6)}
	all := retention.Make(in)
	in.Blocked = map[string]string{"far": "gone"}
	cut(in.Catalog, "far", 1, pos.Range{From: at(4).SegStart(segSize), To: at(7)})
	some := retention.Make(in)
	if len(all.Places[0].Steps) != len(some.Places[0].Steps) || len(some.Places[1].Steps) != 0 {
		t.Errorf("without far:\n%s\nwith it:\n%s", some, all)
	}
}

// Sets that were taken on the part of a timeline that was lost do not count,
// or the new timeline would have none.
func TestMake_CountsSetsOfTheNewestHistory(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 2}}, Now: first.AddDate(0, 0, 6)}
	in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: at(4), At: first.AddDate(0, 0, 6)}
	p := in.Catalog.Places["disk"]
	p.WAL = append(p.WAL, catalog.Span{Timeline: 2, From: at(4), To: at(4) + 0x100})
	in.Catalog.Places["disk"] = p
	if got := kept(retention.Make(in).Places[0]); !slices.Equal(got, labels(2, 3, 4, 5)) {
		t.Errorf("kept %v", got)
	}
}

// An old primary that went on for days beside the new one: its moments are in
// the window, too, and need a set that is older.
func TestMake_KeepsMomentsOfLeftTimelines(t *testing.T) {
	in := retention.Input{Catalog: daily(12, "disk"), Rules: map[string]retention.Rules{"disk": {Window: 3 * day}}, Now: first.AddDate(0, 0, 11).Add(6 * time.Hour)}
	in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: at(2), At: first.AddDate(0, 0, 2)}
	p := in.Catalog.Places["disk"]
	p.WAL = append(p.WAL, catalog.Span{Timeline: 2, From: at(2), To: at(12)})
	in.Catalog.Places["disk"] = p
	for n := 2; n < 12; n++ {
		s := in.Catalog.Sets[label(n)]
		s.Timeline, s.Start, s.End, s.Ended = 2, s.Start+1, s.End+1, s.Ended.Add(time.Hour)
		in.Catalog.Sets["b"+label(n)] = s
	}
	delete(in.Catalog.Sets, label(8))
	got := kept(retention.Make(in).Places[0])
	want := []string{label(7), "b" + label(8), label(9), "b" + label(9), label(10), "b" + label(10), label(11), "b" + label(11)}
	if !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

// The end of a kept set's log may be in the first segment of the timeline that
// was promoted right behind it, and nowhere else.
func TestMake_KeepsFirstSegmentOfNextTimeline(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}}, Now: first.AddDate(0, 0, 6)}
	change(in.Catalog, 1, func(s *catalog.Set) { s.Pinned = true })
	fork := at(1) + 0x100
	in.Catalog.Timelines[2] = catalog.Timeline{Parent: 1, Fork: fork}
	for n := 2; n < 6; n++ {
		change(in.Catalog, n, func(s *catalog.Set) { s.Timeline = 2 })
	}
	p := in.Catalog.Places["disk"]
	p.WAL = []catalog.Span{{Timeline: 1, From: segSize, To: fork.SegStart(segSize)}, {Timeline: 2, From: fork, To: at(6)}}
	in.Catalog.Places["disk"] = p
	removed := 0
	for _, s := range retention.Make(in).Places[0].Steps {
		if s.Kind != retention.StepWAL {
			continue
		}
		removed++
		if s.Timeline == 2 && s.WAL.From < fork.SegEnd(segSize) {
			t.Errorf("removes %+v, which has the log of the pinned set", s)
		}
	}
	if removed == 0 {
		t.Error("removes no log at all")
	}
}

// Log that another location lacks for a set that it keeps stays, whatever the
// rules here are.
func TestMake_KeepsLogForOthers(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk", "far"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}, "far": {Monthly: 12}}, Now: first.AddDate(0, 0, 6)}
	change(in.Catalog, 1, func(s *catalog.Set) { s.Pinned = true; delete(s.Copies, "disk") })
	hole(in.Catalog, "far", at(1), at(1)+0x80)
	for _, s := range retention.Make(in).Places[0].Steps {
		if s.Kind == retention.StepWAL && s.WAL.From < at(1)+0x80 && s.WAL.To > at(1) {
			t.Errorf("removes %+v, which the set pinned at far needs", s)
		}
	}
}

func TestMake_KeepsLogInUse(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 1}}, Now: first.AddDate(0, 0, 6)}
	floor := func() pos.LSN {
		var upto pos.LSN
		for _, s := range retention.Make(in).Places[0].Steps {
			upto = max(upto, s.WAL.To)
		}
		return upto
	}
	if got, want := floor(), at(5).SegStart(segSize); got != want {
		t.Errorf("removes up to %s, want %s", got, want)
	}
	in.Uses = []retention.Use{{Job: "r", Floor: at(2)}}
	if got, want := floor(), at(2).SegStart(segSize); got != want {
		t.Errorf("removes up to %s, want %s", got, want)
	}
	in.Uses = nil
	in.Catalog.Sets["new"] = catalog.Set{State: catalog.SetRunning, Began: in.Now}
	if got := floor(); got != 0 {
		t.Errorf("removes up to %s although a set that has begun may need it", got)
	}
}

func TestWants(t *testing.T) {
	in := retention.Input{Catalog: daily(6, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 6}, "new": {KeepN: 1, Daily: 3}}, Now: first.AddDate(0, 0, 6)}
	w := retention.Wants(in, "new")
	if !slices.Equal(w.Sets, labels(5, 4, 3)) {
		t.Errorf("wants %v", w.Sets)
	}
	var bytes pos.LSN
	for _, s := range w.Log {
		bytes += s.To - s.From
		if !slices.Equal(s.Locations, []string{"disk"}) {
			t.Errorf("got %+v", s)
		}
	}
	if len(w.Log) == 0 || w.Log[len(w.Log)-1].To != at(6) || bytes > 5*segSize {
		t.Errorf("wants log %+v", w.Log)
	}
	if full := retention.Wants(in, "disk"); len(full.Sets) != 6 || len(full.Log) != 0 {
		t.Errorf("a location that has all wants %+v", full)
	}
}

func TestPlan_PrintsReasons(t *testing.T) {
	in := retention.Input{Catalog: daily(3, "disk"), Rules: map[string]retention.Rules{"disk": {KeepN: 1, GoldEvery: 300 * day}}, Now: first.AddDate(0, 0, 3)}
	want := fmt.Sprintf(`set %[1]s becomes gold
disk:
  keep    %[1]s: becomes gold
  keep    %[3]s: the newest set that can be restored here; among the newest 1
  remove  %[2]s: no rule keeps it
  remove  log of timeline 1 from 0/2000 to 0/4000: no kept set needs it
`, label(0), label(1), label(2))
	if got := retention.Make(in).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRules_Validate(t *testing.T) {
	for _, r := range []retention.Rules{{KeepN: -1}, {Yearly: 1 << 30}, {Window: -day}, {GoldEvery: -1}, {FailedAfter: -1}} {
		if r.Validate() == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
	if err := (retention.Rules{KeepN: 2, Window: 10 * day}).Validate(); err != nil {
		t.Error(err)
	}
}
