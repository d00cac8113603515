package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// copyAgain is the pause after a copy that failed.
const copyAgain = 500 * time.Millisecond

// maybeCopy copies what the group asks this node to copy, so that it can be
// assigned, and reports again.
func (a *Agent) maybeCopy(ctx context.Context, st facts.State, wg *sync.WaitGroup) {
	p := st.Primary
	if p.Phase == facts.PhaseOpened {
		a.complain("donor", "")
	}
	if p.Phase != facts.PhaseFencing || p.Copy == nil || p.Copy.Store != a.cfg.Store || a.cfg.Plane.Promised() != p.Epoch {
		return
	}
	if past, _, err := a.past(ctx); err != nil || past != role.PastStandby {
		return // its database would not go on with what is copied
	}
	a.mu.Lock()
	busy := a.copying == p.Epoch
	a.copying = p.Epoch
	a.mu.Unlock()
	donor, ok := st.Members[p.Copy.Donor]
	if busy || !ok {
		return
	}
	wg.Go(func() {
		err := a.copyFrom(ctx, st, donor)
		if errors.Is(err, ErrLogDamaged) {
			a.complain("donor", fmt.Sprintf("%s cannot copy the log that it lacks: %v", a.cfg.Name, err))
		} else if err == nil {
			a.complain("donor", "")
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("copy log before an election", "from", donor.Name, "upto", p.Copy.Upto.String(), "error", err)
			wait(ctx, copyAgain)
		}
		a.mu.Lock()
		if a.copying == p.Epoch {
			a.copying = pos.Epoch{}
		}
		a.mu.Unlock()
	})
}

func (a *Agent) copyFrom(ctx context.Context, st facts.State, donor facts.Member) error {
	e := st.Primary.Epoch
	f := st.Primary.Fence[donor.Store]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // nobody waits for the log any more when the group goes on
		for {
			changed := a.cfg.Ledger.Changed()
			if now := a.cfg.Ledger.State().Primary; now.Epoch != e || now.Phase != facts.PhaseFencing {
				cancel()
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	a.step("copy")
	again := func() {
		if err := a.fence(ctx, e, a.cfg.Ledger.State()); err != nil {
			a.log.Info("report while copying", "error", err)
		}
	}
	// What both have adopted, and no more: the history that the ledger vouches for.
	n := 0
	for n < len(f.Lineage) && n < len(st.Lineage) && f.Lineage[n] == st.Lineage[n] {
		n++
	}
	err := a.cfg.Plane.Copy(ctx, donor, st.Lineage[:n], f.Pos.LSN, again)
	again()
	return err
}
