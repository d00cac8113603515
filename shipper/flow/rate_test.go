package flow_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/shipper/flow"
)

func TestBackoff_Doubles(t *testing.T) {
	b := flow.Backoff{Min: 100 * time.Millisecond, Max: 500 * time.Millisecond}
	tests := []struct {
		rand float64
		want time.Duration
	}{
		{1, 100 * time.Millisecond}, {0, 100 * time.Millisecond}, {0.5, 300 * time.Millisecond},
		{1, 500 * time.Millisecond}, {0, 250 * time.Millisecond}, {7, 500 * time.Millisecond}, {-7, 250 * time.Millisecond},
	}
	for i, tt := range tests {
		if got := b.Next(tt.rand); got != tt.want {
			t.Errorf("wait %d: %s, want %s", i, got, tt.want)
		}
	}
	b.Reset()
	if got := b.Next(0); got != 50*time.Millisecond {
		t.Errorf("after Reset: %s", got)
	}
}

func TestBackoff_StaysWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := time.Duration(rapid.Int64Range(1, 1<<53).Draw(t, "min"))
		hi := time.Duration(rapid.Int64Range(int64(lo), 1<<53).Draw(t, "max"))
		b := flow.Backoff{Min: lo, Max: hi}
		for range 70 {
			if got := b.Next(rapid.Float64Range(0, 1).Draw(t, "rand")); got < lo/2 || got > hi {
				t.Fatalf("%d outside of [%d, %d]", got, lo/2, hi)
			}
		}
	})
	if b := (flow.Backoff{Max: time.Second}); b.Next(1) != time.Second {
		t.Error("without Min it does not wait for Max")
	}
}

func TestRate_SteadyFlow(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, seconds := range []int{1, 3, 60} {
		var r flow.Rate
		now := start
		r.Add(now, 12345)
		for range seconds * 100 {
			now = now.Add(10 * time.Millisecond)
			r.Add(now, 1<<20)
		}
		if got, want := r.PerSecond(now), float64(100<<20); math.Abs(got-want) > want/50 {
			t.Errorf("after %d s: %.0f, want about %.0f", seconds, got, want)
		}
	}
}

func TestRate_FallsWhenNothingPasses(t *testing.T) {
	now := time.Unix(1000, 0)
	r := flow.Rate{HalfLife: time.Second}
	if r.PerSecond(now) != 0 {
		t.Error("not zero before the first byte")
	}
	r.Add(now, 1000)
	if r.PerSecond(now) != 0 {
		t.Error("not zero at the first instant")
	}
	if _, ok := r.TimeFor(now, 1); ok {
		t.Error("a time without a rate")
	}
	for range 1000 {
		now = now.Add(100 * time.Millisecond)
		r.Add(now, 100)
	}
	full := r.PerSecond(now)
	if half := r.PerSecond(now.Add(time.Second)); math.Abs(half-full/2) > full/100 {
		t.Errorf("%.0f a half-life after %.0f", half, full)
	}
	if again := r.PerSecond(now); math.IsNaN(again) || again > full {
		t.Errorf("an earlier instant: %f", again)
	}
}

func TestRate_TimeFor(t *testing.T) {
	now := time.Unix(1000, 0)
	var r flow.Rate
	r.Add(now, 0)
	for range 600 {
		now = now.Add(100 * time.Millisecond)
		r.Add(now, 100)
	}
	if d, ok := r.TimeFor(now, 5000); !ok || d < 4900*time.Millisecond || d > 5200*time.Millisecond {
		t.Errorf("%s %v", d, ok)
	}
	if d, ok := r.TimeFor(now, 0); !ok || d != 0 {
		t.Errorf("nothing: %s %v", d, ok)
	}
	if _, ok := r.TimeFor(now, math.MaxUint64); ok {
		t.Error("a time beyond a year")
	}
}
