package policyfile_test

import (
	"testing"
	"time"

	"understudy/cmd/internal/policyfile"
	"understudy/ledger/agenda"
	"understudy/ledger/facts"
)

// Every schedule that a policy may have is one whose next moment can be
// computed.
func TestParse_SchedulesAreUnderstood(t *testing.T) {
	for _, s := range []string{
		"off", "daily 02:30", "daily 00:00", "daily 23:59", "weekly sun 02:30", "weekly sat 00:05", "monthly 1 02:30", "monthly 28 02:30",
		"30 2 * * *", "*/5 * * * *", "0 0-6/2 1,15 jan-jun mon-fri", "5,10-20,30 4 31 12 0", "0 0 1 */3 *", "00 02 * * 6",
	} {
		p, err := policyfile.Parse("p", []byte("backup.schedule: '"+s+"'\n"), facts.DefaultPolicy())
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if _, err := agenda.ParseSchedule(p.Backup.Schedule, time.UTC); err != nil && s != facts.ScheduleOff {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		"daily", "daily 2:30", "daily 24:00", "weekly 02:30", "weekly sunday 02:30", "monthly 0 02:30", "monthly 29 02:30", "* * * *", "60 * * * *", "* 24 * * *",
		"* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 7", "*/0 * * * *", "5-1 * * * *", "a * * * *", "* * * * * *", "@daily", "TZ=UTC 0 0 * * *", "0  0 * * *", "",
	} {
		if _, err := policyfile.Parse("p", []byte("backup.schedule: '"+s+"'\n"), facts.DefaultPolicy()); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
