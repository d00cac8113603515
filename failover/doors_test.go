package failover

import (
	"testing"
	"time"

	"understudy/ledger/facts"
)

// The doors are moved once for each word of the operator, and never else: every
// move makes the server read its configuration again.
func TestOfflineKeeper_Next(t *testing.T) {
	now := time.Now()
	in := func(version uint64) facts.State { return facts.State{Version: version} }
	out := func(version uint64, since time.Time) facts.State {
		return facts.State{Version: version, Offline: &facts.Offline{Since: since}}
	}
	type step struct {
		st   facts.State
		want doorMove
	}
	for name, tt := range map[string]struct {
		adopted uint64
		steps   []step
	}{
		"Opened":          {0, []step{{in(5), doorsStay}, {in(6), doorsStay}}},
		"OutAndIn":        {0, []step{{out(5, now), doorsShut}, {out(6, now), doorsStay}, {in(7), doorsOpen}, {in(7), doorsStay}, {in(8), doorsStay}}},
		"OutAgain":        {0, []step{{out(5, now), doorsShut}, {out(6, now.Add(1)), doorsShut}, {in(7), doorsOpen}, {out(8, now), doorsShut}}},
		"Adopted":         {5, []step{{in(4), doorsStay}, {in(5), doorsOpen}, {in(6), doorsStay}}},
		"AdoptedShut":     {5, []step{{in(4), doorsStay}, {out(5, now), doorsShut}, {out(6, now), doorsStay}, {in(7), doorsOpen}, {in(8), doorsStay}}},
		"ShutWithoutTime": {0, []step{{out(5, time.Time{}), doorsShut}, {out(5, time.Time{}), doorsStay}, {in(6), doorsOpen}}},
	} {
		t.Run(name, func(t *testing.T) {
			k := offlineKeeper{adopted: tt.adopted}
			for i, s := range tt.steps {
				if got := k.next(s.st); got != s.want {
					t.Errorf("step %d: %s, want %s", i, got, s.want)
				}
			}
		})
	}
}
