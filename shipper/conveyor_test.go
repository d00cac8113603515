package shipper_test

import (
	"bytes"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"understudy/shipper"
	"understudy/shipper/pos"
)

func TestConveyor_KeepsOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	var got []byte
	c := shipper.NewConveyor(func(at pos.LSN, p []byte) error {
		if at != pos.LSN(len(got)) {
			t.Errorf("piece at %d where %d belongs", at, len(got))
		}
		got = append(got, p...)
		return nil
	})
	var want []byte
	for i := range 1000 {
		p := bytes.Repeat([]byte{byte(i)}, i%37)
		if err := c.Put(pos.LSN(len(want)), p); err != nil {
			t.Fatal(err)
		}
		want = append(want, p...)
		clear(p) // the conveyor has its own copy
		if i == 500 {
			if err := c.Drain(); err != nil || len(got) != len(want) {
				t.Fatalf("after Drain %d of %d bytes, %v", len(got), len(want), err)
			}
		}
	}
	if err := c.Close(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if c.End() != pos.LSN(len(want)) {
		t.Errorf("End is %s", c.End())
	}
}

func TestConveyor_NothingAfterAnError(t *testing.T) {
	defer goleak.VerifyNone(t)
	full := errors.New("no space")
	taken := 0
	c := shipper.NewConveyor(func(pos.LSN, []byte) error {
		if taken == 3 {
			return full
		}
		taken++
		return nil
	})
	for i := range 10000 {
		if err := c.Put(pos.LSN(i), []byte{1}); err != nil {
			break
		}
	}
	if err := c.Drain(); !errors.Is(err, full) {
		t.Errorf("Drain: %v", err)
	}
	if err := c.Put(1, nil); !errors.Is(err, full) {
		t.Errorf("Put after the error: %v", err)
	}
	if err := c.Close(); !errors.Is(err, full) || taken != 3 || c.End() != 3 {
		t.Errorf("Close: %v, %d pieces taken, end %s", err, taken, c.End())
	}
}
