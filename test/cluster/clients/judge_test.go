package clients

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A harness that cannot fail proves nothing: these are the failures it must
// see.

func TestJudge_Rows(t *testing.T) {
	a, b := Row{0, 0}, Row{1, 0}
	for _, c := range []struct {
		name  string
		acked [][]bool
		have  map[Row]int64
		want  Verdict
	}{
		{"AllThere", [][]bool{{true}, {true}}, map[Row]int64{a: 1, b: 1}, Verdict{Acked: 2}},
		{"UnknownThere", [][]bool{{true}, {false}}, map[Row]int64{a: 1, b: 1}, Verdict{Acked: 1, Unknown: 1, UnknownThere: 1}},
		{"UnknownNotThere", [][]bool{{true}, {false}}, map[Row]int64{a: 1}, Verdict{Acked: 1, Unknown: 1}},
		{"AcknowledgedLost", [][]bool{{true}, {true}}, map[Row]int64{b: 1}, Verdict{Acked: 2, Missing: []Row{a}}},
		{"Twice", [][]bool{{true}, {}}, map[Row]int64{a: 2}, Verdict{Acked: 1, Duplicates: []Row{a}}},
		{"UnknownTwice", [][]bool{{false}, {}}, map[Row]int64{a: 2}, Verdict{Unknown: 1, UnknownThere: 1, Duplicates: []Row{a}}},
		{"NeverTried", [][]bool{{true}}, map[Row]int64{a: 1, {0, 1}: 1, {0, -1}: 1, {7, 0}: 1, {-1, 0}: 1},
			Verdict{Acked: 1, Foreign: []Row{{-1, 0}, {0, -1}, {0, 1}, {7, 0}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(c.acked, c.have)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			bad := len(c.want.Missing)+len(c.want.Duplicates)+len(c.want.Foreign) > 0
			if (got.Err() != nil) != bad {
				t.Errorf("error %v", got.Err())
			}
		})
	}
}

func TestDigests_Err(t *testing.T) {
	a, b := Table{"public.a", 2, "7"}, Table{"public.b", 0, "0"}
	if err := (Digests{[]Table{a, b}, []Table{b, a}}).Err(); err != nil {
		t.Error(err)
	}
	for want, d := range map[string]Digests{
		"public.b is not on the standby":                                             {[]Table{a, b}, []Table{a}},
		"public.b is on the standby only":                                            {[]Table{a}, []Table{a, b}},
		"2 rows with digest 7 on the primary and 2 with 8 on the standby":            {[]Table{a}, []Table{{"public.a", 2, "8"}}},
		"public.a has 2 rows with digest 7 on the primary and 3 with 7 on the stand": {[]Table{a}, []Table{{"public.a", 3, "7"}}},
	} {
		if err := d.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestLongestGap_Spans(t *testing.T) {
	s := func(secs ...int) (out []ack) {
		for _, n := range secs {
			out = append(out, ack{at: time.Duration(n) * time.Second})
		}
		return out
	}
	for _, c := range []struct {
		name        string
		acks        []ack
		from, until time.Duration
		want        time.Duration
	}{
		{"Inside", s(1, 2, 7, 8), 1 * time.Second, 8 * time.Second, 5 * time.Second},
		{"BeginsWithTheLastOneBefore", s(1, 2, 7, 8), 6 * time.Second, 8 * time.Second, 5 * time.Second},
		{"EarlierOnesDoNotCount", s(1, 5, 6, 8), 6 * time.Second, 8 * time.Second, 2 * time.Second},
		{"LaterOnesDoNotCount", s(1, 2, 3, 30), 1 * time.Second, 4 * time.Second, time.Second},
		{"NotEnded", s(1, 2), 2 * time.Second, 9 * time.Second, 7 * time.Second},
		{"NoneBefore", s(9, 10), 3 * time.Second, 10 * time.Second, 6 * time.Second},
		{"SinceBeforeTheBegin", s(2, 3), -5 * time.Second, 3 * time.Second, 2 * time.Second},
		{"Nothing", nil, 0, 4 * time.Second, 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := longestGap(c.acks, c.from, c.until); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// The gap is that of a dumb walk over every millisecond.
func TestLongestGap_LikeAWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		busy := rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(t, "busy")
		from := rapid.IntRange(0, len(busy)-1).Draw(t, "from")
		until := rapid.IntRange(from, len(busy)-1).Draw(t, "until")
		var acks []ack
		for ms, b := range busy {
			if b {
				acks = append(acks, ack{at: time.Duration(ms) * time.Millisecond})
			}
		}
		last := from
		for ms := range from {
			if busy[ms] {
				last = ms
			}
		}
		want := 0
		for ms := from; ms <= until; ms++ {
			want = max(want, ms-last)
			if busy[ms] {
				last = ms
			}
		}
		if got := longestGap(acks, time.Duration(from)*time.Millisecond, time.Duration(until)*time.Millisecond); got != time.Duration(want)*time.Millisecond {
			t.Fatalf("got %s, want %d ms", got, want)
		}
	})
}

func TestJudgeServers(t *testing.T) {
	servers := []Server{{}, {"a", 1}, {"b", 2}, {"a", 2}, {"a", 3}}
	at := func(server int, began, at time.Duration) ack { return ack{server: server, began: began, at: at} }
	for _, c := range []struct {
		name string
		acks []ack
		want string // part of the error, "" for none
	}{
		{"One", []ack{at(1, 0, 1), at(1, 1, 2)}, ""},
		{"OneAfterTheOther", []ack{at(1, 0, 1), at(1, 1, 2), at(2, 2, 3), at(4, 4, 5)}, ""},
		// The old one's commit was sent before, and came back before the new one was asked.
		{"Overlapping", []ack{at(1, 0, 5), at(2, 5, 6)}, ""},
		{"OldAfterNew", []ack{at(1, 0, 1), at(2, 2, 3), at(1, 1, 4)}, "1 commits were acknowledged by an older primary"},
		{"OldWhileNew", []ack{at(1, 0, 1), at(1, 1, 4), at(2, 3, 5)}, "writer 0 by a@1 at 4ns (sent 1ns), 1ns after one was sent to b@2"},
		{"OldAfterNewest", []ack{at(2, 0, 1), at(4, 2, 3), at(2, 1, 4), at(2, 4, 5)}, "2 commits"},
		{"TwoOnOneTimeline", []ack{at(2, 0, 1), at(3, 2, 3)}, "b@2 and a@2 took commits on one timeline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := judgeServers(servers, c.acks)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
