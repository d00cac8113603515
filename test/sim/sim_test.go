package sim_test

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"understudy/test/sim"
)

var (
	seeds = flag.Int("seeds", 1000, "how many seeds TestSim plays")
	from  = flag.Int("from", 0, "the first of them")
	one   = flag.Int64("seed", -1, "the one seed that TestSim plays, with all that happens")
	bug   = flag.String("mutation", "None", "the planted bug with which TestSim plays it")
)

func TestSim(t *testing.T) {
	if *one >= 0 {
		if r := sim.Run(uint64(*one), sim.Options{Log: os.Stdout, Mutation: mutation(t)}); r.Failure != "" {
			t.Fatal(r.Failure)
		}
		return
	}
	var acked, opened, copies, moments, taken, failed int
	outages := map[string][]time.Duration{}
	began := time.Now()
	for k, r := range play(*seeds, func(k uint64) sim.Result { return sim.Run(uint64(*from)+k, sim.Options{}) }) {
		seed := *from + k
		acked, opened, copies, moments, taken = acked+r.Acked, opened+r.Opened, copies+r.Copies, moments+r.Moments, taken+r.Taken
		for _, o := range r.Outages {
			outages[outageName(o)] = append(outages[outageName(o)], o.Lasted)
		}
		if r.Failure != "" {
			t.Errorf("%s\nrepeat it: go test ./test/sim -run TestSim -seed %d", r.Failure, seed)
			if failed++; failed == 5 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d seeds in %s: %d commits, %d openings, %d copies, %d groups restored, %d restores given up", *seeds, time.Since(began).Round(time.Millisecond), acked, opened, copies, moments, taken)
	for _, name := range slices.Sorted(maps.Keys(outages)) {
		t.Logf("no commit after %-45s %s", name, spread(outages[name]))
	}
	if opened < 2**seeds || acked < 20**seeds || *seeds >= 100 && (moments < *seeds/8 || taken < *seeds/40) {
		t.Errorf("too little happened in %d seeds: %d openings, %d commits, %d groups restored, %d restores given up", *seeds, opened, acked, moments, taken)
	}
}

// mutation is the one asked for by its name.
func mutation(t *testing.T) sim.Mutation {
	for m := sim.None; int(m) <= len(sim.Mutations()); m++ {
		if m.String() == *bug {
			return m
		}
	}
	t.Fatalf("no mutation is called %q", *bug)
	return sim.None
}

// play runs seeds on all processors and yields their results in order.
func play(n int, run func(seed uint64) sim.Result) iter.Seq2[int, sim.Result] {
	return func(yield func(int, sim.Result) bool) {
		next, stop := make(chan chan sim.Result, 4*runtime.GOMAXPROCS(0)), make(chan struct{})
		slots := make(chan struct{}, runtime.GOMAXPROCS(0))
		go func() {
			defer close(next)
			for seed := range n {
				out := make(chan sim.Result, 1)
				select {
				case next <- out:
				case <-stop:
					return
				}
				slots <- struct{}{}
				go func() {
					out <- run(uint64(seed))
					<-slots
				}()
			}
		}()
		defer close(stop)
		seed := 0
		for out := range next {
			if !yield(seed, <-out) {
				return
			}
			seed++
		}
	}
}

func outageName(o sim.Outage) string {
	if o.Leader {
		return o.Fault + ", primary led the ledger"
	}
	return o.Fault
}

// spread is how a series is distributed.
func spread(all []time.Duration) string {
	slices.Sort(all)
	at := func(p int) time.Duration { return all[min(len(all)-1, len(all)*p/100)].Round(time.Millisecond) }
	return fmt.Sprintf("%5d times: least %s, median %s, 90%% %s, 99%% %s, most %s", len(all), at(0), at(50), at(90), at(99), at(100))
}

func TestRun_SameSeedSameRun(t *testing.T) {
	for seed := range uint64(2 * sim.Scenarios) {
		if a, b := sim.Run(seed, sim.Options{}), sim.Run(seed, sim.Options{}); !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: %+v, then %+v", seed, a, b)
		}
	}
}
