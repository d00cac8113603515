package location_test

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/shipper/location"
)

func window(t testing.TB, s string) location.Window {
	t.Helper()
	w, err := location.ParseWindow(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestParseWindow(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"22:00-06:00":               "22:00-06:00 UTC",
		"22:00-06:00 Europe/Berlin": "22:00-06:00 Europe/Berlin",
		"00:00-24:00 UTC":           "00:00-24:00 UTC",
		"18:30-24:00 Local":         "18:30-24:00 Local",
	} {
		if got := window(t, in).String(); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{" ", "22:00", "22-6", "22:00-22:00", "24:00-06:00", "25:00-06:00", "22:60-06:00", "2:00-06:00", "22:00-06:00 Nowhere/City", "22:00-06:00-07:00", "22:00 - 06:00"} {
		if w, err := location.ParseWindow(bad); err == nil {
			t.Errorf("%q is taken as %s", bad, w)
		}
	}
	var w struct{ W location.Window }
	if err := json.Unmarshal([]byte(`{"W":"01:00-02:00 Asia/Tokyo"}`), &w); err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(w); err != nil || string(b) != `{"W":"01:00-02:00 Asia/Tokyo"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func TestWindow_Open(t *testing.T) {
	for _, tt := range []struct {
		window, now string
		open        bool
		changes     string
	}{
		{"22:00-06:00 UTC", "2026-01-10T21:59:59Z", false, "2026-01-10T22:00:00Z"},
		{"22:00-06:00 UTC", "2026-01-10T22:00:00Z", true, "2026-01-11T06:00:00Z"},
		{"22:00-06:00 UTC", "2026-01-11T05:59:59Z", true, "2026-01-11T06:00:00Z"},
		{"22:00-06:00 UTC", "2026-01-11T06:00:00Z", false, "2026-01-11T22:00:00Z"},
		{"01:00-05:00 Asia/Tokyo", "2026-01-11T16:00:00Z", true, "2026-01-11T20:00:00Z"},
		{"18:00-24:00 UTC", "2026-01-11T18:00:00Z", true, "2026-01-12T00:00:00Z"},
		// Berlin's clocks go from 02:00 to 03:00 on 29 March 2026 (01:00 UTC), and
		// from 03:00 to 02:00 on 25 October 2026 (01:00 UTC).
		{"02:15-02:45 Europe/Berlin", "2026-03-29T00:30:00Z", false, "2026-03-30T00:15:00Z"},
		{"02:30-04:00 Europe/Berlin", "2026-03-29T00:30:00Z", false, "2026-03-29T01:00:00Z"},
		{"22:00-02:30 Europe/Berlin", "2026-03-28T23:00:00Z", true, "2026-03-29T01:00:00Z"},
		{"02:30-04:00 Europe/Berlin", "2026-10-25T00:40:00Z", true, "2026-10-25T01:00:00Z"},
		{"02:30-04:00 Europe/Berlin", "2026-10-25T01:10:00Z", false, "2026-10-25T01:30:00Z"},
		{"22:00-06:00 Europe/Berlin", "2026-10-24T20:00:00Z", true, "2026-10-25T05:00:00Z"},
		{"00:00-24:00 UTC", "2026-01-10T12:00:00Z", true, ""},
		{"", "2026-01-10T12:00:00Z", true, ""},
	} {
		now, err := time.Parse(time.RFC3339, tt.now)
		if err != nil {
			t.Fatal(err)
		}
		open, at := window(t, tt.window).Open(now)
		got := ""
		if !at.IsZero() {
			got = at.UTC().Format(time.RFC3339)
		}
		if open != tt.open || got != tt.changes {
			t.Errorf("%q at %s: %v until %s, want %v until %s", tt.window, tt.now, open, got, tt.open, tt.changes)
		}
	}
}

// TestWindow_LikeAClock compares with looking at the clock every minute.
func TestWindow_LikeAClock(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"}
	rapid.Check(t, func(t *rapid.T) {
		clock := func(name string) string {
			m := rapid.IntRange(0, 24*60-1).Draw(t, name)
			return time.Date(1, 1, 1, 0, m, 0, 0, time.UTC).Format("15:04")
		}
		from, to, name := clock("from"), clock("to"), rapid.SampledFrom(zones).Draw(t, "zone")
		if from == to {
			return
		}
		w, err := location.ParseWindow(from + "-" + to + " " + name)
		if err != nil {
			t.Fatal(err)
		}
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		isOpen := func(at time.Time) bool {
			c := at.In(zone).Format("15:04")
			if from < to {
				return from <= c && c < to
			}
			return c >= from || c < to
		}
		// Days around the changes of clocks, and any.
		start := rapid.SampledFrom([]string{"2026-03-28", "2026-10-24", "2026-03-07", "2026-10-31", "2026-04-04", "2026-10-03", "2026-06-01"}).Draw(t, "day")
		now, err := time.Parse(time.DateOnly, start)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Duration(rapid.IntRange(0, 48*60).Draw(t, "minute")) * time.Minute)
		open, at := w.Open(now)
		want := now.Add(time.Minute)
		for isOpen(want) == isOpen(now) {
			want = want.Add(time.Minute)
		}
		if open != isOpen(now) || !at.Equal(want) {
			t.Fatalf("%s at %s: %v until %s, want %v until %s", w, now, open, at, isOpen(now), want)
		}
	})
}
