package catalog_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestParse(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, tc := range []struct {
		in   string
		zone *time.Location
		want string // the target in its own words, or a part of the error
	}{
		{"latest", nil, "latest"},
		{" immediate ", nil, "immediate"},
		{"2026-11-22 10:00:00+01", nil, "2026-11-22 09:00:00+00:00"},
		{"2026-11-22T10:00:00Z", nil, "2026-11-22 10:00:00+00:00"},
		{"2026-11-22T10:00:00.123456789-03:30", nil, "2026-11-22 13:30:00.123456+00:00"},
		{"2026-11-22 10:00 +0100", nil, "2026-11-22 09:00:00+00:00"},
		{"time:2026-11-22 10:00:00+01:00", nil, "2026-11-22 09:00:00+00:00"},
		{"2026-11-22 10:00:00", nil, "no offset from UTC"},
		{"2026-11-22 10:00:00", berlin, "2026-11-22 09:00:00+00:00"},
		{"2026-07-22 10:00:00.5", berlin, "2026-07-22 08:00:00.5+00:00"},
		{"2026-11-22", berlin, "2026-11-21 23:00:00+00:00"},
		{"2026-10-25 02:30", berlin, "twice"},
		{"2026-10-25 03:00", berlin, "2026-10-25 02:00:00+00:00"},
		{"2026-10-25 01:59:59", berlin, "2026-10-24 23:59:59+00:00"},
		{"2026-03-29 02:30", berlin, "never"},
		{"2026-03-29 03:00", berlin, "2026-03-29 01:00:00+00:00"},
		{"2026-13-22 10:00:00+01", nil, "is no time"},
		{"1926-11-22 10:00:00+01", nil, "year"},
		{"16/b374D848", nil, "16/B374D848"},
		{"lsn:0/0", nil, "before all log"},
		{"lsn:latest", nil, "not a target"},
		{"time:16/B374D848", nil, "not a target"},
		{"xid:731", nil, "xid:731"},
		{"xid:2", nil, "no transaction id"},
		{"xid:-7", nil, "no transaction id"},
		{"731", nil, "not a target"},
		{"before_the_migration", nil, "name:before_the_migration"},
		{"name:2026-11-22", nil, "name:2026-11-22"},
		{"name:", nil, "1 to 63"},
		{"name:" + strings.Repeat("x", 64), nil, "1 to 63"},
		{"name:a\nb", nil, "printable"},
		{"", nil, "not a target"},
	} {
		got, err := catalog.Parse(tc.in, tc.zone)
		switch {
		case err != nil && (!errors.Is(err, catalog.ErrTarget) || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%q: %v, want %q", tc.in, err, tc.want)
		case err == nil && (got.String() != tc.want || !got.Inclusive):
			t.Errorf("%q: got %s, want %s", tc.in, got, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"latest", "immediate", "2026-11-22 10:00:00+01", "2026-11-22T10:00:00.5Z", "16/B374D848", "xid:731", "name:x", "before"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := catalog.Parse(s, nil)
		if err != nil {
			return
		}
		again, err := catalog.Parse(got.String(), nil)
		if err != nil || again != got {
			t.Fatalf("%q is %+v, which is written %q and read %+v (%v)", s, got, got.String(), again, err)
		}
	})
}

// day is a moment of the little history of the tables below.
func day(n int, clock string) time.Time {
	at, err := time.Parse("2006-01-02 15:04", "2026-11-01 "+clock)
	if err != nil {
		panic(err)
	}
	return at.AddDate(0, 0, n-1)
}

// small is two days of one timeline at two locations, a set at the beginning
// of each, a commit every hour; "far" lacks a stretch of the first day.
func small() catalog.Catalog {
	mark := func(lsn pos.LSN, at time.Time, name string) catalog.Mark {
		return catalog.Mark{LSN: lsn, At: at, Name: name}
	}
	marks := []catalog.Mark{mark(0x1500, day(1, "03:00"), ""), mark(0x2500, day(1, "12:00"), ""), mark(0x2800, day(1, "13:00"), "lunch"),
		mark(0x4800, day(2, "02:10"), ""), mark(0x5500, day(2, "12:00"), "")}
	both := map[string]catalog.Copy{"near": {State: catalog.CopyComplete}, "far": {State: catalog.CopyComplete}}
	return catalog.Catalog{
		SegSize:   0x1000,
		Timelines: map[pos.Timeline]catalog.Timeline{1: {}},
		Sets: map[string]catalog.Set{
			"one": {State: catalog.SetComplete, Timeline: 1, Start: 0x1000, End: 0x1800, Ended: day(1, "04:00"), Copies: both, RawBytes: 1e9},
			"two": {State: catalog.SetComplete, Timeline: 1, Start: 0x4000, End: 0x4900, Ended: day(2, "02:05"), Copies: both},
		},
		Places: map[string]catalog.Place{
			"near": {WAL: []catalog.Span{{Timeline: 1, From: 0x1000, To: 0x5800, Marks: marks}}},
			"far": {WAL: []catalog.Span{{Timeline: 1, From: 0x1000, To: 0x3000, Marks: marks[:3]}, {Timeline: 1, From: 0x4000, To: 0x5800, Marks: marks[3:]}},
				Gaps: []catalog.Gap{{Timeline: 1, From: 0x3000, To: 0x4000, Cause: "the spool was full"}}},
		},
	}
}

func TestChoose_Small(t *testing.T) {
	at := func(n int, clock string) catalog.Target {
		return catalog.Target{Kind: catalog.AtTime, Time: day(n, clock), Inclusive: true}
	}
	for name, tc := range map[string]struct {
		target catalog.Target
		o      catalog.Options
		change func(*catalog.Catalog)
		want   string // the set, or a part of the refusal
	}{
		"Latest":                  {target: catalog.Target{Kind: catalog.Latest}, want: "two"},
		"NeverNewerThanTarget":    {target: at(2, "02:00"), want: "one"},
		"CommitWithinSetIsLater":  {target: at(2, "02:07"), want: "one"},
		"AfterThatCommit":         {target: at(2, "02:10"), want: "two"},
		"BeforeAll":               {target: at(1, "03:59"), want: "the oldest set that can be used, one, ended at 2026-11-01 04:00:00+00:00"},
		"AfterLastCommit":         {target: at(2, "12:00"), want: "the last commit that is known to be in it is of 2026-11-02 12:00:00+00:00; nearest that can be reached: 2026-11-02 11:59:59.999999+00:00 before it"},
		"InGapOfOneLocation":      {target: at(1, "20:00"), want: "one"},
		"InGap":                   {target: at(1, "20:00"), o: catalog.Options{Locations: []string{"far"}}, want: "the spool was full"},
		"GapHasNeighbours":        {target: at(1, "20:00"), o: catalog.Options{Locations: []string{"far"}}, want: "2026-11-01 11:59:59.999999+00:00 before it, 2026-11-02 02:10:00+00:00 after it"},
		"RestorePointIsNoStop":    {target: at(1, "12:30"), o: catalog.Options{Locations: []string{"far"}}, want: "the last commit that is known"},
		"LSN":                     {target: catalog.Target{Kind: catalog.AtLSN, LSN: 0x48ff}, want: "one"},
		"LSNAtEndOfSet":           {target: catalog.Target{Kind: catalog.AtLSN, LSN: 0x4900}, want: "two"},
		"LSNBeyondLog":            {target: catalog.Target{Kind: catalog.AtLSN, LSN: 0x5800}, want: "ends at 0/5800"},
		"Name":                    {target: catalog.Target{Kind: catalog.AtName, Name: "lunch"}, want: "one"},
		"NameFromNamedSet":        {target: catalog.Target{Kind: catalog.AtName, Name: "lunch"}, o: catalog.Options{Set: "two"}, want: `restore point "lunch" is known, but`},
		"UnknownName":             {target: catalog.Target{Kind: catalog.AtName, Name: "dinner"}, want: "two"},
		"XID":                     {target: catalog.Target{Kind: catalog.AtXID, XID: 777}, want: "two"},
		"NamedSet":                {target: catalog.Target{Kind: catalog.AtXID, XID: 777}, o: catalog.Options{Set: "one"}, want: "one"},
		"NamedSetIsTooNew":        {target: at(2, "02:00"), o: catalog.Options{Set: "two"}, want: "and it was named"},
		"NamedSetUnknown":         {target: at(2, "02:00"), o: catalog.Options{Set: "six"}, want: "set six is not known"},
		"Excluded":                {target: catalog.Target{Kind: catalog.Immediate}, o: catalog.Options{Exclude: []string{"two"}}, want: "one"},
		"UnknownTimeline":         {target: catalog.Target{Kind: catalog.Latest, Timeline: 7}, want: "timeline 7 is not known"},
		"NoLocation":              {target: catalog.Target{Kind: catalog.Latest}, o: catalog.Options{Locations: []string{"moon"}}, want: "has no complete copy at moon"},
		"DamagedPagesAreLastWord": {target: catalog.Target{Kind: catalog.Latest}, change: func(c *catalog.Catalog) { damage(c, "two") }, want: "one"},
		"DamagedPagesAreBetterThanNothing": {target: catalog.Target{Kind: catalog.Latest}, o: catalog.Options{Locations: []string{"far"}},
			change: func(c *catalog.Catalog) { damage(c, "two"); delete(c.Sets, "one") }, want: "two"},
		"NothingKnown": {target: catalog.Target{Kind: catalog.Latest}, change: func(c *catalog.Catalog) { *c = catalog.Catalog{} }, want: "there is no complete set"},
		"NothingKnownAndNamed": {target: catalog.Target{Kind: catalog.Latest}, o: catalog.Options{Set: "one"},
			change: func(c *catalog.Catalog) { *c = catalog.Catalog{} }, want: "set one is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			c := small()
			if tc.change != nil {
				tc.change(&c)
			}
			got, err := catalog.Choose(c, tc.target, tc.o)
			if err != nil {
				if !errors.Is(err, catalog.ErrImpossible) || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("refused with %v, want %q", err, tc.want)
				}
				return
			}
			if got.Set != tc.want {
				t.Fatalf("chose %s, want %s", got.Set, tc.want)
			}
		})
	}
}

func damage(c *catalog.Catalog, label string) {
	s := c.Sets[label]
	s.Damaged = true
	c.Sets[label] = s
}

// A set that was taken after the place where the history went another way is
// not on the way, and one before it is.
func TestChoose_RespectsForks(t *testing.T) {
	c := small()
	c.Timelines[2] = catalog.Timeline{Parent: 1, Fork: 0x4300, At: day(2, "01:00")}
	near := c.Places["near"]
	near.WAL = append(near.WAL, catalog.Span{Timeline: 2, From: 0x4300, To: 0x4f00, Marks: []catalog.Mark{{LSN: 0x4e00, At: day(2, "03:00")}}})
	c.Places["near"] = near
	got, err := catalog.Choose(c, catalog.Target{Kind: catalog.Latest}, catalog.Options{})
	if err != nil || got.Set != "one" || got.Timeline() != 2 || got.Stop != 0x4f00 {
		t.Fatalf("got %+v (%v)", got, err)
	}
	if last := got.WAL[len(got.WAL)-1]; last.Timeline != 2 || last.From != 0x4000 {
		t.Errorf("the first segment of timeline 2 holds the end of timeline 1: got %+v", got.WAL)
	}
	left, err := catalog.Choose(c, catalog.Target{Kind: catalog.Latest, Timeline: 1}, catalog.Options{})
	if err != nil || left.Set != "two" || left.Timeline() != 1 {
		t.Errorf("on the timeline that was left: got %+v (%v)", left, err)
	}
	r := catalog.Reachable(c, "")
	if len(r.Intervals) != 2 || r.Intervals[0].Timeline != 2 || r.Intervals[1].FromLSN != 0x4300 {
		t.Errorf("got %+v", r.Intervals)
	}
}

func TestProtected(t *testing.T) {
	c := small()
	p := catalog.Protected(c, []string{"near", "far"})
	if got := strings.Join(p.Sets, " "); got != "one two" {
		t.Errorf("got %q", got)
	}
	near, far := p.Places[0], p.Places[1]
	if !near.Whole || !near.Since.Equal(day(1, "04:00")) || near.UpTo != 0x5800 || !near.Last.Equal(day(2, "12:00")) {
		t.Errorf("near: %+v", near)
	}
	if !far.Whole || !far.Since.Equal(day(2, "02:10")) || far.From != 0x4900 {
		t.Errorf("far: %+v", far)
	}
	delete(c.Sets, "two")
	if far := c.Stand("far"); far.Whole || far.Gap == nil || far.Gap.Cause != "the spool was full" || far.Gap.To != 0x4000 {
		t.Errorf("far without its second set: %+v", far)
	}
	if got := catalog.Protected(c, []string{"near", "moon"}); len(got.Sets) != 0 {
		t.Errorf("nothing is at moon: %+v", got)
	}
}

func TestEstimate(t *testing.T) {
	c, err := catalog.Choose(small(), catalog.Target{Kind: catalog.Latest}, catalog.Options{Set: "one"})
	if err != nil {
		t.Fatal(err)
	}
	got := catalog.Estimate(c, catalog.Rates{Restore: 1e8, Replay: float64(0x4800), Start: time.Second})
	if got != 12*time.Second {
		t.Errorf("got %s, want 10 s for the set, 1 s for the log, 1 s for the start", got)
	}
	if got := catalog.Estimate(catalog.Choice{RawBytes: 1 << 62}, catalog.Rates{Restore: 1e-9}); got <= 0 {
		t.Errorf("a long time is %s", got)
	}
}

func TestCatalog_RefusesHistoriesThatAreNone(t *testing.T) {
	for name, h := range map[string]map[pos.Timeline]catalog.Timeline{
		"Circle":      {1: {Parent: 2, Fork: 5}, 2: {Parent: 1, Fork: 5}},
		"ForkTooLow":  {1: {}, 2: {Parent: 1, Fork: 0x2000}, 3: {Parent: 2, Fork: 0x1000}},
		"ChildOfSelf": {3: {Parent: 3, Fork: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c := small()
			c.Timelines = h
			_, err := catalog.Choose(c, catalog.Target{Kind: catalog.Latest}, catalog.Options{})
			if err == nil || !strings.Contains(err.Error(), "no history") {
				t.Errorf("got %v", err)
			}
		})
	}
}
