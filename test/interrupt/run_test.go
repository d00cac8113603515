package interrupt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// How long things may take on a busy machine.
const (
	comesWithin = 40 * time.Second // the step at which a node is interrupted
	opensWithin = 40 * time.Second
	// lateFor is how long the others have to go on without a node: longer than
	// an elected node may be silent.
	lateFor = 3 * time.Second
)

// run is one case on its way.
type run struct {
	t *testing.T
	g *cluster.Group
	c interruption

	old, cand, victim *cluster.Node
	writers           *cluster.Writers
	before            pos.Epoch
	logs              map[string]int // length of each daemon's log when the case began
	order             chan struct{}  // closed when the command that gave the order has ended
	said              string         // file with what it printed
}

func (r *run) do() {
	r.prepare()
	happened := r.arm()
	r.begin()
	r.await(happened)
	r.interrupt()
	r.mend()
	r.check()
}

// prepare waits for a healthy group and says who is who.
func (r *run) prepare() {
	r.logs = map[string]int{}
	for _, n := range r.g.Nodes() {
		r.logs[n.Name] = len(n.Log())
	}
	st := r.g.WaitHealthy(r.t)
	r.old = r.g.Node(st.Group.Primary)
	r.cand = r.g.Other(r.old)
	r.victim = map[who]*cluster.Node{oldPrimary: r.old, candidate: r.cand, witness: r.g.Witness}[r.c.who]
	if r.c.leads {
		r.lead(r.victim)
	}
	r.before = r.g.WaitHealthy(r.t).Group.Epoch
	r.writers = r.g.Writers(r.t, 2)
	r.writers.WaitMore(r.t, 20, opensWithin)
}

// lead makes a node lead the ledger. Leadership stays away from the primary, so
// it is enough that the third node is gone for a while.
func (r *run) lead(n *cluster.Node) {
	third := r.g.Witness
	if n == r.g.Witness {
		third = r.cand
	}
	if st := r.g.WaitHealthy(r.t); st.Group.LedgerLeader == n.Name {
		return
	}
	third.Term(r.t)
	r.g.WaitStatus(r.t, opensWithin, n.Name+" leads the ledger", func(s cluster.Status) bool { return s.Group.LedgerLeader == n.Name })
	third.Start(r.t)
	st := r.g.WaitHealthy(r.t)
	if st.Group.LedgerLeader != n.Name {
		r.t.Fatalf("%s leads the ledger, want %s", st.Group.LedgerLeader, n.Name)
	}
}

// arm sets the interruption up and returns what tells that its time has come.
func (r *run) arm() func() bool {
	switch kind, name := r.c.where(); kind {
	case "mark":
		file := filepath.Join(r.victim.StateDir(), "postgresql", name)
		return func() bool {
			_, err := os.Stat(file)
			return err == nil
		}
	case "phase":
		eye := r.g.Witness
		if r.victim == eye {
			eye = r.cand
		}
		return func() bool { return r.reached(eye, name) }
	default:
		what := "kill"
		if r.c.how == machine {
			what = "hang:60" // it is killed there with all the rest
		}
		f := r.victim.Arm(r.t, name, what)
		r.t.Cleanup(f.Disarm)
		return f.Happened
	}
}

// reached tells whether a change after this case began has a phase.
func (r *run) reached(eye *cluster.Node, phase string) bool {
	if phase == "ordered" {
		id, err := eye.StandingOrder(context.Background())
		return err == nil && id != ""
	}
	all, err := eye.History(context.Background())
	return err == nil && slices.ContainsFunc(all, func(c cluster.Change) bool { return r.before.Less(c.Epoch) && c.Has(phase) })
}

// await waits until the interruption's time has come.
func (r *run) await(happened func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(comesWithin); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %s %s did not come to %s", comesWithin, r.victim.Name, r.c.at)
		}
	}
}

// interrupt kills what the case says.
func (r *run) interrupt() {
	if kind, _ := r.c.where(); r.c.how == machine {
		r.victim.KillEverything(r.t)
	} else if kind == "step" {
		r.victim.WaitExit(r.t, 10*time.Second)
	} else {
		r.victim.Kill(r.t)
	}
	if r.c.how == late {
		at := r.epoch()
		atMost(lateFor, func() bool { return at.Less(r.epoch()) })
	}
}

// epoch is the newest one that any node knows of.
func (r *run) epoch() pos.Epoch {
	st, err := r.g.Status()
	if err != nil {
		return pos.Epoch{}
	}
	return st.Group.Epoch
}

// mend starts again what was killed, the interrupted node first.
func (r *run) mend() {
	if r.c.then != "" {
		f := r.victim.Arm(r.t, r.c.then, "kill")
		r.t.Cleanup(f.Disarm)
		r.victim.Start(r.t)
		r.await(f.Happened)
		r.victim.WaitExit(r.t, 10*time.Second)
	}
	r.victim.Start(r.t)
	for _, n := range r.g.Nodes() {
		if !n.Running() {
			n.Start(r.t)
		}
	}
}

// check is what must be true however a change was interrupted.
func (r *run) check() {
	r.writers.WaitMore(r.t, 20, opensWithin)
	r.ordered()
	st := r.g.WaitHealthy(r.t)
	primary := r.g.Node(st.Group.Primary)
	for _, n := range r.g.Nodes() {
		cluster.Eventually(r.t, opensWithin, n.Name+" knows of no standing order", func() bool {
			id, err := n.StandingOrder(context.Background())
			return err == nil && id == ""
		})
	}
	for n, want := range map[*cluster.Node]string{primary: "f", r.g.Other(primary): "t"} {
		if got := n.Query(r.t, "select pg_is_in_recovery()"); got != want {
			r.t.Errorf("%s is in recovery: %s, want %s, with %s as primary", n.Name, got, want, primary.Name)
		}
	}
	r.writers.CheckNoneLost(r.t)
	r.g.CheckTimelines(r.t)
	r.checkTimeline(primary)
	r.checkProofs(primary)
}

// checkTimeline checks that the primary is on the timeline that the ledger names.
func (r *run) checkTimeline(primary *cluster.Node) {
	st := r.g.WaitHealthy(r.t)
	if got := primary.Query(r.t, "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"); got != fmt.Sprint(st.Group.Timeline) {
		r.t.Errorf("%s writes timeline %s, the ledger names %d", primary.Name, got, st.Group.Timeline)
	}
}

// checkProofs checks that nothing is said to be lost, since nothing was.
func (r *run) checkProofs(on *cluster.Node) {
	all, err := on.History(context.Background())
	if err != nil {
		r.t.Fatalf("read the history of %s: %v", on.Name, err)
	}
	for _, c := range all {
		if r.before.Less(c.Epoch) && c.Proof != nil && c.Proof.Lost != nil {
			r.t.Errorf("epoch %s: %s, although no acknowledged row is missing", c.Epoch, c.Proof.Sentence)
		}
	}
}

// explain prints what a failed case needs to be understood and repeated.
func (r *run) explain() {
	t := r.t
	t.Logf("repeat: %s", repeatLine(t.Name()))
	if b, err := os.ReadFile(r.said); err == nil {
		t.Logf("the command said:\n%s", b)
	}
	for _, n := range r.g.Nodes() {
		t.Logf("--- %s: daemon, since the case began\n%s", n.Name, n.Log()[r.logs[n.Name]:])
	}
}

// atMost waits until cond is true, and no longer than d.
func atMost(d time.Duration, cond func() bool) {
	for deadline := time.Now().Add(d); !cond() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
	}
}
