package eventlog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"understudy/cmd/internal/eventlog"
	"understudy/shipper/pos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, eventlog.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

func numbers(events []eventlog.Event) string {
	var s []string
	for _, e := range events {
		s = append(s, fmt.Sprint(e.N))
	}
	return strings.Join(s, " ")
}

func TestLog_NumbersGoOnAfterReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := l.Add(eventlog.Event{Kind: "opened", Node: "main", Text: "main is open", Epoch: pos.Epoch{Gen: 1, Num: 4}, At: at, Data: map[string]any{"lsn": "0/10"}})
	second := l.Add(eventlog.Event{Kind: "x"})
	if first.N != 1 || second.N != 2 || second.At.IsZero() || second.Severity != eventlog.Info {
		t.Errorf("got %+v, %+v", first, second)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	events, oldest := l.Since(0, 0)
	if oldest != 1 || len(events) != 2 || events[0].Text != "main is open" || events[0].Epoch != first.Epoch ||
		!events[0].At.Equal(at) || events[0].Data["lsn"] != "0/10" {
		t.Errorf("got %+v from %d", events, oldest)
	}
	if e := l.Add(eventlog.Event{Kind: "y"}); e.N != 3 {
		t.Errorf("got %d", e.N)
	}
}

func TestLog_TornLastLineIsDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path)
	for range 3 {
		l.Add(eventlog.Event{Kind: "k", Text: "some text"})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{0}
	for i, b := range whole {
		if b == '\n' {
			ends = append(ends, i+1)
		}
	}
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		kept := 0
		for kept+1 < len(ends) && ends[kept+1] <= cut {
			kept++
		}
		l := open(t, path)
		events, _ := l.Since(0, 0)
		if len(events) != kept {
			t.Fatalf("cut at %d: got %d events, want %d", cut, len(events), kept)
		}
		if e := l.Add(eventlog.Event{Kind: "after"}); e.N != uint64(kept)+1 {
			t.Fatalf("cut at %d: next is %d", cut, e.N)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(got, whole[:ends[kept]]) || bytes.Count(got, []byte("\n")) != kept+1 {
			t.Fatalf("cut at %d: %q %v", cut, got, err)
		}
	}
}

func TestLog_UnreadableLinesArePassedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	lines := `{"n":1,"kind":"a"}` + "\nnot json\n" + `{"n":0}` + "\n" + strings.Repeat("x", 200<<10) + "\n" + `{"n":2,"kind":"b"}` + "\n" + `{"n":2,"kind":"again"}` + "\n"
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	if events, _ := l.Since(0, 0); numbers(events) != "1 2" {
		t.Errorf("got %s", numbers(events))
	}
}

func TestLog_SinceIsTheTail(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "events.jsonl"))
	if events, oldest := l.Since(0, 0); len(events) != 0 || oldest != 1 {
		t.Errorf("empty: %v %d", events, oldest)
	}
	const total = eventlog.RingEvents + 100
	for range total {
		l.Add(eventlog.Event{Kind: "k"})
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Uint64Range(0, total+10), rapid.Just(^uint64(0))).Draw(t, "n")
		limit := rapid.IntRange(0, 50).Draw(t, "max")
		events, oldest := l.Since(n, limit)
		if oldest != 101 {
			t.Fatalf("oldest %d", oldest)
		}
		want := 0
		if n < total {
			want = total - int(max(n, 100))
		}
		if limit > 0 {
			want = min(want, limit)
		}
		if len(events) != want {
			t.Fatalf("got %d events, want %d", len(events), want)
		}
		for i, e := range events {
			if e.N != max(n, 100)+1+uint64(i) {
				t.Fatalf("event %d has number %d", i, e.N)
			}
		}
	})
}

func TestLog_RotatesAndKeepsOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.jsonl")
	l := open(t, path)
	text := strings.Repeat("x", 4096)
	for i := range 3 * eventlog.RotateBytes / 4096 {
		l.Add(eventlog.Event{Kind: "k", Text: text})
		if i%500 == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("got %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > eventlog.RotateBytes+3<<20 {
			t.Errorf("%s has %d bytes", e.Name(), info.Size())
		}
	}
	before := l.Last()
	l = open(t, path)
	events, _ := l.Since(0, 0)
	if l.Last() != before || len(events) < 2000 {
		t.Errorf("last %d, want %d; %d events", l.Last(), before, len(events))
	}
}

func TestLog_SlowSubscriberIsCutOff(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "events.jsonl"))
	slow, cancelSlow := l.Subscribe(2)
	quick, cancel := l.Subscribe(10)
	defer cancelSlow()
	for range 5 {
		l.Add(eventlog.Event{Kind: "k"})
	}
	var got []eventlog.Event
	for e := range slow {
		got = append(got, e)
	}
	if numbers(got) != "1 2" {
		t.Errorf("slow got %s", numbers(got))
	}
	cancel()
	cancel()
	got = nil
	for e := range quick {
		got = append(got, e)
	}
	if numbers(got) != "1 2 3 4 5" {
		t.Errorf("quick got %s", numbers(got))
	}
}

func TestLog_ManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path)
	events, cancel := l.Subscribe(1000)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l.Add(eventlog.Event{Kind: "k"})
			}
		})
	}
	wg.Wait()
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 800; want++ {
		if e := <-events; e.N != want {
			t.Fatalf("got %d, want %d", e.N, want)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil || bytes.Count(data, []byte("\n")) != 800 {
		t.Errorf("%d lines, %v", bytes.Count(data, []byte("\n")), err)
	}
}

func TestLog_LargeDataIsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path)
	l.Add(eventlog.Event{Kind: "big", Data: map[string]any{"x": strings.Repeat("y", 64<<10)}})
	l.Add(eventlog.Event{Kind: "odd", Data: map[string]any{"x": make(chan int)}})
	e := l.Add(eventlog.Event{Kind: "long", Text: strings.Repeat("é", 5000)})
	if len(e.Text) > 4096 || !strings.HasSuffix(e.Text, "é") {
		t.Errorf("text of %d bytes", len(e.Text))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var e eventlog.Event
		if err := json.Unmarshal(line, &e); err != nil || e.Data != nil {
			t.Errorf("%v %v", e, err)
		}
	}
}

func TestLog_AfterClose(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "events.jsonl"))
	ch, _ := l.Subscribe(1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-ch; ok {
		t.Error("subscription outlived the log")
	}
	if err := l.Close(); !errors.Is(err, eventlog.ErrClosed) {
		t.Errorf("got %v", err)
	}
	l.Add(eventlog.Event{Kind: "late"})
	if l.Last() != 0 {
		t.Error("event after Close was kept")
	}
}

// A failing disk holds nobody up, and what the ring still has is written when
// the disk is back.
func TestLog_WritesAgainAfterFailure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.jsonl")
	l := open(t, path)
	// A folder in the way of the older file makes the rotation fail.
	if err := os.MkdirAll(filepath.Join(path+".1", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range eventlog.RotateBytes/4096 + 20 {
		l.Add(eventlog.Event{Kind: "k", Text: strings.Repeat("x", 4096)})
	}
	for l.Err() == nil { // ends with the test's deadline at the latest
		l.Add(eventlog.Event{Kind: "k"})
		if err := l.Flush(); err != nil {
			break
		}
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	l.Add(eventlog.Event{Kind: "back"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	events, _ := l.Since(0, 0)
	if len(events) == 0 || events[len(events)-1].Kind != "back" {
		t.Errorf("%d events", len(events))
	}
}
