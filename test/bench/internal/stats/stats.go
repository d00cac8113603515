// Package stats summarizes the rounds of a side-by-side measurement: medians,
// ranges and ratios per round. It is pure.
package stats

import (
	"fmt"
	"math"
	"slices"
)

// Summary is the median and the range of a series; all zero for an empty one.
type Summary struct {
	Median, Min, Max float64
	N                int
}

// Summarize makes the summary of v, which it leaves alone. The median of an
// even number of values is the mean of the middle two.
func Summarize(v []float64) Summary {
	if len(v) == 0 {
		return Summary{}
	}
	s := slices.Sorted(slices.Values(v))
	mid := len(s) / 2
	median := s[mid]
	if len(s)%2 == 0 {
		median = (s[mid-1] + s[mid]) / 2
	}
	return Summary{Median: median, Min: s[0], Max: s[len(s)-1], N: len(s)}
}

// Format writes "median (min – max)" with the given number of decimals.
func (s Summary) Format(decimals int) string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f (%.*f – %.*f)", decimals, s.Median, decimals, s.Min, decimals, s.Max)
}

// Percentile is the nearest-rank percentile of v, which it leaves alone: the
// smallest value that at least p percent of the values do not exceed. It is NaN
// for an empty series.
func Percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// Ratios divides a by b, round by round. Rounds that only one of the two has,
// or whose divisor is not above zero, are left out.
func Ratios(a, b []float64) []float64 {
	out := make([]float64, 0, min(len(a), len(b)))
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// Order is the order in which n sides take their turn in a round (counted from
// zero): it rotates, so that no side always comes first or after the same one.
func Order(n, round int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = (i + round) % n
	}
	if round/n%2 == 1 {
		slices.Reverse(out)
	}
	return out
}
