package failover

import (
	"testing"
	"time"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// endedLog is a data plane whose received log ends there.
type endedLog struct {
	Plane
	end pos.LSN
}

func (p endedLog) LogEnd() pos.LSN { return p.end }

// A standby that was told to stand still is not taken for one that went astray,
// nor is it at the moment at which it may go on.
func TestAgent_RestingIsNotAstray(t *testing.T) {
	for name, tt := range map[string]struct {
		f    following
		want bool
	}{
		"Stuck":            {following{facts: pgctl.Facts{InRecovery: true}}, true},
		"PausedByHand":     {following{facts: pgctl.Facts{InRecovery: true, Paused: true}}, false},
		"Delayed":          {following{delay: time.Hour, facts: pgctl.Facts{InRecovery: true}}, false},
		"DelayNotYetKnown": {following{delay: -1, facts: pgctl.Facts{InRecovery: true}}, false},
		"NeverAnswered":    {following{delay: -1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := Agent{cfg: AgentConfig{Plane: endedLog{end: 200}}}
			a.replayedTo, a.movedTo, a.movedAt = 100, 100, time.Now().Add(-2*stranded)
			if got := a.wentAstray(tt.f.rests()); got != tt.want {
				t.Errorf("astray %v, want %v", got, tt.want)
			}
			if !tt.want && a.wentAstray(false) {
				t.Error("astray as soon as it may go on")
			}
		})
	}
}

// What a primary was started with is looked for at once.
func TestFollowing_DueAfterANewEpoch(t *testing.T) {
	old, now := pos.Epoch{Gen: 1, Num: 1}, time.Now()
	settled := following{reads: true, looked: now, epoch: old, since: now.Add(-2 * houseEvery)}
	for name, tt := range map[string]struct {
		change func(*following)
		epoch  pos.Epoch
		want   bool
	}{
		"JustLooked": {func(*following) {}, old, false},
		"LongAgo":    {func(f *following) { f.looked = now.Add(-houseEvery) }, old, true},
		"NoAnswer":   {func(f *following) { f.reads = false }, old, true},
		"NewEpoch":   {func(*following) {}, pos.Epoch{Gen: 1, Num: 2}, true},
		"YoungEpoch": {func(f *following) { f.since = now }, old, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := settled
			tt.change(&f)
			if got := f.due(tt.epoch); got != tt.want {
				t.Errorf("due %v, want %v", got, tt.want)
			}
		})
	}
}
