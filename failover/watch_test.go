package failover

import (
	"testing"
	"time"
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
