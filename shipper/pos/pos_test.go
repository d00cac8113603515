package pos_test

import (
	"encoding/json"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/pos"
)

func TestLSN_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := pos.LSN(rapid.Uint64().Draw(t, "lsn"))
		got, err := pos.ParseLSN(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseLSN(%q) = %v, %v", want.String(), got, err)
		}
	})
	for _, bad := range []string{"", "1", "/", "1/", "/1", "123456789/0", "g/0", "0/123456789", "-1/0", "1/2/3"} {
		if l, err := pos.ParseLSN(bad); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", bad, l)
		}
	}
}

func TestSegName_KnownNames(t *testing.T) {
	tests := []struct {
		tli  pos.Timeline
		lsn  pos.LSN
		size int64
		want string
	}{
		{1, 0x1000000, 16 << 20, "000000010000000000000001"},
		{1, 0x1FFFFFF, 16 << 20, "000000010000000000000001"},
		{2, 0x1_00000000, 16 << 20, "000000020000000100000000"},
		{0xA, 0x1_FF000000, 16 << 20, "0000000A00000001000000FF"},
		{1, 0x1_80000000, 1 << 30, "000000010000000100000002"},
		{1, 0x1_00100000, 1 << 20, "000000010000000100000001"},
	}
	for _, tt := range tests {
		if got := pos.SegName(tt.tli, tt.lsn, tt.size); got != tt.want {
			t.Errorf("SegName(%d, %s, %d) = %s, want %s", tt.tli, tt.lsn, tt.size, got, tt.want)
		}
		tli, lsn, err := pos.ParseSegName(tt.want, tt.size)
		if err != nil || tli != tt.tli || lsn != tt.lsn.SegStart(tt.size) {
			t.Errorf("ParseSegName(%s) = %d, %s, %v", tt.want, tli, lsn, err)
		}
	}
	for _, bad := range []string{"", "00000001000000000000000", "00000000000000000000000 ", "000000010000000000000100", "000000000000000000000001"} {
		if _, _, err := pos.ParseSegName(bad, 16<<20); err == nil {
			t.Errorf("ParseSegName(%q): no error", bad)
		}
	}
}

func TestPos_EpochBeforeLSN(t *testing.T) {
	old := pos.Pos{Epoch: pos.Epoch{Gen: 1, Num: 4}, LSN: 900}
	recent := pos.Pos{Epoch: pos.Epoch{Gen: 1, Num: 5}, LSN: 100}
	if !old.Less(recent) || recent.Less(old) {
		t.Errorf("%s must be below %s", old, recent)
	}
	reformed := pos.Pos{Epoch: pos.Epoch{Gen: 2, Num: 1}, LSN: 1}
	if !recent.Less(reformed) {
		t.Errorf("%s must be below %s", recent, reformed)
	}
}

func TestLineage_Position(t *testing.T) {
	e := func(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }
	l := pos.Lineage{{e(1), 1, 100}, {e(2), 1, 200}, {e(4), 3, 200}, {e(5), 3, 350}}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		lsn  pos.LSN
		want uint64
	}{{50, 1}, {100, 1}, {199, 1}, {200, 4}, {349, 4}, {350, 5}, {900, 5}} {
		if got := l.Position(tt.lsn); got != (pos.Pos{Epoch: e(tt.want), LSN: tt.lsn}) {
			t.Errorf("Position(%d) = %s, want epoch %d", tt.lsn, got, tt.want)
		}
	}
}

func TestLineage_WithReplacesSameEpoch(t *testing.T) {
	e := func(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }
	l := pos.Lineage{{e(1), 1, 100}}
	assigned := l.With(pos.Entry{Epoch: e(2), Timeline: 1, Start: 300})
	started := assigned.With(pos.Entry{Epoch: e(2), Timeline: 1, Start: 280})
	if len(started) != 2 || started.Last().Start != 280 || assigned.Last().Start != 300 || len(l) != 1 {
		t.Errorf("got %v from %v from %v", started, assigned, l)
	}
}

func TestLineage_Fork(t *testing.T) {
	e := func(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }
	a := pos.Lineage{{e(1), 1, 100}, {e(2), 1, 200}}
	longer := a.With(pos.Entry{Epoch: e(3), Timeline: 1, Start: 300})
	other := a.With(pos.Entry{Epoch: e(3), Timeline: 2, Start: 250})
	if lsn, same := a.Fork(a); lsn != 0 || !same {
		t.Errorf("equal: %s %v", lsn, same)
	}
	if lsn, same := a.Fork(longer); lsn != 300 || !same {
		t.Errorf("prefix: %s %v", lsn, same)
	}
	if lsn, same := longer.Fork(other); lsn != 250 || same {
		t.Errorf("diverged: %s %v", lsn, same)
	}
}

func TestLineage_ValidateRefuses(t *testing.T) {
	e := func(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }
	for name, l := range map[string]pos.Lineage{
		"EpochTwice":    {{e(1), 1, 1}, {e(1), 1, 2}},
		"StartFalls":    {{e(1), 1, 5}, {e(2), 1, 4}},
		"TimelineFalls": {{e(1), 2, 5}, {e(2), 1, 6}},
		"NoEpoch":       {{pos.Epoch{}, 2, 5}},
		"NoTimeline":    {{e(1), 0, 5}},
	} {
		if err := l.Validate(); !errors.Is(err, pos.ErrLineage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEpoch_JSONIsText(t *testing.T) {
	b, err := json.Marshal(pos.Pos{Epoch: pos.Epoch{Gen: 1, Num: 7}, LSN: 0x1_00000010})
	if err != nil || string(b) != `{"epoch":"1.7","lsn":"1/10"}` {
		t.Fatalf("%s %v", b, err)
	}
	var p pos.Pos
	if err := json.Unmarshal(b, &p); err != nil || p.Epoch.Num != 7 || p.LSN != 0x1_00000010 {
		t.Fatalf("%v %v", p, err)
	}
	for _, bad := range []string{"", "1", "1.", ".1", "x.1", "1.x", "-1.2", "4294967296.1"} {
		if _, err := pos.ParseEpoch(bad); err == nil {
			t.Errorf("ParseEpoch(%q): no error", bad)
		}
	}
}
