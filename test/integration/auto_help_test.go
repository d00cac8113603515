package integration_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
	"understudy/test/cluster/clients"
)

const (
	// replacedWithin is how long nobody may be able to write when a primary is
	// lost.
	replacedWithin = 5 * time.Second
	// handedOverWithin is that when it is replaced on purpose.
	handedOverWithin = 3 * time.Second
	// unnoticed is how long a busy machine alone may keep all writers waiting.
	unnoticed = 1500 * time.Millisecond
)

// acting is a healthy group that replaces a lost primary by itself.
func acting(t *testing.T, opts ...cluster.Option) *cluster.Group {
	t.Helper()
	return healthy(t, append([]cluster.Option{cluster.WithPolicy("failover: automatic\n")}, opts...)...)
}

// takenOver waits until a node has opened by itself in an epoch after the given
// one, by the word of the node itself.
func takenOver(t *testing.T, by *cluster.Node, after pos.Epoch) cluster.Change {
	t.Helper()
	st := by.WaitStatus(t, 20*time.Second, "primary after epoch "+after.String(), func(s cluster.Status) bool {
		return after.Less(s.Group.Epoch) && s.Group.Phase == "opened" && s.Group.Primary == by.Name
	})
	return by.WaitChange(t, 5*time.Second, st.Group.Epoch, "the opening", func(c cluster.Change) bool { return c.Opened })
}

// goOn waits until a commit comes back that was sent from now on.
func goOn(t *testing.T, w *clients.Clients) {
	t.Helper()
	now := time.Now()
	cluster.Eventually(t, 20*time.Second, "commits going on", func() bool {
		_, ok := w.FirstBegun(now)
		return ok
	})
}

// pausedFor checks how long nobody could write since a moment.
func pausedFor(t *testing.T, w *clients.Clients, since time.Time, atMost time.Duration) {
	t.Helper()
	goOn(t, w)
	d := w.Outage(since)
	t.Logf("commits paused for %s", d.Round(10*time.Millisecond))
	if d > atMost {
		t.Errorf("commits paused for %s, at most %s is right", d, atMost)
	}
}

// noneLost stops the writers and checks that every acknowledged row is there
// once, and that both data nodes have the same tables.
func noneLost(t *testing.T, g *cluster.Group, w *clients.Clients) {
	t.Helper()
	w.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := g.Primary(t).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	v, err := w.Check(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Err(); err != nil {
		t.Error(err)
	}
	t.Logf("%d acknowledged commits, %d unknown", v.Acked, v.Unknown)
	d, err := w.Digests(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Err(); err != nil {
		t.Error(err)
	}
}

// stays checks for d that no epoch begins, by the word of a node.
func stays(t *testing.T, by *cluster.Node, e pos.Epoch, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		st, err := by.Status(t.Context())
		if err == nil && st.Group.Epoch != e {
			t.Fatalf("epoch %s began, nothing was to change in %s: %s", st.Group.Epoch, e, st)
		}
	}
}

// phases are the steps of a change by name, in their order.
func phases(c cluster.Change) []string {
	var out []string
	for _, p := range c.Phases {
		out = append(out, p.Name)
	}
	return out
}

// byItself checks the record of a lost primary that another node replaced.
func byItself(t *testing.T, c cluster.Change, from, to *cluster.Node, rule string) {
	t.Helper()
	if c.Kind != "failover" || c.From != from.Name || c.To != to.Name || c.Statement != "" {
		t.Errorf("change %s", c)
	}
	// "replayed" is noted beside the way, so it may come after "promoting".
	got := slices.DeleteFunc(phases(c), func(p string) bool { return p == "copied" || p == "returned" || p == "replayed" })
	if want := []string{"lost", "epoch", "fenced", "assigned", "promoting", "promoted", "opened"}; !slices.Equal(got, want) || !c.Has("replayed") {
		t.Errorf("phases %v, want %v and replayed", phases(c), want)
	}
	if p := c.Proof; p == nil || !strings.HasPrefix(p.Sentence, "Nothing acknowledged was lost") || p.Lost != nil || p.MayLost != nil {
		t.Errorf("proof %s", c)
	}
	if rule != "" {
		if out := to.MustRun(t, "explain", c.Plan); !strings.Contains(out, rule) || !strings.Contains(out, from.Name) {
			t.Errorf("%s is explained without %s:\n%s", c.Plan, rule, out)
		}
	}
}

// standing is the text of an incident that stands by the word of a node; "" when
// there is none.
func standing(s cluster.Status, key string) string {
	for _, i := range s.Incidents {
		if i.Key == key {
			return i.Text
		}
	}
	return ""
}
