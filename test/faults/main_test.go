package faults_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"understudy/test/cluster"
	"understudy/test/netlab"
)

var (
	rounds = flag.Int("rounds", 4, "how many rounds TestCampaign has")
	seed   = flag.Uint64("seed", shortSeed, "which rounds; 0 takes one by the clock")
	from   = flag.Int("from", 1, "the number of the first round")
	commit = flag.String("commit", "", "the writers' synchronous_commit; with local the campaign must find losses")
	keep   = flag.Bool("keep", false, "keep the logs of every round, as of a failed one")
	mode   = flag.String("failover", "automatic", "the group's policy: automatic, or manual, in which the campaign orders failovers")
)

// shortSeed is that of every run of the tests: a primary's host lost, one cut
// off from its peers, every daemon killed, and faults on top of them.
const shortSeed = 4617

// mostFailures ends a campaign: what comes after is the same again, mostly.
const mostFailures = 5

func TestMain(m *testing.M) { cluster.RunTests(m) }

// TestCampaign is the campaign. Rounds share a group; one that failed leaves the
// next a new one.
func TestCampaign(t *testing.T) {
	if err := netlab.Need(); err != nil {
		t.Skip(err)
	}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	t.Logf("make faults SEED=%d FROM=%d ROUNDS=%d", s, *from, *rounds)
	var c *campaign
	var results []result
	failures := 0
	for n := *from; n < *from+*rounds && failures < mostFailures; n++ {
		if c == nil {
			c = newCampaign(t, s)
		}
		p := makePlan(s, n)
		var res result
		ok := t.Run(fmt.Sprintf("Round%d", n), func(rt *testing.T) {
			r := &run{campaign: c, t: rt, p: p, result: result{kind: p.kind(), row: p.row()}}
			defer func() {
				if rt.Failed() {
					rt.Logf("repeat: %s\nschedule: %s\n%s\nlogs: %s", r.repeat(), p, strings.Join(r.notes, "\n"), r.keep())
				}
				res = r.result
			}()
			r.do()
			rt.Logf("%s\n%s", p, strings.Join(r.notes, "\n"))
			if *keep {
				rt.Logf("logs: %s", r.keep())
			}
		})
		res.failed = !ok
		results = append(results, res)
		t.Logf("round %d: %s: %d acknowledged, %d unknown, outage %s, %d changes, healthy %s after the healing, %d local commits lost, %d phantoms, %s in all%s",
			n, res.kind, res.acked, res.unknown, ms(res.outage), res.failovers, ms(res.recovery), res.localLost, res.phantoms, ms(res.whole),
			map[bool]string{true: " FAILED"}[res.failed])
		if !ok {
			failures++
			c.g.Abandon(t)
			c = nil
		}
	}
	t.Log("\n" + table(results))
}

// newCampaign starts a group on hosts of its own.
func newCampaign(t *testing.T, seed uint64) *campaign {
	lab, err := netlab.New(t.Context(), cluster.Main, cluster.Backup, cluster.Witness)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	g := cluster.New(t, cluster.WithLab(lab), cluster.WithDisks(), cluster.WithPolicy("failover: "+*mode+"\n"),
		cluster.WithParameter("max_wal_size", "256MB"), cluster.WithParameter("min_wal_size", "80MB"))
	g.WaitHealthy(t)
	return &campaign{seed: seed, g: g, lab: lab}
}

func ms(d time.Duration) string { return d.Round(10 * time.Millisecond).String() }

// table sums up the rounds by what happened in them.
func table(all []result) string {
	kinds := map[string][]result{}
	for _, r := range all {
		kinds[r.row] = append(kinds[r.row], r)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\trounds\tfailed\tchanges\toutage median\tworst\tunknown rows\tlocal commits lost")
	line := func(name string, rs []result) {
		var outages []time.Duration
		var failed, changes, unknown, local int
		for _, r := range rs {
			changes, unknown, local = changes+r.failovers, unknown+r.unknown, local+r.localLost
			if r.failed {
				failed++
			} else {
				outages = append(outages, r.outage)
			}
		}
		median, worst := spread(outages)
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%d\t%d\n", name, len(rs), failed, changes, ms(median), ms(worst), unknown, local)
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		line(k, kinds[k])
	}
	line("all", all)
	w.Flush()
	return b.String()
}
