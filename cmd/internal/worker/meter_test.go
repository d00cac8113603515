package worker

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestReport_Line plays a job of two steps and expects a line a minute, with a
// rate as soon as there is one.
func TestReport_Line(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var r report
	for _, tt := range []struct {
		after time.Duration
		p     Progress
		want  string
	}{
		{0, Progress{Step: "files", Done: 0, Total: 1000}, ""},
		{59 * time.Second, Progress{Step: "files", Done: 100, Total: 1000}, ""},
		{60 * time.Second, Progress{Step: "files", Done: 120, Total: 1000}, "step files done_bytes 120 total_bytes 1000 percent 12 bytes_per_second 2 left 7m20s"},
		{61 * time.Second, Progress{Step: "files", Done: 130, Total: 1000}, ""},
		{125 * time.Second, Progress{Step: "end", Done: 0}, "step end done_bytes 0"},
		{200 * time.Second, Progress{Step: "end", Done: 150, Places: map[string]int64{"nas": 7, "disk": 9}}, "step end done_bytes 150 bytes_per_second 2 at_disk 9 at_nas 7"},
		{270 * time.Second, Progress{Step: "files", Done: 2000, Total: 1000}, "step files done_bytes 2000 total_bytes 1000 percent 100"},
	} {
		got := strings.TrimSpace(fmt.Sprintln(r.line(tt.p, start.Add(tt.after))...))
		if got != tt.want {
			t.Errorf("after %s: %q, want %q", tt.after, got, tt.want)
		}
	}
}
