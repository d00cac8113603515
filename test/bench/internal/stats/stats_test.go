package stats_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"understudy/test/bench/internal/stats"
)

func TestSummarize_Cases(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []float64
		want stats.Summary
		text string
	}{
		{"Empty", nil, stats.Summary{}, "–"},
		{"One", []float64{2}, stats.Summary{Median: 2, Min: 2, Max: 2, N: 1}, "2.0 (2.0 – 2.0)"},
		{"Odd", []float64{3, 1, 2}, stats.Summary{Median: 2, Min: 1, Max: 3, N: 3}, "2.0 (1.0 – 3.0)"},
		{"Even", []float64{4, 1, 2, 3}, stats.Summary{Median: 2.5, Min: 1, Max: 4, N: 4}, "2.5 (1.0 – 4.0)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := stats.Summarize(c.in)
			if got != c.want || got.Format(1) != c.text {
				t.Errorf("got %+v %q, want %+v %q", got, got.Format(1), c.want, c.text)
			}
		})
	}
}

func TestPercentile_NearestRank(t *testing.T) {
	v := []float64{50, 15, 40, 20, 35}
	for p, want := range map[float64]float64{0: 15, 5: 15, 30: 20, 40: 20, 50: 35, 99: 50, 100: 50} {
		if got := stats.Percentile(v, p); got != want {
			t.Errorf("percentile %v: got %v, want %v", p, got, want)
		}
	}
	if !math.IsNaN(stats.Percentile(nil, 50)) {
		t.Error("the percentile of nothing is a number")
	}
	if v[0] != 50 {
		t.Error("the input was sorted in place")
	}
}

// The nearest rank against its definition.
func TestPercentile_CoversItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(0, 1e6), 1, 50).Draw(t, "v")
		p := rapid.Float64Range(0.1, 100).Draw(t, "p")
		got := stats.Percentile(v, p)
		atMost, below := 0, 0
		for _, x := range v {
			if x <= got {
				atMost++
			}
			if x < got {
				below++
			}
		}
		need := p / 100 * float64(len(v))
		if float64(atMost) < need || float64(below) >= need || !slices.Contains(v, got) {
			t.Fatalf("percentile %v of %v is %v", p, v, got)
		}
	})
}

func TestRatios_SkipsUnusableRounds(t *testing.T) {
	if got := stats.Ratios([]float64{1, 2, 3}, []float64{2, 0}); !slices.Equal(got, []float64{0.5}) {
		t.Errorf("got %v", got)
	}
}

func TestOrder_EverySideInEveryPlace(t *testing.T) {
	for n := 1; n <= 4; n++ {
		first := make([]int, n)
		after := map[[2]int]bool{}
		for r := range 2 * n {
			o := stats.Order(n, r)
			first[o[0]]++
			if s := slices.Sorted(slices.Values(o)); s[0] != 0 || s[n-1] != n-1 || len(slices.Compact(s)) != n {
				t.Fatalf("order of %d in round %d is %v", n, r, o)
			}
			for i := 1; i < n; i++ {
				after[[2]int{o[i-1], o[i]}] = true
			}
		}
		for side, got := range first {
			if got != 2 {
				t.Errorf("of %d sides, side %d came first %d times in %d rounds", n, side, got, 2*n)
			}
		}
		if n == 3 && len(after) != 6 {
			t.Errorf("three sides follow each other in %d of 6 ways", len(after))
		}
	}
}
