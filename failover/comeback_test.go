package failover

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"understudy/shipper/pos"
)

// A daemon that is started again on a node that was coming back knows at once
// that its spool, not its directory, holds what it acknowledged.
func TestNewAgent_KnowsTheRoadBack(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "comeback.json"), []byte(`{"spool":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := NewAgent(AgentConfig{Name: "a", StateDir: dir, Log: slog.New(slog.DiscardHandler)})
	if !a.spoolOnly.Load() {
		t.Error("a restarted node's agent does not know that only its spool counts")
	}
	if why := a.Returning(); why != "" {
		t.Errorf("it takes no stream: %s", why)
	}
}

// The pages of a standby are of the timelines it has replayed, wherever its
// received log has gone since.
func TestUntil(t *testing.T) {
	e := func(n uint64, tli pos.Timeline, at pos.LSN) pos.Entry {
		return pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: n}, Timeline: tli, Start: at}
	}
	l := pos.Lineage{e(1, 1, 100), e(2, 1, 200), e(3, 4, 300)}
	for tli, want := range map[pos.Timeline]int{0: 0, 1: 2, 3: 2, 4: 3, 9: 3} {
		if got := until(l, tli); len(got) != want {
			t.Errorf("timeline %d: %v", tli, got)
		}
	}
}

// A log that ends where everything newer begins is a log of that history too.
func TestStands(t *testing.T) {
	e := func(n uint64, tli pos.Timeline, at pos.LSN) pos.Entry {
		return pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: n}, Timeline: tli, Start: at}
	}
	own := pos.Lineage{e(1, 1, 100), e(2, 1, 200)}
	for _, c := range []struct {
		name  string
		group pos.Lineage
		want  bool
	}{
		{"Same", own, false},
		{"BeginsAtItsEnd", append(own[:2:2], e(5, 1, 300)), true},
		{"TwoBeginThere", append(own[:2:2], e(5, 1, 300), e(6, 1, 300)), true},
		{"BeginsBefore", append(own[:2:2], e(5, 1, 299)), false},
		{"OneGoesOn", append(own[:2:2], e(5, 1, 300), e(6, 1, 301)), false},
		{"AnotherTimeline", append(own[:2:2], e(5, 2, 300)), false},
		{"AnotherPast", pos.Lineage{e(1, 1, 100), e(3, 1, 200), e(5, 1, 300)}, false},
	} {
		if _, got := stands(own, c.group, 300, 1); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
