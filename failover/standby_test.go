package failover

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// damagedLog is a data plane whose received log, from base to end, cannot be
// read beyond a byte.
type damagedLog struct {
	Plane
	base, damaged, end pos.LSN
	renewed            *bool
}

var errRenewed = errors.New("the store is given up")

func (p damagedLog) LogBase() pos.LSN   { return p.base }
func (p damagedLog) LogEnd() pos.LSN    { return p.end }
func (p damagedLog) Renew(string) error { *p.renewed = true; return errRenewed }

func (p damagedLog) RecordEnd(from, upto pos.LSN) (pos.LSN, error) {
	if from < p.base {
		return 0, fmt.Errorf("%s is below the log", from)
	}
	if from <= p.damaged && p.damaged < upto {
		return 0, ErrLogDamaged
	}
	return upto, nil
}

// The log is checked from where the server's recovery begins: a fresh base says
// so in its label, and its pg_control may be newer, even than the log.
func TestAgent_LogIsWhole(t *testing.T) {
	const none = 1 << 40
	for name, tt := range map[string]struct {
		label         pos.LSN // zero: the directory has none
		redo          pos.LSN
		base, damaged pos.LSN // of a log that ends at 0x400
		renewed       bool
	}{
		"Whole":                {0, 0x200, 0x100, none, false},
		"Damaged":              {0, 0x200, 0x100, 0x300, true},
		"DamagedBefore":        {0, 0x200, 0x100, 0x180, false},
		"FreshBase":            {0x150, 0x300, 0x100, none, false},
		"FreshBaseDamaged":     {0x150, 0x300, 0x100, 0x180, true},
		"FreshBaseBefore":      {0x150, 0x300, 0x100, 0x120, false},
		"ControlBeyondTheLog":  {0x150, 0x500, 0x100, 0x180, true},
		"NothingIsReplayed":    {0, 0x400, 0x100, 0x180, false},
		"NoLog":                {0x150, 0x300, 0, 0x180, false},
		"BeginsBelowTheLog":    {0, 0x50, 0x100, 0x180, false},
		"LabelBelowTheLog":     {0x50, 0x200, 0x100, 0x300, true},
		"LabelBelowWholeLog":   {0x50, 0x200, 0x100, 0x180, false},
		"BothBelowTheLog":      {0x50, 0x60, 0x100, 0x180, false},
		"LabelAfterPgControls": {0x300, 0x200, 0x100, 0x280, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.label != 0 {
				text := fmt.Sprintf("START WAL LOCATION: %s (file 000000010000000000000000)\n", tt.label)
				if err := os.WriteFile(filepath.Join(dir, "backup_label"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var renewed bool
			a := Agent{cfg: AgentConfig{Server: &pgctl.Server{DataDir: dir}, Plane: damagedLog{base: tt.base, damaged: tt.damaged, end: 0x400, renewed: &renewed}}}
			err := a.logIsWhole(pgctl.Control{Redo: tt.redo})
			if renewed != tt.renewed || errors.Is(err, errRenewed) != tt.renewed || err != nil && !tt.renewed {
				t.Errorf("given up %v, %v, want %v", renewed, err, tt.renewed)
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
