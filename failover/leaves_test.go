package failover

import (
	"testing"

	"understudy/shipper/pos"
)

// A group that went back to a moment has left timelines without ever coming to
// their end, and some without having been on them.
func TestLeaves(t *testing.T) {
	at := func(num uint64, tli pos.Timeline, start pos.LSN) pos.Entry {
		return pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: num}, Timeline: tli, Start: start}
	}
	l := pos.Lineage{at(1, 2, 100), at(2, 2, 200), at(3, 5, 300), at(4, 9, 400)}
	never := ^pos.LSN(0)
	for _, tt := range []struct {
		name string
		l    pos.Lineage
		tli  pos.Timeline
		want pos.LSN
	}{
		{"WasOnIt", l, 2, 300},
		{"WasOnItLater", l, 5, 400},
		{"IsOnIt", l, 9, never},
		{"WillBe", l, 12, never},
		{"WasNeverOnIt", l, 7, 0},
		{"BeforeAllThatIsKnown", l, 1, never},
		{"NothingKnown", nil, 3, never},
		{"Young", l[:1], 3, never},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := leaves(tt.l, tt.tli); got != tt.want {
				t.Errorf("it leaves timeline %d at %s, want %s", tt.tli, got, tt.want)
			}
		})
	}
}
