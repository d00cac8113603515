package quorum_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"understudy/primary/quorum"
	"understudy/shipper/pos"
)

func TestCounter_MajorityOfThree(t *testing.T) {
	c := quorum.New("m", 100, 0)
	c.SetVoters(3, []string{"m", "b", "w"})
	c.Durable("m", 500)
	if c.Committed() != 0 {
		t.Fatalf("own flush alone committed %s", c.Committed())
	}
	if !c.Durable("w", 300) || c.Committed() != 300 {
		t.Errorf("with the witness: %s", c.Committed())
	}
	if !c.Durable("b", 450) || c.Committed() != 450 {
		t.Errorf("with the backup ahead: %s", c.Committed())
	}
	if c.Durable("w", 440) || c.Committed() != 450 {
		t.Errorf("the slower one moved it: %s", c.Committed())
	}
	if c.Durable("b", 400) || c.Acked("b") != 450 {
		t.Error("a falling position was taken")
	}
}

func TestCounter_PairNeedsBoth(t *testing.T) {
	c := quorum.New("m", 0, 0)
	c.SetVoters(2, []string{"b", "m"})
	c.Durable("m", 500)
	c.Durable("stranger", 500)
	if c.Committed() != 0 {
		t.Errorf("committed %s without the peer", c.Committed())
	}
	c.Durable("b", 200)
	if c.Committed() != 200 {
		t.Errorf("committed %s", c.Committed())
	}
}

func TestCounter_OldBytesDoNotCommit(t *testing.T) {
	c := quorum.New("m", 1000, 700)
	c.SetVoters(1, []string{"m", "b", "w"})
	c.Durable("m", 1000)
	c.Durable("w", 999)
	if c.Committed() != 700 {
		t.Errorf("bytes below the epoch's start moved committed to %s", c.Committed())
	}
	c.Durable("b", 1000)
	if c.Committed() != 1000 {
		t.Errorf("the start itself: %s", c.Committed())
	}
}

func TestCounter_NoSetNoCommit(t *testing.T) {
	c := quorum.New("m", 0, 0)
	c.Durable("m", 10)
	if c.Committed() != 0 || c.Needed() != 0 {
		t.Error("committed without a voter set")
	}
	c.SetVoters(1, []string{"b"})
	c.Durable("b", 10)
	if c.Committed() != 0 {
		t.Error("committed by a set that the primary is not in")
	}
}

// The clever code against the dumb one: an LSN is committed when a majority
// has said so, by counting.
func TestCounter_AgainstCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "voters")
		voters := []string{"s0"}
		for i := 1; i < n; i++ {
			voters = append(voters, fmt.Sprintf("s%d", i))
		}
		start := pos.LSN(rapid.IntRange(0, 20).Draw(t, "start"))
		c := quorum.New("s0", start, 0)
		c.SetVoters(1, voters)
		held := map[string]pos.LSN{}
		var want pos.LSN
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			s := fmt.Sprintf("s%d", rapid.IntRange(0, n+1).Draw(t, "who"))
			l := pos.LSN(rapid.IntRange(0, 40).Draw(t, "lsn"))
			c.Durable(s, l)
			held[s] = max(held[s], l)
			for at := want + 1; at <= 40; at++ {
				count := 0
				for _, v := range voters {
					if held[v] >= at {
						count++
					}
				}
				if count*2 > n && at >= start {
					want = at
				}
			}
			if c.Committed() != want {
				t.Fatalf("committed %s, counting says %s (held %v of %d)", c.Committed(), want, held, n)
			}
		}
	})
}

// What one set of voters committed is on a majority of the next one before that
// is settled.
func TestCounter_Settled(t *testing.T) {
	c := quorum.New("m", 0, 0)
	if c.Settled() {
		t.Error("settled without voters")
	}
	c.SetVoters(1, []string{"m"})
	c.Durable("m", 500)
	c.Durable("b", 300)
	if !c.Settled() {
		t.Error("not settled alone")
	}
	c.SetVoters(2, []string{"m", "b"})
	if c.Settled() || c.Committed() != 500 {
		t.Errorf("settled at %s although the other one has 300", c.Committed())
	}
	c.Durable("m", 900)
	c.Durable("b", 499)
	if c.Settled() {
		t.Error("settled one byte too early")
	}
	c.Durable("b", 500)
	if !c.Settled() {
		t.Error("not settled")
	}
	c.SetVoters(3, []string{"b"})
	if c.Settled() {
		t.Error("settled by voters of which this is none")
	}
}
