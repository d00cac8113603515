package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Fault is an interruption that waits for a daemon at a step of a change of
// role.
type Fault struct{ file string }

// Arm makes this node's daemon, the one that runs or the next, be interrupted
// when it comes to a step, once: "kill", or "hang:SECONDS". The group must be
// made WithFaults. It replaces what was armed before.
func (n *Node) Arm(t testing.TB, step, what string) Fault {
	t.Helper()
	f := Fault{filepath.Join(n.Dir, "fault")}
	tmp := f.file + ".tmp"
	if err := os.WriteFile(tmp, []byte(step+"="+what+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, f.file); err != nil {
		t.Fatal(err)
	}
	return f
}

// Happened tells whether the daemon was interrupted.
func (f Fault) Happened() bool {
	_, err := os.Stat(f.file)
	return errors.Is(err, os.ErrNotExist)
}

// Disarm takes the fault away, if it has not happened.
func (f Fault) Disarm() { os.Remove(f.file) }

// StandingOrder is the id of the order that stands by what this node knows, ""
// when none does.
func (n *Node) StandingOrder(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var h struct {
		Order string `json:"order"`
	}
	err := n.Get(ctx, "/api/v1/history", &h)
	return h.Order, err
}

// Abandon kills whatever runs of a group that is of no use any more; the test's
// end removes the rest.
func (g *Group) Abandon(t testing.TB) {
	t.Helper()
	for _, n := range g.Nodes() {
		n.signalKill()
		n.waitExit(5 * time.Second)
	}
	g.sweep()
}
