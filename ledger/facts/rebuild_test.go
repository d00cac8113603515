package facts_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// exported is the export of a group with two sets, one job that runs and one
// drill.
func exported(t testing.TB) (facts.State, []byte) {
	t.Helper()
	l := depot(t)
	take(l, 1, "a", "b")
	take(l, 2, "a")
	l.must(beginJob(l, "d", facts.JobDrill, label(1), "a"), facts.Command{RecordDrill: &facts.RecordDrill{Job: ref("d"), Drill: facts.Drill{Label: label(1), OK: true}}})
	b, err := facts.Export(l.s)
	if err != nil {
		t.Fatal(err)
	}
	return l.s, b
}

func TestImport_RoundTripAndRefusals(t *testing.T) {
	s, b := exported(t)
	x, err := facts.Import(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := facts.Export(s); err != nil || !bytes.Equal(b, again) {
		t.Errorf("another export: %v", err)
	}
	if d := cmp.Diff(s.Backups.Catalogs, x.Catalogs); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(s.Policy, x.Policy); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(s.Audit, x.Audit); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"a": "main", "b": "backup"}, x.Feeders); d != "" {
		t.Error(d)
	}
	if x.Group.Name != "shop" || len(x.Members) != 3 || x.Members[0].Name != "backup" || x.Primary != "main" || x.State != s.Version ||
		len(x.Jobs) != 3 || len(x.Drills) != 1 || len(x.Lineage) != 1 || x.LastTimeline != 1 {
		t.Errorf("%+v", x)
	}
	for i := range b {
		for _, bit := range []byte{1, 0x20} {
			bad := bytes.Clone(b)
			bad[i] ^= bit
			if _, err := facts.Import(bad); !errors.Is(err, facts.ErrExportDamaged) {
				t.Fatalf("byte %d ^ %#x: %v", i, bit, err)
			}
		}
	}
	for _, n := range []int{0, 1, 10, 80, len(b) / 2, len(b) - 1} {
		if _, err := facts.Import(b[:n]); !errors.Is(err, facts.ErrExportDamaged) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := facts.Export(facts.State{}); err == nil {
		t.Error("exported no group")
	}
}

// rebuilt is a group founded anew with the policy of the export, to which the
// exported catalog is added.
func TestApply_RebuildFromAnExport(t *testing.T) {
	old, b := exported(t)
	x, err := facts.Import(b)
	if err != nil {
		t.Fatal(err)
	}
	l := founded(t)
	rebuild := facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: x.Catalogs[pg]}}
	l.want(facts.CodeUnknownLocation, rebuild)
	l.must(setPolicy(l, x.Policy), rebuild)
	got, want := cat(t, l.s), cat(t, old)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if l.s.LastTimeline != 1 || l.s.NextTimeline() != 2 {
		t.Errorf("timeline %d would be used twice", l.s.NextTimeline())
	}
	again := l.s
	l.must(rebuild)
	if d := cmp.Diff(cat(t, again), cat(t, l.s)); d != "" {
		t.Errorf("it is not the same twice: %s", d)
	}
}

func TestApply_RebuildMergesAndNeverForgets(t *testing.T) {
	l := depot(t)
	take(l, 1, "a")
	take(l, 2, "a", "b")
	l.damage(2)
	l.must(beginJob(l, "p", facts.JobPrune, "", "b"))
	known := cat(t, l.s)
	found := whole(3)
	found.Timeline = 5
	found.Copies = map[string]catalog.Copy{"c": {State: catalog.CopyComplete}}
	other := whole(1)
	other.Digest, other.Copies = "another", map[string]catalog.Copy{"b": {State: catalog.CopyComplete}}
	same := whole(2)
	same.Copies = map[string]catalog.Copy{"a": {State: catalog.CopyComplete}, "c": {State: catalog.CopyComplete}}
	l.must(facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: catalog.Catalog{
		Group: "shop", Profile: pg, SystemID: 1 << 60, Sets: map[string]catalog.Set{label(1): other, label(2): same, label(3): found},
		Timelines: map[pos.Timeline]catalog.Timeline{5: {Parent: 1, Fork: 250}},
		Places:    map[string]catalog.Place{"c": {WAL: []catalog.Span{{Timeline: 5, From: 240, To: 400}}}, "a": {WAL: []catalog.Span{span(150, 160), span(500, 600)}}},
	}}})
	got := cat(t, l.s)
	if d := cmp.Diff(known.Sets[label(1)], got.Sets[label(1)]); d != "" {
		t.Errorf("a known set changed: %s", d)
	}
	two := got.Sets[label(2)].Copies
	if two["a"].State != catalog.CopyDamaged && two["a"].Problem == "" || two["b"].State != catalog.CopyComplete || two["c"].State != catalog.CopyComplete {
		t.Errorf("%+v", two)
	}
	if len(got.Sets) != 3 || got.Sets[label(3)].Copies["c"].State != catalog.CopyComplete || got.Timelines[5].Fork != 250 || len(got.Timelines) != 2 {
		t.Errorf("%+v", got)
	}
	if d := cmp.Diff([]catalog.Span{span(100, 300), span(500, 600)}, got.Places["a"].WAL); d != "" {
		t.Error(d)
	}
	if l.s.LastTimeline != 5 {
		t.Errorf("timeline %d would be given out again", l.s.NextTimeline())
	}
}

func TestApply_RebuildRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*catalog.Catalog)
		code  string
	}{
		"Group":        {func(c *catalog.Catalog) { c.Group = "other" }, facts.CodeOtherDatabase},
		"Profile":      {func(c *catalog.Catalog) { c.Profile = "x" }, facts.CodeUnknownProfile},
		"SystemID":     {func(c *catalog.Catalog) { c.SystemID++ }, facts.CodeOtherDatabase},
		"Major":        {func(c *catalog.Catalog) { c.Major++ }, facts.CodeOtherDatabase},
		"SegSize":      {func(c *catalog.Catalog) { c.SegSize *= 2 }, facts.CodeOtherDatabase},
		"OtherHistory": {func(c *catalog.Catalog) { c.Timelines = map[pos.Timeline]catalog.Timeline{2: {Parent: 1, Fork: 9}} }, facts.CodeOtherDatabase},
		"NoHistory":    {func(c *catalog.Catalog) { c.Timelines = map[pos.Timeline]catalog.Timeline{3: {Parent: 4, Fork: 9}} }, facts.CodeBadCommand},
		"FarTimeline": {func(c *catalog.Catalog) {
			c.Timelines = map[pos.Timeline]catalog.Timeline{1 << 30: {Parent: 1, Fork: 9}}
		}, facts.CodeBadCommand},
		"Misfiled":      {func(c *catalog.Catalog) { c.Sets = map[string]catalog.Set{label(8): whole(7)} }, facts.CodeBadCommand},
		"OddLabel":      {func(c *catalog.Catalog) { s := whole(7); s.Label = ".."; c.Sets = map[string]catalog.Set{"..": s} }, facts.CodeBadCommand},
		"UnknownPlace":  {func(c *catalog.Catalog) { c.Places = map[string]catalog.Place{"z": {}} }, facts.CodeUnknownLocation},
		"EmptySpan":     {func(c *catalog.Catalog) { c.Places = map[string]catalog.Place{"a": {WAL: []catalog.Span{span(5, 5)}}} }, facts.CodeBadCommand},
		"TooManyPieces": {func(c *catalog.Catalog) { c.Places = map[string]catalog.Place{"a": {WAL: pieces(600)}} }, facts.CodeTooMany},
	} {
		t.Run(name, func(t *testing.T) {
			l := at(t, facts.PhasePromoting)
			l.must(setPolicy(l, l.s.Policy.WithLocation("a", place("a"))))
			scan := catalog.Catalog{Group: "shop", Profile: pg, SystemID: 1 << 60, Major: 15, SegSize: 16 << 20}
			tt.spoil(&scan)
			before := l.s
			l.want(tt.code, facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: scan}})
			if d := cmp.Diff(before, l.s); d != "" {
				t.Error(d)
			}
		})
	}
}

func pieces(n int) (out []catalog.Span) {
	for i := range n {
		out = append(out, span(pos.LSN(10*i), pos.LSN(10*i+5)))
	}
	return out
}

// A state that holds as much as it may still fits into the command that forms
// a group anew.
func TestState_FullFitsIntoReform(t *testing.T) {
	l := depot(t)
	scan := catalog.Catalog{Profile: pg, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}}
	p := l.s.Policy
	for i := range 16 {
		name := fmt.Sprintf("place%d", i)
		p = p.WithLocation(name, place(name))
	}
	for _, old := range []string{"a", "b", "c"} {
		p = p.WithoutLocation(old)
	}
	l.must(setPolicy(l, p))
	for i := range 1024 {
		s := whole(1)
		s.Label = time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC).Format("20060102-150405") + "F"
		s.Digest, s.Copies = strings.Repeat("d", 64), map[string]catalog.Copy{}
		for name := range p.Locations {
			s.Copies[name] = catalog.Copy{State: catalog.CopyComplete, Verified: t0}
		}
		scan.Sets[s.Label] = s
	}
	for name := range p.Locations {
		var wal []catalog.Span
		for i := range 512 {
			s := span(pos.LSN(1000*i), pos.LSN(1000*i+500))
			for k := range 4 {
				s.Marks = append(s.Marks, catalog.Mark{LSN: s.From + pos.LSN(k), At: t0})
			}
			wal = append(wal, s)
		}
		scan.Places[name] = catalog.Place{WAL: wal}
	}
	l.must(facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: scan, Removals: l.s.Backups.Removals}})
	c := reform(l.s, "B", 300)
	c.Reform.Fence.Lineage = nil
	b, err := facts.EncodeCommand(c)
	if err != nil || len(b) > facts.MaxCommandBytes/2 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, out := facts.Apply(facts.State{}, c); out.Refused != "" {
		t.Error(out.Refused)
	}
}

func TestReform_LosesJobsAndFeedersOfTheOthers(t *testing.T) {
	l := depot(t)
	l.must(beginJob(l, "j", facts.JobBackup, label(1), "a"), recordSet("j", running(1)))
	s, out := facts.Apply(facts.State{}, reform(l.s, "B", 300))
	if out.Refused != "" {
		t.Fatal(out.Refused)
	}
	if j, _ := s.Job("j"); j.State != facts.JobLost || cat(t, s).Sets[label(1)].State != catalog.SetFailed {
		t.Errorf("%+v", j)
	}
	if d := cmp.Diff(map[string]string{"b": "B"}, s.Backups.Feeders); d != "" {
		t.Error(d)
	}
	if s.Audit.N <= l.s.Audit.N {
		t.Error("the audit does not go on")
	}
}

func FuzzImport(f *testing.F) {
	_, b := exported(f)
	f.Add(b)
	f.Add([]byte(`{"ledger":{},"blake3":""}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := facts.Import(b)
		if err != nil {
			if !errors.Is(err, facts.ErrExportDamaged) && !errors.Is(err, facts.ErrExportVersion) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if x.Group.ID == "" || x.Version != facts.ExportVersion {
			t.Fatalf("%+v", x)
		}
	})
}

// FuzzImportBody gives the fuzzer bodies whose digest is right.
func FuzzImportBody(f *testing.F) {
	_, b := exported(f)
	f.Add(facts.ExportBody(b))
	for _, s := range []string{"{}", "null", `{"version":2}`, `{"version":1}`, `{"version":1,"group":{"id":"g"}}`, `{"version":1,"group":{"id":"g"},"wings":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		x, err := facts.Import(facts.FrameExport(body))
		if err != nil {
			if !errors.Is(err, facts.ErrExportDamaged) && !errors.Is(err, facts.ErrExportVersion) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		l := &lab{t: t}
		l.must(found())
		for _, c := range x.Catalogs { // whatever it holds must be a command that can be judged
			if c.Profile == pg {
				l.do(facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: c}})
			}
		}
	})
}

// TestApply_RebuildAfterARemoval: what a scan found may be gone when it is said.
func TestApply_RebuildAfterARemoval(t *testing.T) {
	l := depot(t)
	l.must(archived(l, "a", span(100, 400)))
	b, err := facts.Export(l.s)
	if err != nil {
		t.Fatal(err)
	}
	x, err := facts.Import(b)
	if err != nil {
		t.Fatal(err)
	}
	scanned := facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: x.Catalogs[pg], Removals: x.Removals}}
	l.must(beginJob(l, "p", facts.JobPrune, "", "a"))
	gone := facts.RemoveWAL{Job: ref("p"), Location: "a", Ranges: []facts.WALRange{{Timeline: 1, From: 100, To: 300}}}
	l.must(facts.Command{RemoveWAL: &gone})
	between := scanned
	between.RebuildCatalog = &facts.RebuildCatalog{Scan: x.Catalogs[pg], Removals: l.s.Backups.Removals}
	done := gone
	done.Gone = true
	l.must(facts.Command{RemoveWAL: &done})
	l.want(facts.CodeStaleVersion, scanned)
	l.want(facts.CodeStaleVersion, between)
	if p := cat(t, l.s).Places["a"]; len(p.WAL) != 1 || p.WAL[0].From != 300 {
		t.Errorf("%+v", p)
	}
}
