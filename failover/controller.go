package failover

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Controller decides for the group while its node leads the ledger.
type Controller struct {
	Store   string
	Ledger  Ledger
	Reports func() map[string]decide.Heard // newest report by store
	Log     *slog.Logger
	// Wake is signalled when a report says something new.
	Wake <-chan struct{}
	// Every is the pace of decisions besides the ledger's own changes.
	Every time.Duration

	lastTransfer time.Time
	began        time.Time
	lastRefused  string
	seen         sightings
}

// sightings is when this node, leading, first saw what the ledger has with a
// time that may be of another host's clock.
type sightings struct {
	epoch   pos.Epoch
	epochAt time.Time
	leaving map[string]sighting // by store
	cutOff  time.Time
}

type sighting struct {
	of facts.Leaving
	at time.Time
}

// look notes what of st is new.
func (s *sightings) look(st facts.State, now time.Time) (leaving map[string]time.Time) {
	if e := st.Primary.Epoch; e != s.epoch || s.epochAt.IsZero() {
		s.epoch, s.epochAt = e, now
	}
	had := s.leaving
	s.leaving, leaving = map[string]sighting{}, map[string]time.Time{}
	for store, l := range st.Leaving {
		was, ok := had[store]
		if !ok || was.of != l {
			was = sighting{l, now}
		}
		s.leaving[store], leaving[store] = was, was.at
	}
	return leaving
}

// Run decides until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	c.began = time.Now()
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	led, ready := false, false
	for {
		changed := c.Ledger.Changed()
		_, self := c.Ledger.Leader()
		if self != led {
			led = self
			c.seen = sightings{}
			ready = false
			c.Log.Info("ledger leadership", "leader", self)
		}
		if self && !ready {
			ready = c.caughtUp(ctx)
		}
		if self && ready {
			// A plan that changed something may make the next rule fire at once.
			for range 8 {
				if !c.step(ctx) {
					break
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-c.Wake:
		case <-tick.C:
		}
	}
}

// caughtUp tells whether this node's state is as new as a majority confirms. A
// leader that was just elected may still be replaying its log; deciding on that
// would undo what the group has agreed since.
func (c *Controller) caughtUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := c.Ledger.Read(ctx)
	return err == nil && c.Ledger.State().Version >= st.Version
}

// step carries one plan out; it reports whether something changed.
func (c *Controller) step(ctx context.Context) bool {
	servers, err := c.Ledger.Servers()
	if err != nil {
		return false
	}
	o := decide.Observation{
		Now: time.Now(), SelfStore: c.Store, State: c.Ledger.State(),
		Reports: c.Reports(), Raft: servers, LastTransfer: c.lastTransfer, Began: c.began,
	}
	o.LeavingSeen = c.seen.look(o.State, o.Now)
	o.EpochSeen = c.seen.epochAt
	if !o.SaysCutOff() {
		c.seen.cutOff = time.Time{}
	} else if c.seen.cutOff.IsZero() {
		c.seen.cutOff = o.Now
	}
	o.CutOffSeen = c.seen.cutOff
	plan := decide.Decide(o)
	if plan.Empty() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for i, a := range plan.Actions {
		if i == 0 && a.Command != nil && plan.Kept() {
			a.Command = c.record(o, plan, *a.Command)
		}
		if err := c.do(ctx, a); err != nil {
			if text := plan.Rule + ": " + err.Error(); text != c.lastRefused && !errors.Is(err, context.Canceled) {
				c.lastRefused = text
				c.Log.Warn("plan not carried out", "rule", plan.Rule, "why", plan.Why, "error", err)
			}
			return false
		}
	}
	c.lastRefused = ""
	c.Log.Info("decided", "rule", plan.Rule, "why", plan.Why, "ledger_version", o.State.Version, "epoch", o.State.Primary.Epoch.String())
	return true
}

// record puts what a decision was made from beside its command.
func (c *Controller) record(o decide.Observation, plan decide.Plan, cmd facts.Command) *facts.Command {
	rec := decide.NewRecord(o, plan)
	if b, err := json.Marshal(rec); err == nil && len(b) <= facts.MaxDecisionBytes {
		cmd.Decision = b
	}
	if cmd.BeginEpoch != nil {
		begin := *cmd.BeginEpoch
		begin.Decision = rec.ID
		cmd.BeginEpoch = &begin
	}
	return &cmd
}

func (c *Controller) do(ctx context.Context, a decide.Action) error {
	switch {
	case a.Command != nil:
		_, err := c.Ledger.Propose(ctx, *a.Command)
		return err
	case a.RaftAdd != nil:
		return c.Ledger.AddServer(ctx, *a.RaftAdd)
	case a.RaftRemove != "":
		return c.Ledger.RemoveServer(ctx, a.RaftRemove)
	case a.Transfer != "":
		c.lastTransfer = time.Now()
		return c.Ledger.Transfer(ctx, a.Transfer)
	}
	return nil
}
