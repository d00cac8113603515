package decide_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

var update = flag.Bool("update", false, "write the golden records anew")

// golden are situations whose decisions are kept: a change of one is a change
// of what the group does, and shows in the diff.
func golden(t testing.TB) map[string]*lab {
	type all = map[string]pos.LSN
	out := map[string]*lab{}
	add := func(name string, l *lab, change func(*lab)) {
		if change != nil {
			change(l)
		}
		out[name] = l
	}
	stopped := func(l *lab) {
		l.say("A", func(r *decide.Report) {
			r.Server.State, r.Server.Ended, r.Server.Problem = decide.ServerStopped, epoch(1), "signal 9"
		})
	}
	add("founding", founded(t), nil)
	add("ended", trio(t), stopped)
	add("switchover", trio(t), func(l *lab) {
		l.must(order(l, facts.OrderSwitchover, "B", false))
		stopped(l)
	})
	add("order-over", trio(t), func(l *lab) {
		l.must(order(l, facts.OrderSwitchover, "B", false))
		l.wait(31e9)
		l.hear()
	})
	add("stalled", electing(t, nil, all{"A": 300, "B": 300}), func(l *lab) {
		l.carry(decide.Decide(l.o))
		l.wait(3e9)
		l.hear()
		l.silence("A")
	})
	add("restart", electing(t, nil, all{"A": 300, "B": 290}), nil)
	add("failover", electing(t, nil, all{"B": 300, "W": 300}), func(l *lab) { l.silence("A") })
	add("copy", electing(t, nil, all{"B": 290, "W": 300}), func(l *lab) { l.silence("A") })
	add("ordered", electing(t, failoverTo("B", false), all{"A": 300, "B": 300, "W": 300}), nil)
	add("forced", electing(t, failoverTo("B", true), all{"A": 300, "B": 290}), func(l *lab) {
		l.wait(late)
		l.hear()
		l.logFrom(295, "A")
	})
	add("lost-log", electing(t, nil, all{"A": 290, "B": 300, "W": 300}), nil)
	add("pair-alone", pair(t), func(l *lab) {
		l.wait(11e9)
		l.silence("B")
		l.primarySays(decide.Link{Peer: "backup", State: "connecting", Since: t0})
	})
	return out
}

// A record holds everything that its decision was made from: made again from
// the file, it is the same.
func TestRecord_Golden(t *testing.T) {
	for name, l := range golden(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "records", name+".json")
			p := decide.Decide(l.o)
			if p.Empty() || !p.Kept() {
				t.Fatalf("nothing to record: %+v", p)
			}
			fresh, err := json.MarshalIndent(decide.NewRecord(l.o, p), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			fresh = append(fresh, '\n')
			if *update {
				if err := os.WriteFile(file, fresh, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			kept, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; run go test -run TestRecord_Golden -update", err)
			}
			replay(t, kept)
			if !bytes.Equal(kept, fresh) {
				t.Errorf("decided otherwise than recorded; if that is wanted, run with -update:\n%s", cmp.Diff(string(kept), string(fresh)))
			}
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "records", "*.json"))
	if err != nil || len(files) != len(golden(t)) {
		t.Errorf("%d golden files, %d situations: %v", len(files), len(golden(t)), err)
	}
}

func replay(t *testing.T, b []byte) {
	t.Helper()
	var r decide.Record
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	again := decide.NewRecord(r.Observation, decide.Decide(r.Observation))
	if d := cmp.Diff(r, again); d != "" {
		t.Errorf("made again it is another decision:\n%s", d)
	}
}

func TestNewRecord_NamesItsDecision(t *testing.T) {
	l := electing(t, nil, map[string]pos.LSN{"A": 300, "B": 300})
	p := l.fires("assign")
	r := decide.NewRecord(l.o, p)
	if r.ID != l.o.ID() || r.Node != "witness" || r.Rule != "assign" || !r.At.Equal(l.o.Now) || len(r.Actions) != 1 {
		t.Errorf("%+v", r)
	}
	if len(l.o.State.Changes) == 0 || r.Observation.State.Changes != nil {
		t.Error("what no rule looks at is in the record, or was taken from the observation itself")
	}
	if decide.Meaning("assign") == "" || decide.Meaning("nothing") != "" {
		t.Error("the meaning of a rule")
	}
	for _, a := range []decide.Action{{RaftAdd: &decide.RaftServer{Store: "X"}}, {RaftRemove: "X"}, {Transfer: "X"}, {Command: &facts.Command{Opened: &facts.Opened{Store: "X"}}}} {
		if s := a.String(); !bytes.Contains([]byte(s), []byte("X")) {
			t.Errorf("%q", s)
		}
	}
	if s := (decide.Action{}).String(); s != "nothing" {
		t.Errorf("%q", s)
	}
}
