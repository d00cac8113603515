package ledger_test

import (
	"strings"
	"testing"

	"understudy/ledger"
	"understudy/ledger/facts"
)

func TestHub_SlowReaderIsToldWhatItMissed(t *testing.T) {
	h := ledger.NewHub()
	began, hold, got := make(chan struct{}), make(chan struct{}), make(chan []facts.Event, 4)
	first := true
	ledger.Subscribe(h, func(_ facts.State, e []facts.Event) {
		if first {
			first = false
			close(began)
			<-hold
			return
		}
		got <- e
	})
	<-began
	batch := make([]facts.Event, 1000)
	n := 0
	for v := uint64(1); n < ledger.MaxPending+1; v++ {
		for i := range batch {
			batch[i].Version = v
		}
		ledger.Publish(h, facts.State{Version: v}, batch)
		n += len(batch)
	}
	close(hold)
	events := <-got
	if len(events) != ledger.MaxPending+1 || events[0].Kind != "events-lost" || !strings.Contains(events[0].Text, "464") {
		t.Errorf("%d events, first %+v", len(events), events[0])
	}
	if last := events[len(events)-1]; last.Version != uint64(n/len(batch)) {
		t.Errorf("last event is of version %d", last.Version)
	}
	ledger.CloseHub(h)
	cancel := ledger.Subscribe(h, func(facts.State, []facts.Event) { t.Error("called after close") })
	cancel()
}
