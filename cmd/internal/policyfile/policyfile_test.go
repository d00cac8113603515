package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/policyfile"
	"understudy/configs"
	"understudy/ledger/facts"
)

// other is a policy in which everything differs from the default.
func other() facts.Policy {
	return facts.Policy{
		Version: 7, Durability: facts.Async, IsolationTimeout: 1500 * time.Millisecond, SilenceTimeout: 3 * time.Second,
		RestartGrace: time.Hour, PairAloneAfter: time.Minute, SwitchoverCatchup: 5 * time.Second,
		SwitchoverMaxLagBytes: 1 << 20, SpoolMaxBytes: 100<<20 + 1, StrictReads: true, Paused: true,
	}
}

func manual(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "configs", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse_ManualIsTheDefaultAndHasEveryKey(t *testing.T) {
	// Whatever the manual left out would stay other's.
	base := other()
	got, err := policyfile.Parse("policy.yaml", manual(t), base)
	if err != nil {
		t.Fatal(err)
	}
	want := facts.DefaultPolicy()
	if d := policyfile.Diff(got, want); len(d) > 0 {
		t.Errorf("the manual differs from the default: %v", d)
	}
	want, base = base, got
	want.Durability, want.IsolationTimeout = base.Durability, base.IsolationTimeout
	want.RestartGrace, want.SpoolMaxBytes = base.RestartGrace, base.SpoolMaxBytes
	want.PairAloneAfter, want.SwitchoverCatchup, want.SwitchoverMaxLagBytes = base.PairAloneAfter, base.SwitchoverCatchup, base.SwitchoverMaxLagBytes
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what has no key was changed: %s", d)
	}
	if n := len(policyfile.Diff(other(), facts.DefaultPolicy())); n != 7 {
		t.Errorf("%d keys; tell other and this test of the new one", n)
	}
}

func TestParse_LeftOutKeysStay(t *testing.T) {
	want := other()
	want.SpoolMaxBytes = 3 << 30
	got, err := policyfile.Parse("p", []byte("# why\nspool_max: '3GiB' # enough\n"), other())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFormat_RoundTrip(t *testing.T) {
	for _, p := range []facts.Policy{other(), facts.DefaultPolicy()} {
		text := policyfile.Format(p)
		base := p
		base.Durability, base.IsolationTimeout, base.RestartGrace, base.SpoolMaxBytes = facts.Quorum, time.Second, time.Minute, 1<<30
		base.PairAloneAfter, base.SwitchoverCatchup, base.SwitchoverMaxLagBytes = time.Hour, time.Second, 2<<20
		got, err := policyfile.Parse("p", []byte(text), base)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if d := cmp.Diff(p, got); d != "" {
			t.Errorf("%s\n%s", d, text)
		}
	}
	const want = "# policy of the group, version 7\ndurability: async\nisolation_timeout: 1.5s\npair_alone_after: 1m\nrestart_grace: 1h\nspool_max: 104857601\nswitchover_catchup: 5s\nswitchover_max_lag: 1MiB\n"
	if d := cmp.Diff(want, policyfile.Format(other())); d != "" {
		t.Error(d)
	}
}

func TestParse_Refuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "p.yaml: the file is empty",
		"# only a comment\n": "p.yaml: the file is empty",
		"null":               "p.yaml: the file is empty",
		"- durability\n":     "p.yaml:1: the file must be",
		"durability: quorum\nsilence_timeout: 1s\n":    "p.yaml:2: silence_timeout: this key is unknown; the keys are durability,",
		"Durability: quorum\n":                         "p.yaml:1: Durability: this key is unknown",
		"<<: {durability: async}\n":                    "p.yaml:1: <<: this key is unknown",
		"durability: never\n":                          `p.yaml:1: durability: "never" is neither quorum nor async`,
		"durability:\n":                                "p.yaml:1: durability: this key takes one plain value",
		"durability: [async]\n":                        "p.yaml:1: durability: this key takes one plain value",
		"durability: &a async\n":                       "p.yaml:1: durability: this key takes one plain value",
		"durability: !!str async\n":                    "p.yaml:1: durability: this key takes one plain value",
		"durability: async\n\ndurability: quorum\n":    "p.yaml:3: durability: this key stands in line 1 already",
		"restart_grace: 10\n":                          `p.yaml:1: restart_grace: "10" is no duration`,
		"isolation_timeout: 1ms\n":                     "p.yaml:1: policy key isolation_timeout is 1ms, it must be between",
		"isolation_timeout: 999999h\n":                 "p.yaml:1: policy key isolation_timeout is",
		"restart_grace: -1s\n":                         "p.yaml:1: policy key restart_grace is -1s",
		"spool_max: 8GB\n":                             `p.yaml:1: spool_max: "8GB" is no size`,
		"spool_max: 1.5GiB\n":                          `p.yaml:1: spool_max: "1.5GiB" is no size`,
		"spool_max: -8GiB\n":                           `p.yaml:1: spool_max: "-8GiB" is no size`,
		"spool_max: 9999999999TiB\n":                   `p.yaml:1: spool_max: "9999999999TiB" is no size`,
		"spool_max: 99999999999999999999\n":            `p.yaml:1: spool_max: "99999999999999999999" is no size`,
		"spool_max: 5\n":                               "p.yaml:1: policy key spool_max is 5 bytes, it must be between",
		"durability: quorum\n---\nspool_max: 8GiB\n":   "p.yaml: the file holds more than one YAML document",
		"durability: 'quorum\n":                        "p.yaml:1: the file is not valid YAML: ",
		"#" + strings.Repeat("x", policyfile.MaxBytes): "p.yaml: the file is larger than 64 KiB",
	} {
		got, err := policyfile.Parse("p.yaml", []byte(text), other())
		var e *configs.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %s", text, err, want)
		}
		if got != other() {
			t.Errorf("%.60q: a refused file changed the policy", text)
		}
	}
}

func TestDiff_NamesOldAndNew(t *testing.T) {
	p := facts.DefaultPolicy()
	p.Durability, p.RestartGrace = facts.Async, 90*time.Second
	var got []string
	for _, c := range policyfile.Diff(facts.DefaultPolicy(), p) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{"durability: quorum -> async", "restart_grace: 10s -> 1m30s"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(manual(f))
	for _, s := range []string{
		"", policyfile.Format(other()), "durability: async", "a: &a [*a]", "? x", "- - -", "{{", "\xff\xfe", "spool_max: 1TiB\n",
		"{durability: async, spool_max: 0x10}", "<<: *x", "restart_grace: |\n  1s\n", "? durability\n: async\n", "\"durability\": \"async\"\n", "1: 2", "[a]: b\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policyfile.Parse("p.yaml", data, other())
		if err != nil {
			var e *configs.Error
			if !errors.As(err, &e) || e.Text == "" || strings.Contains(err.Error(), "\n") || p != other() {
				t.Fatalf("got %#v", err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		again, err := policyfile.Parse("p.yaml", []byte(policyfile.Format(p)), other())
		if err != nil || again != p {
			t.Fatalf("%+v was written as\n%sand read as %+v, %v", p, policyfile.Format(p), again, err)
		}
	})
}
