package interrupt_test

import (
	"context"
	"os"
	"strings"
	"time"

	"understudy/test/cluster"
)

// begin begins the change in which the node is interrupted. When it returns,
// everybody whose word is needed for the change lives, or is about to be
// interrupted.
func (r *run) begin() {
	switch r.c.change {
	case switchover:
		r.command("switchover", "--to", r.cand.Name)
	case failover:
		r.old.KillEverything(r.t)
		r.failover()
	case tail:
		r.leaveTail()
		r.failover()
	case behind:
		r.leaveBehind()
		r.failover()
	case forced:
		r.command("failover", "--to", r.cand.Name, "--force", "--yes")
	case fallback:
		f := r.cand.Arm(r.t, "elect", "hang:60")
		r.command("switchover", "--to", r.cand.Name)
		r.await(f.Happened)
		r.cand.KillEverything(r.t)
	case restart:
		r.old.KillEverything(r.t)
		r.old.Start(r.t)
	case delta, full:
		r.command("reseed", r.cand.Name, "--method", strings.ToLower(string(r.c.change)), "--yes")
	}
}

// failover orders one from a primary whose machine is lost. A lost primary that
// is the one to be interrupted comes back when the other is open.
func (r *run) failover() {
	// While the others still believe to hear it, they refuse.
	cluster.Eventually(r.t, opensWithin, "a failover that is not refused", func() bool {
		r.g.Witness.Run(r.t, "failover", "--to", r.cand.Name, "--wait", "1ms")
		id, err := r.g.Witness.StandingOrder(context.Background())
		return err == nil && id != "" || r.before.Less(r.epoch())
	})
	if r.victim != r.old {
		return
	}
	r.opened(r.cand)
	r.old.Start(r.t)
}

// opened waits until a node is open in a new epoch.
func (r *run) opened(n *cluster.Node) {
	r.t.Helper()
	r.g.Witness.WaitStatus(r.t, opensWithin, n.Name+" is open", func(s cluster.Status) bool {
		return r.before.Less(s.Group.Epoch) && s.Group.Phase == "opened" && s.Group.Primary == n.Name
	})
}

// command gives an order on the witness and does not wait for what becomes of
// it.
func (r *run) command(args ...string) {
	f, err := os.CreateTemp(r.g.Dir, "said")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	cmd := r.g.Witness.Command(args...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.said, r.order = f.Name(), make(chan struct{})
	go func() { cmd.Wait(); close(r.order) }()
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		<-r.order
	})
}

// ordered waits until the command that gave the order has seen its end.
func (r *run) ordered() {
	if r.order == nil {
		return
	}
	select {
	case <-r.order:
	case <-time.After(opensWithin):
		r.t.Errorf("the command did not end within %s, although a primary is open", opensWithin)
	}
}

// leaveTail makes the primary write what nobody else gets, so that nobody was
// told that it is committed, and loses its machine.
func (r *run) leaveTail() {
	r.cand.Kill(r.t) // a frozen daemon would still find what the kernel took for it
	r.g.Witness.Kill(r.t)
	// A checkpoint waits for nobody.
	r.old.Exec(r.t, "select pg_logical_emit_message(false, 'interrupt', 'only here'); checkpoint")
	r.old.KillEverything(r.t)
	r.cand.Start(r.t)
	r.g.Witness.Start(r.t)
}

// leaveBehind makes the group go on for a while without the standby, and loses
// the primary's machine.
func (r *run) leaveBehind() {
	r.cand.Freeze(r.t)
	// What was sent before that lies in the standby's socket, and is read later.
	r.old.WaitStatus(r.t, opensWithin, "without the standby", func(s cluster.Status) bool { return s.Of(r.cand.Name).Link.State != "streaming" })
	r.writers.WaitMore(r.t, 100, opensWithin)
	r.old.KillEverything(r.t)
	r.cand.Thaw(r.t)
}
