package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
)

// commandWithin bounds a command that a test runs, waits of its own included.
const commandWithin = 90 * time.Second

// Change is the part of a change of primary that tests look at.
type Change struct {
	Epoch     pos.Epoch    `json:"epoch"`
	Kind      string       `json:"kind"`
	From      string       `json:"from"`
	To        string       `json:"to"`
	Cause     string       `json:"cause"`
	Plan      string       `json:"plan"`
	Timeline  pos.Timeline `json:"timeline"`
	Start     pos.LSN      `json:"start"`
	Phases    []Phase      `json:"phases"`
	Opened    bool         `json:"opened"`
	Failed    string       `json:"failed"`
	Statement string       `json:"statement"`
	Proof     *Proof       `json:"proof"`
	Return    *Return      `json:"return"`
}

// Phase is one step of a change.
type Phase struct {
	Name    string `json:"name"`
	Node    string `json:"node"`
	Text    string `json:"text"`
	AfterNS int64  `json:"after_ns"`
}

// Proof is what a change says of losses.
type Proof struct {
	Heard        pos.LSN    `json:"heard"`
	Bound        pos.LSN    `json:"bound"`
	Promoted     pos.LSN    `json:"promoted"`
	Lost         *pos.Range `json:"lost"`
	MayLost      *pos.Range `json:"may_lost"`
	Provisional  bool       `json:"provisional"`
	Missing      []string   `json:"missing"`
	Sentence     string     `json:"sentence"`
	Closed       string     `json:"closed"`
	Transactions []struct {
		XID    uint32   `json:"xid"`
		End    pos.LSN  `json:"end"`
		Tables []string `json:"tables"`
	} `json:"transactions"`
}

// Return is how an old primary came back.
type Return struct {
	Node             string `json:"node"`
	Method           string `json:"method"`
	Why              string `json:"why"`
	Tail             string `json:"tail"`
	TailTransactions int    `json:"tail_transactions"`
}

// Outcome is what switchover and failover print with --json.
type Outcome struct {
	Change   *Change `json:"change"`
	Done     bool    `json:"done"`
	Sentence string  `json:"sentence"`
}

// String is one line for a failed test.
func (c Change) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Has tells whether the change has a phase of that name.
func (c Change) Has(phase string) bool {
	return slices.ContainsFunc(c.Phases, func(p Phase) bool { return p.Name == phase })
}

// Run runs a command of the daemon's binary with this node's file to its end.
// It returns what the command printed, complaints after the rest, and its exit
// code.
func (n *Node) Run(t testing.TB, args ...string) (string, int) {
	t.Helper()
	out, complaints, code := n.run(t, args...)
	return out + complaints, code
}

func (n *Node) run(t testing.TB, args ...string) (out, complaints string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandWithin)
	defer cancel()
	cmd := n.Command(args...)
	cmd = exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	cmd.Dir = n.Dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("understudy %s did not end within %s\n%s%s", strings.Join(args, " "), commandWithin, stdout.String(), stderr.String())
	case errors.As(err, &exit):
		return stdout.String(), stderr.String(), exit.ExitCode()
	case err != nil:
		t.Fatalf("understudy %s: %v", strings.Join(args, " "), err)
	}
	return stdout.String(), stderr.String(), 0
}

// MustRun is Run for a command that shall end with 0.
func (n *Node) MustRun(t testing.TB, args ...string) string {
	t.Helper()
	out, code := n.Run(t, args...)
	if code != 0 {
		t.Fatalf("%s: understudy %s ended with %d\n%s", n.Name, strings.Join(args, " "), code, out)
	}
	return out
}

// Refused runs a command that shall end with code and say want.
func (n *Node) Refused(t testing.TB, code int, want string, args ...string) {
	t.Helper()
	out, got := n.Run(t, args...)
	if got != code || !strings.Contains(out, want) {
		t.Errorf("%s: understudy %s ended with %d, want %d, and said %q, want %q in it", n.Name, strings.Join(args, " "), got, code, out, want)
	}
}

// order runs a switchover or failover and decodes what came of it.
func (n *Node) order(t testing.TB, args ...string) (Outcome, int) {
	t.Helper()
	out, complaints, code := n.run(t, append(args, "--json")...)
	var o Outcome
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		t.Fatalf("%s: understudy %s ended with %d: %v\n%s%s", n.Name, strings.Join(args, " "), code, err, out, complaints)
	}
	return o, code
}

// Switchover hands the primary over to a node, by a command on the witness, and
// fails the test when that node does not become primary.
func (g *Group) Switchover(t testing.TB, to *Node) Change {
	t.Helper()
	return g.Witness.changed(t, to, "switchover", "--to", to.Name)
}

// Failover makes a node primary by the operator's word, given on the witness
// when it runs and else on the node itself, and fails the test when it does not
// become that.
func (g *Group) Failover(t testing.TB, to *Node, args ...string) Change {
	t.Helper()
	on := g.Witness
	if !on.Running() {
		on = to
	}
	return on.changed(t, to, append([]string{"failover", "--to", to.Name}, args...)...)
}

// WaitPossible waits until an order would not be refused: what happened just
// before is not known everywhere yet.
func (n *Node) WaitPossible(t testing.TB, args ...string) {
	t.Helper()
	Eventually(t, 30*time.Second, "understudy "+strings.Join(args, " ")+" being possible", func() bool {
		_, code := n.Run(t, append(slices.Clone(args), "--dry-run")...)
		return code == 0
	})
}

func (n *Node) changed(t testing.TB, to *Node, args ...string) Change {
	t.Helper()
	n.WaitPossible(t, args...)
	o, code := n.order(t, args...)
	if code != 0 || !o.Done || o.Change == nil || o.Change.To != to.Name {
		t.Fatalf("understudy %s ended with %d: %s\n%v", strings.Join(args, " "), code, o.Sentence, o.Change)
	}
	return *o.Change
}

// History is what this node knows of the changes of primary, newest last.
func (n *Node) History(ctx context.Context) ([]Change, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var h struct {
		Changes []Change `json:"changes"`
	}
	err := n.Get(ctx, "/api/v1/history", &h)
	return h.Changes, err
}

// Primary waits until a primary is open and names it.
func (g *Group) Primary(t testing.TB) *Node {
	t.Helper()
	st := g.WaitStatus(t, 30*time.Second, "an open primary", func(s Status) bool { return s.Group.Phase == "opened" })
	return g.Node(st.Group.Primary)
}

// Other is the other one of main and backup.
func (g *Group) Other(n *Node) *Node {
	if n == g.Main {
		return g.Backup
	}
	return g.Main
}

// WaitChange waits until this node knows a change of the epoch that satisfies
// cond.
func (n *Node) WaitChange(t testing.TB, d time.Duration, e pos.Epoch, what string, cond func(Change) bool) Change {
	t.Helper()
	var last Change
	Eventually(t, d, fmt.Sprintf("%s: %s in epoch %s", n.Name, what, e), func() bool {
		all, err := n.History(context.Background())
		i := slices.IndexFunc(all, func(c Change) bool { return c.Epoch == e })
		if err != nil || i < 0 {
			return false
		}
		last = all[i]
		return cond(last)
	})
	return last
}

// WaitReturned waits until the primary that lost its role in an epoch is a
// standby again and any one node may be lost, and tells how that change went.
func (g *Group) WaitReturned(t testing.TB, e pos.Epoch) Change {
	t.Helper()
	c := g.Witness.WaitChange(t, healthyWithin, e, "the old primary's return", func(c Change) bool { return c.Return != nil && c.Has("returned") })
	g.WaitHealthy(t)
	return c
}

// CheckTimelines checks by PostgreSQL's own word that no timeline id was used by
// two promotions.
func (g *Group) CheckTimelines(t testing.TB) {
	t.Helper()
	for _, wrong := range g.reusedTimelines() {
		t.Error(wrong)
	}
}

func (g *Group) reusedTimelines() (wrong []string) {
	seen := map[string]string{}
	for _, n := range []*Node{g.Main, g.Backup} {
		for line := range strings.Lines(n.PostgresLog()) {
			_, id, ok := strings.Cut(line, "selected new timeline ID: ")
			if !ok {
				continue
			}
			id = strings.TrimSpace(id)
			if by, used := seen[id]; used {
				wrong = append(wrong, fmt.Sprintf("timeline %s was used by a promotion of %s and by one of %s", id, by, n.Name))
			}
			seen[id] = n.Name
		}
	}
	return wrong
}

// FaultAt makes the next daemons of a node whose group was made WithFaults be
// interrupted at a step of a change of role, once: "kill", or "hang:SECONDS".
// The file that it returns exists when that has happened.
func (n *Node) FaultAt(step, what string) (happened string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults++
	happened = filepath.Join(n.Dir, fmt.Sprintf("fault-%d", n.faults))
	n.env = []string{"UNDERSTUDY_FAULT=" + step + "=" + what, "UNDERSTUDY_FAULT_ONCE=" + happened}
	return happened
}
