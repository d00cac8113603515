package facts_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
)

func TestDecode_RoundTripAndRefusals(t *testing.T) {
	l := at(t, facts.PhasePromoting)
	b, err := facts.Encode(l.s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := facts.Decode(b)
	if d := cmp.Diff(l.s, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if _, err := facts.Decode([]byte(`{"format":2,"state":{}}`)); !errors.Is(err, facts.ErrFormat) {
		t.Errorf("newer format: %v", err)
	}
	for _, bad := range []string{
		``, `{}`, `{"format":1}`, `{"format":1,"state":{"wings":2}}`,
		`{"format":1,"state":{"members":{"A":{"store":"B"}}}}`,
		`{"format":1,"state":{"voters":{"stores":["A"]}}}`,
		`{"format":1,"state":{"primary":{"epoch":"1.1","store":"A"}}}`,
		`{"format":1,"state":{"lineage":[{"epoch":"1.1","timeline":0,"start":"0/0"}]}}`,
	} {
		if s, err := facts.Decode([]byte(bad)); err == nil {
			t.Errorf("Decode(%s) = %+v", bad, s)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	l := at(f, facts.PhaseFencing)
	for _, c := range []facts.Command{
		found(), begin(l), report(l, "A", 100, l.s.Lineage), assign(l, "A"), starting(l, "A", 1, 2), opened(l, "A", 3),
		addMember(l, "n", "N", facts.KindData), propose("B", 1), drop("W"), {WithdrawVoter: &facts.WithdrawVoter{}},
		forceOrder(l, "B"), clearOrder("o"), force(l, "B"), nominate(l, "B", "W"), note(ep(1), facts.StepStopped, "main"),
		returned(ep(1), "A", &facts.Closing{LogEnd: 5, Transactions: []facts.LostTransaction{{XID: 7, Tables: []string{"t"}}}}), reform(l.s, "B", 300),
		{SetOffline: &facts.SetOffline{Offline: true}}, ledgerVote("B", true),
	} {
		c.At, c.ID = t0, "id"
		b, err := facts.EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{"", "null", "{}", `{"kind":"assign"}`, `{"assign":{}} {}`, `{"assign":{},"opened":{}}`, `{"assign":{"wings":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := facts.DecodeCommand(b)
		if err != nil {
			if !errors.Is(err, facts.ErrCommand) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := facts.EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := facts.DecodeCommand(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if d := cmp.Diff(c, back); d != "" {
			t.Fatal(d)
		}
		for _, before := range []facts.State{l.s, {}} { // the second is where a group is founded or formed anew
			s, out := facts.Apply(before, c)
			if (out.Refused == "") != (out.Code == "") {
				t.Fatalf("%+v", out)
			}
			enc, err := facts.Encode(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := facts.Decode(enc); err != nil {
				t.Fatalf("a state that Apply made is refused: %v", err)
			}
		}
	})
}
