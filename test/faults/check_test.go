package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/cluster/clients"
)

// quietWithin is how long what a fault has left may take to end in a healthy
// group: incidents, provisional proofs.
const quietWithin = 20 * time.Second

// check is what must be true after a round.
func (r *run) check() {
	r.inj.finishOrders(quietWithin)
	r.checkWhenQuiet("standing incidents", r.incidents)
	r.checkWhenQuiet("proofs", r.proofs)
	r.checkWhenQuiet("standing orders", r.standingOrders)
	r.stopClients()
	r.checkEpochs()
	r.checkRows()
	r.g.CheckTimelines(r.t)
	r.measure()
}

// checkWhenQuiet fails when something is still wrong after a while.
func (r *run) checkWhenQuiet(what string, wrong func() error) {
	deadline := time.Now().Add(quietWithin)
	for {
		err := wrong()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// incidents are those that stand, by any node's word. A group in which nothing
// is wrong has none.
func (r *run) incidents() error {
	var errs []error
	for _, n := range r.g.Nodes() {
		st, err := n.Status(context.Background())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, i := range st.Incidents {
			errs = append(errs, fmt.Errorf("%s says: %s %s: %s", n.Name, i.Key, i.Node, i.Text))
		}
	}
	return errors.Join(errs...)
}

// proofs looks for changes of this round without a proof, or with one that
// speaks of losses: none of these faults may lose anything.
func (r *run) proofs() error {
	all, err := r.g.Witness.History(context.Background())
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		switch {
		case !r.before.Less(c.Epoch) || !c.Opened:
		case c.Proof == nil:
			errs = append(errs, fmt.Errorf("the change of epoch %s has no proof: %s", c.Epoch, c))
		case c.Proof.Lost != nil || c.Proof.MayLost != nil || len(c.Proof.Transactions) > 0:
			errs = append(errs, fmt.Errorf("epoch %s: %s", c.Epoch, c.Proof.Sentence))
		}
	}
	return errors.Join(errs...)
}

// standingOrders looks for an order that nobody finishes or gives up.
func (r *run) standingOrders() error {
	for _, n := range r.g.Nodes() {
		if id, err := n.StandingOrder(context.Background()); err != nil || id != "" {
			return fmt.Errorf("%s knows of the order %q, %v", n.Name, id, err)
		}
	}
	return nil
}

// checkEpochs checks that epochs only grew, in the ledger's history and from
// round to round, and counts the changes.
func (r *run) checkEpochs() {
	st := r.g.WaitHealthy(r.t)
	if st.Group.Epoch.Less(r.epoch) {
		r.t.Errorf("the epoch is %s, and was %s before", st.Group.Epoch, r.epoch)
	}
	r.epoch = st.Group.Epoch
	all, err := r.g.Witness.History(context.Background())
	if err != nil {
		r.t.Errorf("read the history: %v", err)
	}
	for i, c := range all {
		if i > 0 && !all[i-1].Epoch.Less(c.Epoch) {
			r.t.Errorf("epoch %s comes after %s in the history", c.Epoch, all[i-1].Epoch)
		}
		if r.before.Less(c.Epoch) {
			r.note("epoch %s: %s from %s to %s, %s, opened %t %s", c.Epoch, c.Kind, c.From, c.To, c.Cause, c.Opened, c.Failed)
			if c.Opened {
				r.result.failovers++
			}
			if r.p.harmless() {
				r.t.Errorf("epoch %s was begun, although the primary was never in trouble: %s", c.Epoch, c.Cause)
			}
		}
	}
}

// checkRows compares the servers' tables with what the clients remember.
func (r *run) checkRows() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	st := r.g.WaitHealthy(r.t)
	p := r.g.Node(st.Group.Primary)
	conn, err := p.Connect(ctx)
	if err != nil {
		r.t.Fatalf("connect to the primary %s: %v", p.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	v, err := r.writers.Check(ctx, conn)
	if err = errors.Join(err, v.Err(), r.writers.CheckServers()); err != nil {
		r.t.Errorf("%v\nservers: %v%s", err, r.writers.Servers(), r.about(v.Missing))
	}
	r.result.acked, r.result.unknown = v.Acked, v.Unknown
	l, err := r.local.Check(ctx, conn)
	r.result.localLost = len(l.Missing)
	r.checkPast(ctx, conn)
	r.past = append(r.past, past{r.p.n, r.writers, r.local, l.Missing})
	l.Missing = nil // allowed: that is what local means
	if err = errors.Join(err, l.Err()); err != nil {
		r.t.Errorf("with synchronous_commit = local: %v", err)
	}
	gone, err := r.readers.Gone(ctx, conn)
	if err != nil {
		r.t.Errorf("compare with the readers: %v", err)
	}
	for _, s := range gone {
		if s.Standby {
			r.t.Errorf("a standby showed a row that is gone: %s", s)
		} else {
			r.result.phantoms++
			r.note("a reader of the primary saw %s, which is gone", s)
		}
	}
	r.checkDigests(ctx)
}

// about tells what is known of rows that are missing.
func (r *run) about(rows []clients.Row) string {
	var b strings.Builder
	for _, row := range rows[:min(len(rows), 5)] {
		b.WriteString("\n" + r.writers.About(row))
	}
	return b.String()
}

// checkPast checks that the rows of earlier rounds are as they were, but for
// commits that nobody was told of.
func (r *run) checkPast(ctx context.Context, conn *pgx.Conn) {
	for _, p := range r.past {
		v, err := p.writers.Check(ctx, conn)
		if err = errors.Join(err, v.Err()); err != nil {
			r.t.Errorf("rows of round %d: %v", p.n, err)
		}
		// A local commit that has come to the standby is one like any other.
		l, err := p.local.Check(ctx, conn)
		if err != nil || !slices.Equal(l.Missing, p.lost) {
			r.t.Errorf("local commits of round %d: %d were missing after it, now %d, %v", p.n, len(p.lost), len(l.Missing), err)
		}
	}
}

// checkDigests compares both data nodes.
func (r *run) checkDigests(ctx context.Context) {
	var err error
	for range 3 { // a commit that nobody waits for may come between
		var d clients.Digests
		if d, err = r.writers.Digests(ctx); err == nil {
			err = d.Err()
		}
		if err == nil {
			return
		}
	}
	r.t.Errorf("compare the data nodes: %v", err)
}

func (r *run) measure() {
	r.result.outage = r.writers.OutageBetween(r.struck, time.Now())
	r.result.slowest = r.writers.SlowestWriter(r.struck, time.Now())
}

func indent(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// spread is the median and the worst.
func spread(all []time.Duration) (median, worst time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2], all[len(all)-1]
}
