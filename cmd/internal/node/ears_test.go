package node_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"understudy/cmd/internal/node"
	"understudy/failover/decide"
	"understudy/ledger/facts"
)

func remembers(t *testing.T, c node.Control, want ...string) {
	t.Helper()
	if control, ears := c.Stores(); !slices.Equal(control, want) || !slices.Equal(ears, want) {
		t.Errorf("remembers %v and listens to %v, want %v", control, ears, want)
	}
}

// A store with which its node no longer speaks is forgotten after a while, by
// whoever remembers it, and nobody else's is.
func TestEars_ForgetsLostStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := node.NewControl(node.ControlConfig{Self: "a"})
		c.Hear(decide.Report{Node: "b", Store: "B1"})
		c.Hear(decide.Report{Node: "c", Store: "C1"})
		time.Sleep(5 * time.Second)
		c.Hear(decide.Report{Node: "b", Store: "B2"})
		remembers(t, c, "B1", "B2", "C1")
		time.Sleep(6 * time.Second)
		c.Hear(decide.Report{Node: "b", Store: "B2"})
		remembers(t, c, "B2", "C1")
		for _, h := range c.Hears(facts.Member{Name: "b", Store: "B1"}, facts.Member{Name: "b", Store: "B2"}, facts.Member{Name: "c", Store: "C1"}) {
			if h.Never != (h.Store == "B1") {
				t.Errorf("%+v", h)
			}
		}
		c.Hear(decide.Report{Node: "b", Store: "B1"}) // it has come back
		remembers(t, c, "B1", "B2", "C1")
	})
}

// A node that says a new name each time takes no more than its own place.
func TestEars_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := node.NewControl(node.ControlConfig{Self: "a"})
		c.Hear(decide.Report{Node: "c", Store: "C"})
		var newest []string
		for i := range 1000 {
			s := fmt.Sprintf("B%04d", i)
			c.Hear(decide.Report{Node: "b", Store: s})
			newest = append(newest, s)
			time.Sleep(time.Millisecond)
		}
		remembers(t, c, append(newest[len(newest)-node.MaxLost-1:], "C")...)
	})
}
