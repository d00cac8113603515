package location_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"understudy/shipper/location"
)

func TestPolicy_Wait(t *testing.T) {
	p := location.Policy{Quick: 2, Pause: 100 * time.Millisecond, Min: time.Second, Max: 5 * time.Second, Attempts: 8}
	want := []time.Duration{100 * time.Millisecond, 100 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	for i, w := range want {
		if got, ok := p.Wait(i+1, 1); !ok || got != w {
			t.Errorf("after failure %d: %s %v, want %s", i+1, got, ok, w)
		}
	}
	if _, ok := p.Wait(8, 1); ok {
		t.Error("a ninth attempt")
	}
	p.Attempts = 0
	if got, ok := p.Wait(1<<40, 1); !ok || got != 5*time.Second {
		t.Errorf("much later: %s %v", got, ok)
	}
	if got, ok := (location.Policy{}).Wait(100, 1); !ok || got != time.Minute {
		t.Errorf("the zero policy: %s %v", got, ok)
	}
}

func TestRetry(t *testing.T) {
	soft := fmt.Errorf("dial: %w", location.ErrUnreachable)
	hard := fmt.Errorf("log in: %w", location.ErrRefused)
	for _, tt := range []struct {
		name   string
		p      location.Policy
		fails  []error
		calls  int
		failed int
		err    error
		took   time.Duration
	}{
		{"AtOnce", location.Policy{}, nil, 1, 0, nil, 0},
		{"Quick", location.Policy{Quick: 2, Pause: time.Second}, []error{soft, soft}, 3, 2, nil, 2 * time.Second},
		{"Bounded", location.Policy{Quick: 9, Pause: time.Second, Attempts: 3}, []error{soft, soft, soft, soft}, 3, 2, location.ErrUnreachable, 2 * time.Second},
		{"Permanent", location.Policy{Quick: 9}, []error{hard}, 1, 0, location.ErrRefused, 0},
		{"Stubborn", location.Policy{Quick: 9, Max: time.Minute, Stubborn: true}, []error{hard, soft}, 3, 2, nil, time.Minute},
		{"Answer", location.Policy{Quick: 9, Stubborn: true}, []error{location.ErrNotExist}, 1, 0, location.ErrNotExist, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, failed, began := 0, 0, time.Now()
				tt.p.Failed = func(n int, err error, wait time.Duration) {
					if failed++; n != failed || err == nil {
						t.Errorf("failure %d is told as %d: %v", failed, n, err)
					}
				}
				err := location.Retry(t.Context(), tt.p, func(context.Context) error {
					if calls++; calls <= len(tt.fails) {
						return tt.fails[calls-1]
					}
					return nil
				})
				if calls != tt.calls || failed != tt.failed || !errors.Is(err, tt.err) || time.Since(began) != tt.took {
					t.Errorf("%d calls, %d told, %v after %s", calls, failed, err, time.Since(began))
				}
			})
		})
	}
}

func TestRetry_ContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Minute, func() { cancel(stop) })
		err := location.Retry(ctx, location.Policy{}, func(context.Context) error { return location.ErrUnreachable })
		if !errors.Is(err, stop) || !errors.Is(err, location.ErrUnreachable) {
			t.Errorf("ended with %v", err)
		}
	})
}
