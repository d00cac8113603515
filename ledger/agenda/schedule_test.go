package agenda_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/ledger/agenda"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func schedule(t *testing.T, text string, z *time.Location) agenda.Schedule {
	t.Helper()
	s, err := agenda.ParseSchedule(text, z)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05Z07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestSchedule_Next(t *testing.T) {
	for _, tc := range []struct{ spec, zone, after, want string }{
		{"daily 02:30", "UTC", "2026-11-22 02:29:59Z", "2026-11-22 02:30:00Z"},
		{"daily 02:30", "UTC", "2026-11-22 02:30:00Z", "2026-11-23 02:30:00Z"},
		{"daily  02:30 ", "Europe/Berlin", "2026-11-22 02:00:00Z", "2026-11-23 01:30:00Z"},
		{"weekly sun 02:30", "UTC", "2026-11-22 03:00:00Z", "2026-11-29 02:30:00Z"},
		{"monthly 1 02:30", "UTC", "2026-11-22 03:00:00Z", "2026-12-01 02:30:00Z"},
		{"0 4 29 2 *", "UTC", "2026-11-22 03:00:00Z", "2028-02-29 04:00:00Z"},
		{"*/20 8-10 * * mon-fri", "UTC", "2026-11-20 10:40:00Z", "2026-11-23 08:00:00Z"},
		// Berlin's clocks went from 2:00 to 3:00 on 29 March 2026 at 1:00 UTC ...
		{"daily 02:30", "Europe/Berlin", "2026-03-28 12:00:00Z", "2026-03-29 01:00:00Z"},
		{"daily 02:30", "Europe/Berlin", "2026-03-29 01:00:00Z", "2026-03-30 00:30:00Z"},
		{"*/30 * * * *", "Europe/Berlin", "2026-03-29 00:30:00Z", "2026-03-29 01:00:00Z"},
		// ... and back from 3:00 to 2:00 on 25 October at 1:00 UTC.
		{"daily 02:30", "Europe/Berlin", "2026-10-24 12:00:00Z", "2026-10-25 00:30:00Z"},
		{"daily 02:30", "Europe/Berlin", "2026-10-25 00:30:00Z", "2026-10-26 01:30:00Z"},
		{"daily 02:30", "Europe/Berlin", "2026-10-25 01:15:00Z", "2026-10-26 01:30:00Z"},
		{"daily 03:00", "Europe/Berlin", "2026-10-25 00:59:59Z", "2026-10-25 02:00:00Z"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25 00:30:00Z", "2026-10-25 01:30:00Z"},
		// Midnight did not happen in São Paulo on 4 November 2018, nor all of
		// 30 December 2011 in Samoa.
		{"daily 00:00", "America/Sao_Paulo", "2018-11-03 12:00:00Z", "2018-11-04 03:00:00Z"},
		{"daily 12:00", "Pacific/Apia", "2011-12-29 23:00:00Z", "2011-12-30 10:00:00Z"},
	} {
		s := schedule(t, tc.spec, zone(t, tc.zone))
		if got := s.Next(moment(t, tc.after)); !got.Equal(moment(t, tc.want)) {
			t.Errorf("%s in %s after %s: got %s, want %s", tc.spec, tc.zone, tc.after, got.Format(time.RFC3339), tc.want)
		}
	}
}

func TestSchedule_Due(t *testing.T) {
	s := schedule(t, "daily 02:30", nil)
	for _, tc := range []struct {
		last, now string
		want      string // empty: not due
	}{
		{"2026-11-21 02:30:05Z", "2026-11-22 02:29:59Z", ""},
		{"2026-11-21 02:30:05Z", "2026-11-22 02:30:00Z", "2026-11-22 02:30:00Z"},
		{"2026-11-22 02:30:00Z", "2026-11-22 02:30:00Z", ""},
		{"2026-10-01 02:30:05Z", "2026-11-22 09:00:00Z", "2026-11-22 02:30:00Z"},
		{"0001-01-01 00:00:00Z", "2026-11-22 09:00:00Z", "2026-11-22 02:30:00Z"},
	} {
		got, due := s.Due(moment(t, tc.last), moment(t, tc.now))
		if due != (tc.want != "") || due && !got.Equal(moment(t, tc.want)) {
			t.Errorf("last %s, now %s: got %s, %v", tc.last, tc.now, got, due)
		}
	}
	if _, due := (agenda.Schedule{}).Due(time.Time{}, time.Now()); due {
		t.Error("never is due")
	}
}

func TestParseSchedule_Refuses(t *testing.T) {
	for _, s := range []string{"daily", "daily 24:00", "daily 2:30", "weekly 02:30", "weekly sunday 02:30", "weekly onn 02:30", "monthly 31 02:30", "monthly 0 02:30",
		"* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "@daily", "TZ=UTC * * * * *", "CRON_TZ= * * * *", "*/0 * * * *", "x"} {
		if got, err := agenda.ParseSchedule(s, nil); !errors.Is(err, agenda.ErrSchedule) {
			t.Errorf("%q: got %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", " never "} {
		if got, err := agenda.ParseSchedule(s, nil); err != nil || !got.IsZero() || !got.Next(time.Now()).IsZero() {
			t.Errorf("%q: got %s, %v", s, got, err)
		}
	}
}

// A day without a backup does not come of clocks: whatever the zone, a daily
// schedule has one moment per day of its calendar, and moments rise.
func TestSchedule_DailyMissesNoDay(t *testing.T) {
	zones := []*time.Location{zone(t, "Europe/Berlin"), zone(t, "America/New_York"), zone(t, "Australia/Lord_Howe"), zone(t, "America/Sao_Paulo"), zone(t, "Asia/Kathmandu")}
	rapid.Check(t, func(t *rapid.T) {
		z := rapid.SampledFrom(zones).Draw(t, "zone")
		clock := time.Date(2000, 1, 1, rapid.IntRange(0, 23).Draw(t, "hour"), rapid.IntRange(0, 59).Draw(t, "minute"), 0, 0, time.UTC)
		s, err := agenda.ParseSchedule("daily "+clock.Format("15:04"), z)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 24*365*20).Draw(t, "from")) * time.Hour)
		for range 10 {
			next := s.Next(at)
			if d := next.Sub(at); d <= 0 || d > 26*time.Hour {
				t.Fatalf("after %s comes %s", at, next)
			}
			if got, due := s.Due(next.Add(-time.Second), next); !due || !got.Equal(next) {
				t.Fatalf("%s is not due when it comes: %s, %v", next, got, due)
			}
			if got, due := s.Due(at, next.Add(-time.Second)); due && got.After(at) {
				t.Fatalf("%s is due between %s and %s", got, at, next)
			}
			at = next
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"daily 02:30", "weekly sun 02:30", "monthly 1 02:30", "*/5 1-3,7 * jan-mar mon", "TZ=UTC 0 0 * * *", "never", "0 0 31 * ?"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := agenda.ParseSchedule(text, nil)
		if err != nil || s.IsZero() {
			return
		}
		if next := s.Next(now); !next.After(now) {
			t.Fatalf("%q: after %s comes %s", text, now, next)
		}
		if at, due := s.Due(time.Time{}, now); !due || at.After(now) {
			t.Fatalf("%q: due at %s, %v", text, at, due)
		}
		if again, err := agenda.ParseSchedule(s.String(), nil); err != nil || again.String() != s.String() {
			t.Fatalf("%q is written %q and not read again: %v", text, s, err)
		}
	})
}
