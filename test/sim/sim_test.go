package sim_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"understudy/test/sim"
)

var (
	seeds = flag.Int("seeds", 1000, "how many seeds TestSim plays")
	one   = flag.Int64("seed", -1, "the one seed that TestSim plays, with all that happens")
)

func TestSim(t *testing.T) {
	if *one >= 0 {
		if r := sim.Run(uint64(*one), sim.Options{Log: os.Stdout}); r.Failure != "" {
			t.Fatal(r.Failure)
		}
		return
	}
	var acked, opened, copies, failed int
	began := time.Now()
	for seed := range *seeds {
		r := sim.Run(uint64(seed), sim.Options{})
		acked, opened, copies = acked+r.Acked, opened+r.Opened, copies+r.Copies
		if r.Failure != "" {
			t.Errorf("%s\nrepeat it: go test ./test/sim -run TestSim -seed %d", r.Failure, seed)
			if failed++; failed == 5 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d seeds in %s: %d commits, %d openings, %d copies", *seeds, time.Since(began).Round(time.Millisecond), acked, opened, copies)
	if opened < 3**seeds || acked < 20**seeds {
		t.Errorf("too little happened in %d seeds: %d openings, %d commits", *seeds, opened, acked)
	}
}

func TestRun_SameSeedSameRun(t *testing.T) {
	for seed := range uint64(10) {
		if a, b := sim.Run(seed, sim.Options{}), sim.Run(seed, sim.Options{}); a != b {
			t.Fatalf("seed %d: %+v, then %+v", seed, a, b)
		}
	}
}
