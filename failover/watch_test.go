package failover

import (
	"testing"
	"time"

	"understudy/failover/probe"
)

// Only a sender that stands still for long, while there is more, is stuck.
func TestHandedOut(t *testing.T) {
	const stall = 5 * time.Second
	t0 := time.Unix(1000, 0)
	var h handedOut
	h.look(100, 200, t0, stall)
	h.look(150, 300, t0.Add(5*time.Second), stall) // it moves, though it lags
	h.look(150, 300, t0.Add(10*time.Second), stall)
	if h.stuck != "" {
		t.Fatal("stuck too early")
	}
	h.look(150, 300, t0.Add(10*time.Second+1), stall)
	if h.stuck == "" {
		t.Fatal("not stuck")
	}
	h.look(150, 150, t0.Add(11*time.Second), stall)
	h.look(150, 400, t0.Add(60*time.Second), stall)
	if h.stuck != "" {
		t.Fatal("an idle server is not stuck")
	}
}

// What the probes find comes before a sender that is stuck, and the reports and
// the complaints say the same.
func TestAgent_Failing(t *testing.T) {
	stuck := handedOut{stuck: "no log", since: time.Now().Add(-time.Minute)}
	for name, tt := range map[string]struct {
		probe probe.Health
		out   handedOut
		want  string
		min   time.Duration
	}{
		"Well":    {probe.Health{}, handedOut{at: 100}, "", 0},
		"Probe":   {probe.Health{Failing: "no disk", For: 2 * time.Minute}, handedOut{}, "no disk", 2 * time.Minute},
		"Stuck":   {probe.Health{}, stuck, "no log", time.Minute},
		"Both":    {probe.Health{Failing: "no disk", For: 2 * time.Minute}, stuck, "no disk", 2 * time.Minute},
		"Warning": {probe.Health{Warnings: map[probe.Kind]string{probe.DiskFull: "nearly"}}, handedOut{}, "", 0},
	} {
		a := Agent{out: tt.out}
		if got, since := a.failing(tt.probe); got != tt.want || since < tt.min || since > tt.min+10*time.Second {
			t.Errorf("%s: %q for %s, want %q for %s", name, got, since, tt.want, tt.min)
		}
	}
	a := Agent{out: stuck}
	if s, p := a.Server(), a.Problems(); s.Failing != "no log" || s.FailingFor < time.Minute || p["failing"] != "no log" {
		t.Errorf("the server is %+v, the problems are %q", s, p)
	}
}
