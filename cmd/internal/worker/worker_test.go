package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

const mib = 1 << 20

func lineage(starts ...pos.LSN) (l pos.Lineage) {
	for i, s := range starts {
		l = append(l, pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: uint64(i + 1)}, Timeline: pos.Timeline(i + 1), Start: s})
	}
	return l
}

// What a location is said to have is what it has: along the history, without
// what is missing, and after the first time only what came since.
func TestFeeder_Spans(t *testing.T) {
	const seg = 16 * mib
	gap := catalog.Gap{Timeline: 1, From: 2 * seg, To: 3 * seg}
	for name, tt := range map[string]struct {
		lin    pos.Lineage
		f      feeder
		s      archive.Status
		want   []catalog.Span
		lastTL pos.Timeline
	}{
		"First": {lineage(0), feeder{from: seg + 5}, archive.Status{Archived: 3*seg + 7, Timeline: 1},
			[]catalog.Span{{Timeline: 1, From: seg, To: 3*seg + 7}}, 0},
		"More": {lineage(0), feeder{from: seg, told: 3 * seg, toldTL: 1}, archive.Status{Archived: 4 * seg, Timeline: 1},
			[]catalog.Span{{Timeline: 1, From: 3 * seg, To: 4 * seg}}, 0},
		"Fork": {lineage(0, 3*seg+100), feeder{from: seg, told: 3 * seg, toldTL: 1}, archive.Status{Archived: 4 * seg, Timeline: 2},
			[]catalog.Span{{Timeline: 1, From: seg, To: 3*seg + 100}, {Timeline: 2, From: 3*seg + 100, To: 4 * seg}}, 0},
		"Missing": {lineage(0), feeder{from: seg}, archive.Status{Archived: 4 * seg, Timeline: 1, Missing: []catalog.Gap{gap}},
			[]catalog.Span{{Timeline: 1, From: seg, To: 2 * seg}, {Timeline: 1, From: 3 * seg, To: 4 * seg}}, 0},
		"NewGapAfterTold": {lineage(0), feeder{from: seg, told: 2 * seg, toldTL: 1}, archive.Status{Archived: 3 * seg, Timeline: 1, Missing: []catalog.Gap{gap}},
			[]catalog.Span{{Timeline: 1, From: seg, To: 2 * seg}}, 0},
		"BeforeTheFork": {lineage(0, 3*seg), feeder{from: seg}, archive.Status{Archived: 2 * seg, Timeline: 1},
			[]catalog.Span{{Timeline: 1, From: seg, To: 2 * seg}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			marks := &moments{src: &source{lineage: tt.lin}}
			if diff := cmp.Diff(tt.want, tt.f.spans(marks, tt.s, seg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMoments_Between(t *testing.T) {
	m := &moments{}
	at := func(l pos.LSN, name string) catalog.Mark { return catalog.Mark{LSN: l, Name: name} }
	m.add([]catalog.Mark{at(30, ""), at(10, ""), at(20, "before the upgrade"), at(10, "")})
	for name, tt := range map[string]struct {
		from, to pos.LSN
		want     []catalog.Mark
	}{
		"All":      {0, 99, []catalog.Mark{at(10, ""), at(20, "before the upgrade"), at(30, "")}},
		"EndOnly":  {10, 20, []catalog.Mark{at(20, "before the upgrade")}},
		"Nothing":  {10, 19, nil},
		"Boundary": {9, 10, []catalog.Mark{at(10, "")}},
	} {
		if diff := cmp.Diff(tt.want, m.between(tt.from, tt.to)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWithout(t *testing.T) {
	span := catalog.Span{Timeline: 2, From: 10, To: 50, Marks: []catalog.Mark{{LSN: 15}, {LSN: 30}, {LSN: 50}}}
	for name, tt := range map[string]struct {
		missing []catalog.Gap
		want    []catalog.Span
	}{
		"Nothing":       {nil, []catalog.Span{span}},
		"OtherTimeline": {[]catalog.Gap{{Timeline: 1, From: 10, To: 50}}, []catalog.Span{span}},
		"Middle": {[]catalog.Gap{{Timeline: 2, From: 20, To: 40}}, []catalog.Span{
			{Timeline: 2, From: 10, To: 20, Marks: []catalog.Mark{{LSN: 15}}}, {Timeline: 2, From: 40, To: 50, Marks: []catalog.Mark{{LSN: 50}}}}},
		"All":  {[]catalog.Gap{{Timeline: 2, From: 0, To: 90}}, nil},
		"Ends": {[]catalog.Gap{{Timeline: 2, From: 0, To: 12}, {Timeline: 2, From: 49, To: 60}}, []catalog.Span{{Timeline: 2, From: 12, To: 49, Marks: []catalog.Mark{{LSN: 15}, {LSN: 30}}}}},
	} {
		if diff := cmp.Diff(tt.want, without(span, tt.missing)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// An unread update is not lost when the next one comes: its marks are each
// given once.
func TestPort_Updates(t *testing.T) {
	p := &port{updates: make(chan Update, 1)}
	p.pass(Update{Committed: 1, Flush: 9, Marks: []catalog.Mark{{LSN: 1}}})
	p.pass(Update{Committed: 2, Marks: []catalog.Mark{{LSN: 2}}})
	u := <-p.updates
	if u.Committed != 2 || u.Flush != 9 || len(u.Marks) != 2 {
		t.Errorf("%+v", u)
	}
}

func TestPort_Propose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, daemon := io.Pipe()
		var out bytes.Buffer
		p := &port{out: json.NewEncoder(&out), waiting: map[int]chan Answer{}, updates: make(chan Update, 1), exports: make(chan []byte, 1)}
		gone := make(chan error, 1)
		go func() { gone <- p.listen(bufio.NewReader(in)) }()
		answers := []string{`{"answer":{"n":1}}`, `{"answer":{"n":2,"error":"no","refused":true}}`, `{"answer":{"n":3,"error":"no leader"}}`}
		for i, a := range answers {
			go func() {
				synctest.Wait()
				if _, err := io.WriteString(daemon, a+"\n"); err != nil {
					t.Error(err)
				}
			}()
			err := p.Propose(context.Background(), facts.Command{ClearIncident: &facts.ClearIncident{Key: "k"}})
			switch i {
			case 0:
				if err != nil {
					t.Error(err)
				}
			case 1:
				if !errors.Is(err, ErrRefused) {
					t.Errorf("refused: %v", err)
				}
			case 2:
				if err == nil || errors.Is(err, ErrRefused) {
					t.Errorf("no leader: %v", err)
				}
			}
		}
		if strings.Count(out.String(), `"clear_incident"`) != len(answers) {
			t.Errorf("sent %s", out.String())
		}
		daemon.Close()
		if err := <-gone; !errors.Is(err, errParentGone) {
			t.Errorf("the end of input: %v", err)
		}
	})
}

// A worker whose daemon is gone ends, whatever it does.
func TestRun_ParentGone(t *testing.T) {
	in, daemon := io.Pipe()
	done := make(chan error, 1)
	var out bytes.Buffer
	go func() { done <- Run(context.Background(), in, &out, slog.New(slog.DiscardHandler)) }()
	daemon.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error although nobody said what to do")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
}

// A spec that cannot be carried out is said so, and not a crash.
func TestRun_BadSpec(t *testing.T) {
	for name, line := range map[string]string{"NoFile": `{"config":"/nowhere/understudy.yaml","task":"backup"}`, "NoJSON": `nonsense`} {
		in, daemon := io.Pipe()
		go func() { _, _ = io.WriteString(daemon, line+"\n") }()
		var out bytes.Buffer
		err := Run(context.Background(), in, &out, slog.New(slog.DiscardHandler))
		daemon.Close()
		var m Message
		if err == nil {
			if jerr := json.Unmarshal(out.Bytes(), &m); jerr != nil || m.Done == nil || m.Done.Problem == "" {
				t.Errorf("%s: %q", name, out.String())
			}
		} else if name != "NoJSON" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
