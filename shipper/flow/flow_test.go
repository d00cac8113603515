package flow_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/flow"
	"understudy/shipper/pos"
)

var small = flow.Config{Window: 100, Near: 10, Far: 50}

// began is a session agreed at 1000 with as many bytes to catch up.
func began(t *testing.T, lack pos.LSN) *flow.Progress {
	t.Helper()
	p := flow.New(small)
	if err := p.Begin(1000, 1000, 1000+lack); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProgress_States(t *testing.T) {
	begin := func(lack pos.LSN) func(*flow.Progress) error {
		return func(p *flow.Progress) error { return p.Begin(1000, 1000, 1000+lack) }
	}
	send := func(n uint64) func(*flow.Progress) error {
		return func(p *flow.Progress) error { return p.Send(n) }
	}
	ack := func(received, durable pos.LSN) func(*flow.Progress) error {
		return func(p *flow.Progress) error { return p.Ack(received, durable) }
	}
	grow := func(end pos.LSN) func(*flow.Progress) error {
		return func(p *flow.Progress) error { p.Grow(end); return nil }
	}
	lose := func(p *flow.Progress) error { p.Lose(); return nil }
	refuse := func(p *flow.Progress) error { p.Refuse("another history"); return nil }
	retry := func(p *flow.Progress) error { p.Retry(); return nil }

	type step = func(*flow.Progress) error
	tests := map[string]struct {
		steps   []step
		want    flow.State
		wantErr error // of the last step
	}{
		"New":                        {nil, flow.Connecting, nil},
		"BeginNear":                  {[]step{begin(10)}, flow.Streaming, nil},
		"BeginBehind":                {[]step{begin(11)}, flow.CatchingUp, nil},
		"ReceivedIsNotEnough":        {[]step{begin(60), send(60), ack(1060, 1000)}, flow.CatchingUp, nil},
		"CaughtUp":                   {[]step{begin(60), send(60), ack(1060, 1050)}, flow.Streaming, nil},
		"StreamingGrows":             {[]step{begin(0), grow(1050)}, flow.Streaming, nil},
		"StreamingFallsBehind":       {[]step{begin(0), grow(1051)}, flow.CatchingUp, nil},
		"FallenBehindNeedsNearAgain": {[]step{begin(0), grow(1051), send(51), ack(1040, 1040)}, flow.CatchingUp, nil},
		"OldEndIsPassedOver":         {[]step{begin(20), grow(1005)}, flow.CatchingUp, nil},
		"Lost":                       {[]step{begin(0), lose}, flow.Connecting, nil},
		"BeginAfterLoss":             {[]step{begin(0), lose, begin(60)}, flow.CatchingUp, nil},
		"Refused":                    {[]step{refuse}, flow.Refused, nil},
		"RefusedLater":               {[]step{begin(0), refuse}, flow.Refused, nil},
		"LossKeepsRefusal":           {[]step{refuse, lose}, flow.Refused, nil},
		"Retried":                    {[]step{refuse, retry}, flow.Connecting, nil},
		"RetryOfSession":             {[]step{begin(0), retry}, flow.Streaming, nil},
		"BeginTwice":                 {[]step{begin(0), begin(0)}, flow.Streaming, flow.ErrState},
		"BeginRefused":               {[]step{refuse, begin(0)}, flow.Refused, flow.ErrState},
		"BeginBeyondEnd":             {[]step{func(p *flow.Progress) error { return p.Begin(11, 1, 10) }}, flow.Connecting, flow.ErrProgress},
		"BeginDurableBeyond":         {[]step{func(p *flow.Progress) error { return p.Begin(9, 10, 10) }}, flow.Connecting, flow.ErrProgress},
		"SendUnconnected":            {[]step{send(0)}, flow.Connecting, flow.ErrState},
		"AckUnconnected":             {[]step{ack(0, 0)}, flow.Connecting, flow.ErrState},
		"AckAfterLoss":               {[]step{begin(10), send(10), lose, ack(1010, 1010)}, flow.Connecting, flow.ErrState},
		"SendMoreThanThere":          {[]step{begin(60), send(61)}, flow.CatchingUp, flow.ErrProgress},
		"AckUnsent":                  {[]step{begin(60), send(5), ack(1006, 1000)}, flow.CatchingUp, flow.ErrProgress},
		"AckFalls":                   {[]step{begin(60), send(5), ack(1005, 1000), ack(1004, 1000)}, flow.CatchingUp, flow.ErrProgress},
		"DurableFalls":               {[]step{begin(60), send(5), ack(1005, 1005), ack(1005, 1004)}, flow.CatchingUp, flow.ErrProgress},
		"DurableUnreceived":          {[]step{begin(60), send(9), ack(1005, 1006)}, flow.CatchingUp, flow.ErrProgress},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := flow.New(small)
			for i, f := range tt.steps {
				err := f(p)
				if i < len(tt.steps)-1 && err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if i == len(tt.steps)-1 && !errors.Is(err, tt.wantErr) {
					t.Errorf("last step: %v, want %v", err, tt.wantErr)
				}
			}
			if p.State() != tt.want {
				t.Errorf("%s, want %s", p.State(), tt.want)
			}
			if (p.Reason() != "") != (tt.want == flow.Refused) {
				t.Errorf("reason %q", p.Reason())
			}
		})
	}
}

func TestProgress_WindowFillsAndEmpties(t *testing.T) {
	p := began(t, 1000)
	if got := p.Room(); got != 100 {
		t.Fatalf("room %d", got)
	}
	if err := p.Send(100); err != nil {
		t.Fatal(err)
	}
	if p.Room() != 0 || p.InFlight() != 100 || p.Sent() != 1100 {
		t.Errorf("full: room %d, %d in flight, sent %s", p.Room(), p.InFlight(), p.Sent())
	}
	if err := p.Send(1); !errors.Is(err, flow.ErrProgress) {
		t.Errorf("into a full window: %v", err)
	}
	if err := p.Ack(1070, 1020); err != nil {
		t.Fatal(err)
	}
	if p.Room() != 70 || p.Received() != 1070 || p.Durable() != 1020 || p.Lack() != 980 {
		t.Errorf("room %d, received %s, durable %s, lack %d", p.Room(), p.Received(), p.Durable(), p.Lack())
	}
	p.Lose()
	if p.Room() != 0 || p.Durable() != 1020 {
		t.Errorf("lost: room %d, durable %s", p.Room(), p.Durable())
	}
}

// TestProgress_Bounds does random things and checks what always holds.
func TestProgress_Bounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := flow.New(small)
		at := func(name string) pos.LSN { return pos.LSN(rapid.Uint64Range(0, 400).Draw(t, name)) }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before := *p
			var err error
			switch rapid.SampledFrom([]string{"begin", "grow", "send", "ack", "good ack", "lose", "refuse", "retry"}).Draw(t, "step") {
			case "begin":
				err = p.Begin(at("resume"), at("durable"), at("end"))
			case "grow":
				p.Grow(at("end"))
			case "send":
				err = p.Send(rapid.Uint64Range(0, 120).Draw(t, "n"))
			case "ack":
				err = p.Ack(at("received"), at("durable"))
			case "good ack":
				err = p.Ack(p.Sent(), p.Received())
			case "lose":
				p.Lose()
			case "refuse":
				p.Refuse("no")
			case "retry":
				p.Retry()
			}
			if err != nil && *p != before {
				t.Fatalf("changed by a refused call: %v", err)
			}
			if p.InFlight() > small.Window || p.InFlight()+p.Room() > small.Window {
				t.Fatalf("%d in flight and room for %d", p.InFlight(), p.Room())
			}
			if p.Durable() > p.Received() || p.Received() > p.Sent() {
				t.Fatalf("durable %s, received %s, sent %s", p.Durable(), p.Received(), p.Sent())
			}
		}
	})
}

func TestConfig_Validate(t *testing.T) {
	if err := flow.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]flow.Config{
		"NoWindow": {Near: 1, Far: 1}, "FarBelowNear": {Window: 1, Near: 2, Far: 1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestState_Names(t *testing.T) {
	for s, want := range map[flow.State]string{
		flow.Connecting: "connecting", flow.CatchingUp: "catching up", flow.Streaming: "streaming", flow.Refused: "refused", 0: "state 0",
	} {
		if b, err := s.MarshalText(); err != nil || string(b) != want {
			t.Errorf("%q, %v, want %q", b, err, want)
		}
	}
}
