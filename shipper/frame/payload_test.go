package frame_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

func epochs() *rapid.Generator[pos.Epoch] {
	return rapid.Custom(func(t *rapid.T) pos.Epoch {
		return pos.Epoch{Gen: rapid.Uint32().Draw(t, "gen"), Num: rapid.Uint64().Draw(t, "num")}
	})
}

// fill draws every field of the struct that v points to.
func fill(t *rapid.T, v any) {
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		f, name := s.Field(i), s.Type().Field(i).Name
		switch f.Interface().(type) {
		case pos.Epoch:
			f.Set(reflect.ValueOf(epochs().Draw(t, name)))
		case bool:
			f.SetBool(rapid.Bool().Draw(t, name))
		case int64:
			f.SetInt(rapid.Int64().Draw(t, name))
		default:
			f.SetUint(rapid.Uint64().Draw(t, name))
		}
	}
}

func TestPayloads_RoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var b bytes.Buffer
		w, r := frame.NewWriter(&b), frame.NewReader(&b)
		next := func(want frame.Type, err error) []byte {
			rt.Helper()
			if err := errors.Join(err, w.Flush()); err != nil {
				rt.Fatal(err)
			}
			typ, p, err := r.Next()
			if err != nil || typ != want {
				rt.Fatalf("%s, %v", typ, err)
			}
			return p
		}
		var head frame.DataHead
		fill(rt, &head)
		head.LSN >>= 1
		data := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(rt, "data")
		if got, gotData, err := frame.DecodeData(next(frame.Data, w.WriteData(head, data))); err != nil || got != head || !bytes.Equal(gotData, data) {
			rt.Fatalf("data: %+v %v %v", got, gotData, err)
		}
		var ack frame.Ack
		fill(rt, &ack)
		if got, err := frame.DecodeAck(next(frame.AckFrame, w.WriteAck(ack))); err != nil || got != ack {
			rt.Fatalf("ack: %+v %v", got, err)
		}
		var beat frame.Beat
		fill(rt, &beat)
		if got, err := frame.DecodeBeat(next(frame.BeatFrame, w.WriteBeat(beat))); err != nil || got != beat {
			rt.Fatalf("beat: %+v %v", got, err)
		}
		var answer frame.BeatAck
		fill(rt, &answer)
		if got, err := frame.DecodeBeatAck(next(frame.BeatAckFrame, w.WriteBeatAck(answer))); err != nil || got != answer {
			rt.Fatalf("beat ack: %+v %v", got, err)
		}
	})
}

func TestDecode_RefusesOtherSizes(t *testing.T) {
	for n := range 200 {
		p := make([]byte, n)
		_, _, data := frame.DecodeData(p)
		_, ack := frame.DecodeAck(p)
		_, beat := frame.DecodeBeat(p)
		_, answer := frame.DecodeBeatAck(p)
		for name, c := range map[string]struct {
			err  error
			good bool
		}{
			"data": {data, n >= frame.DataHeadSize}, "ack": {ack, n == frame.AckSize},
			"beat": {beat, n == frame.BeatSize}, "beat ack": {answer, n == frame.BeatAckSize},
		} {
			if c.good != (c.err == nil) || !c.good && !errors.Is(c.err, frame.ErrPayload) {
				t.Errorf("%s of %d bytes: %v", name, n, c.err)
			}
		}
	}
	if _, err := frame.DecodeAck(append(make([]byte, frame.AckSize-1), 2)); !errors.Is(err, frame.ErrPayload) {
		t.Errorf("unknown flag: %v", err)
	}
	var v struct{}
	if err := frame.DecodeJSON(frame.Hello, []byte(`{} {}`), &v); !errors.Is(err, frame.ErrPayload) {
		t.Errorf("two JSON values: %v", err)
	}
}

func TestDecodeData_RefusesBytesBeyondTheLastLSN(t *testing.T) {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	if err := errors.Join(w.WriteData(frame.DataHead{LSN: ^pos.LSN(0) - 3}, make([]byte, 4)), w.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := frame.DecodeData(b.Bytes()[frame.HeaderSize:]); !errors.Is(err, frame.ErrPayload) {
		t.Errorf("got %v", err)
	}
}
