package jobs_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/jobs"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

func TestDrillUses(t *testing.T) {
	set := func(start pos.LSN, state catalog.SetState, copies map[string]catalog.CopyState) catalog.Set {
		s := catalog.Set{State: state, Start: start, Copies: map[string]catalog.Copy{}}
		for l, c := range copies {
			s.Copies[l] = catalog.Copy{State: c}
		}
		return s
	}
	c := catalog.Catalog{Sets: map[string]catalog.Set{
		"a": set(100, catalog.SetComplete, map[string]catalog.CopyState{"tape": catalog.CopyComplete}),
		"b": set(200, catalog.SetComplete, map[string]catalog.CopyState{"nas": catalog.CopyRemoving}),
		"c": set(300, catalog.SetComplete, map[string]catalog.CopyState{"nas": catalog.CopyComplete}),
		"d": set(400, catalog.SetFailed, map[string]catalog.CopyState{"nas": catalog.CopyWriting}),
		"e": set(500, catalog.SetComplete, map[string]catalog.CopyState{"nas": catalog.CopyDamaged, "offsite": catalog.CopyComplete}),
	}}
	if d := cmp.Diff(facts.Uses{Labels: []string{"c", "e"}, Floor: 300}, jobs.DrillUses(c, []string{"nas", "offsite"})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(facts.Uses{}, jobs.DrillUses(c, nil)); d != "" {
		t.Error(d)
	}
	for i := range 300 {
		c.Sets[fmt.Sprintf("x%03d", i)] = set(pos.LSN(1000+i), catalog.SetComplete, map[string]catalog.CopyState{"nas": catalog.CopyComplete})
	}
	if u := jobs.DrillUses(c, []string{"nas"}); len(u.Labels) != 256 || u.Labels[255] != "x299" || u.Floor != 1044 {
		t.Errorf("%d from %s: %v", len(u.Labels), u.Floor, u.Labels)
	}
}

func TestLogUsed(t *testing.T) {
	c := catalog.Catalog{Places: map[string]catalog.Place{
		"nas":     {WAL: []catalog.Span{{Timeline: 1, From: 500, To: 900}, {Timeline: 2, From: 400, To: 950}}},
		"offsite": {WAL: []catalog.Span{{Timeline: 1, From: 100, To: 900}}},
	}}
	for want, at := range map[pos.LSN][]string{400: {"nas"}, 100: {"nas", "offsite"}, 0: {"tape"}} {
		if got := jobs.LogUsed(c, at); got != want {
			t.Errorf("%v: %s", at, got)
		}
	}
}
