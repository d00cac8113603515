package interrupt_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"understudy/test/cluster"
)

func TestMain(m *testing.M) { cluster.RunTests(m) }

// everything tells whether all cases are asked for, not only those that run
// with every test.
func everything() bool { return os.Getenv("UNDERSTUDY_INTERRUPT") == "all" }

// TestSwitchover interrupts the nodes that hand over and take over.
func TestSwitchover(t *testing.T) { interruptAll(t, switchovers()) }

// TestFailover interrupts a manual failover after the primary's machine was
// lost, and one by force while the primary is open.
func TestFailover(t *testing.T) { interruptAll(t, failovers()) }

// TestReturn interrupts a former primary on its way back.
func TestReturn(t *testing.T) { interruptAll(t, returns()) }

// TestOpenAgain interrupts a primary that opens its own database again: after
// its machine was lost, and when the node that it handed over to is gone.
func TestOpenAgain(t *testing.T) { interruptAll(t, openings()) }

// TestReseed interrupts a standby that gets a base on the operator's word.
func TestReseed(t *testing.T) { interruptAll(t, reseeds()) }

// TestCoordinator interrupts the node that leads the ledger, which decides, at
// the phases of a change that it brings about.
func TestCoordinator(t *testing.T) { interruptAll(t, coordinators()) }

// interruptAll runs the cases one after the other on one group, whose roles move
// with them. A group that a case has failed on is not used again.
func interruptAll(all *testing.T, cases []interruption) {
	all.Parallel()
	var g *cluster.Group
	for _, c := range cases {
		if !c.often && !everything() {
			continue
		}
		all.Run(c.name(), func(t *testing.T) {
			if g == nil {
				g = cluster.New(all, cluster.WithFaults())
			}
			r := run{t: t, g: g, c: c}
			defer func() {
				if t.Failed() {
					r.explain()
					g.Abandon(t)
					g = nil
				}
			}()
			r.do()
		})
	}
}

// repeatLine is the command that runs one case alone.
func repeatLine(name string) string {
	return fmt.Sprintf("UNDERSTUDY_INTERRUPT=all go test -count=1 -run '^%s$' ./test/interrupt", strings.ReplaceAll(name, "/", "$/^"))
}
