package node_test

import (
	"path/filepath"
	"slices"
	"testing"

	"understudy/cmd/internal/node"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

func TestForkOf(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       pos.LSN // zero: an error
	}{
		{"FromTheFirst", "1\t0/3000100\tat a moment\n", 0x3000100},
		{"OfALaterOne", "1\t0/1000000\tno reason\n2\t0/5000000\tno reason\n", 0},
		{"Placeholder", "", 0},
		{"Torn", "1\t0/", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "00000007.history"), tt.text)
			if got, err := node.ForkOf(dir, 1, 7); got != tt.want || (err == nil) != (tt.want != 0) {
				t.Errorf("%s, %v, want %s", got, err, tt.want)
			}
		})
	}
	if _, err := node.ForkOf(t.TempDir(), 1, 7); err == nil {
		t.Error("a timeline without a history has a fork")
	}
}

// Only enabled places that are written all the time are waited for, and only
// log of the present history counts.
func TestLackLog(t *testing.T) {
	span := func(tli pos.Timeline, to pos.LSN) catalog.Place {
		return catalog.Place{WAL: []catalog.Span{{Timeline: tli, From: 0x1000000, To: to}}}
	}
	st := facts.State{Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1}, {Epoch: pos.Epoch{Gen: 2, Num: 1}, Timeline: 5, Start: 0x2000000}}}
	st.Primary.Phase = facts.PhaseOpened
	st.Policy.Locations = map[string]facts.LocationPolicy{"a": {}, "behind": {}, "empty": {}, "left": {}, "off": {Disabled: true}, "cold": {Tier: facts.TierCold}}
	st.Backups.Catalogs = map[string]catalog.Catalog{facts.ProfilePostgres: {Profile: facts.ProfilePostgres,
		Timelines: map[pos.Timeline]catalog.Timeline{1: {}, 5: {Parent: 1, Fork: 0x2000000}, 9: {Parent: 1, Fork: 0x1800000}},
		Places:    map[string]catalog.Place{"a": span(5, 0x3000000), "behind": span(5, 0x2fffff0), "left": span(9, 0x9000000), "off": {}, "cold": {}}}}
	st.LastTimeline = 6
	if got := node.LackLog(st, 0x3000000); !slices.Equal(got, []string{"behind", "empty", "left"}) {
		t.Errorf("%v lack log", got)
	}
	if got := node.FreeTimeline(st); got != 10 {
		t.Errorf("the next timeline is %d, want 10: 9 is known at a location", got)
	}
}
