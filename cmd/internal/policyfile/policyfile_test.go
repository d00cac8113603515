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
		SwitchoverMaxLagBytes: 1 << 20, SpoolMaxBytes: 100<<20 + 1, StallTimeout: time.Minute, StrictReads: true,
		Failover: facts.FailoverObserve, Paused: true, PausedUntil: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Nodes: map[string]facts.NodePolicy{"main": {Priority: 10}, "far": {NoFailover: true, NoVote: true, ApplyDelay: 90 * time.Minute}},
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
	for _, c := range policyfile.Diff(got, want) {
		if !strings.HasPrefix(c.Key, "node.") {
			t.Errorf("the manual differs from the default: %s", c)
		}
	}
	// What has no key in the file stayed as it was: the version, the pause, and
	// what the nodes have of their own.
	want.Version, want.Paused, want.PausedUntil, want.Nodes = base.Version, base.Paused, base.PausedUntil, base.Nodes
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what has no key was changed, or the other way around: %s", d)
	}
	if n := len(policyfile.Diff(other(), facts.DefaultPolicy())); n != 15 {
		t.Errorf("%d keys; tell other and this test of the new one", n)
	}
	for _, k := range []string{"apply_delay", "no_failover", "priority", "votes"} {
		if !strings.Contains(string(manual(t)), "# node.backup."+k+": ") {
			t.Errorf("the manual does not tell of node.NAME.%s", k)
		}
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
		base := facts.DefaultPolicy()
		base.Durability, base.IsolationTimeout, base.RestartGrace, base.SpoolMaxBytes = facts.Quorum, time.Second, time.Minute, 1<<30
		base.PairAloneAfter, base.SwitchoverCatchup, base.SwitchoverMaxLagBytes = time.Hour, time.Second, 2<<20
		base.Version, base.Paused, base.PausedUntil = p.Version, p.Paused, p.PausedUntil // have no keys
		got, err := policyfile.Parse("p", []byte(text), base)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if d := cmp.Diff(p, got); d != "" {
			t.Errorf("%s\n%s", d, text)
		}
	}
	const want = "# policy of the group, version 7\ndurability: async\nfailover: observe\nisolation_timeout: 1.5s\npair_alone_after: 1m\nrestart_grace: 1h\nsilence_timeout: 3s\n" +
		"spool_max: 104857601\nstall_timeout: 1m\nstrict_reads: true\nswitchover_catchup: 5s\nswitchover_max_lag: 1MiB\n" +
		"node.far.apply_delay: 1h30m\nnode.far.no_failover: true\nnode.far.votes: false\nnode.main.priority: 10\n"
	if d := cmp.Diff(want, policyfile.Format(other())); d != "" {
		t.Error(d)
	}
}

func TestParse_Refuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "p.yaml: the file is empty",
		"# only a comment\n":                "p.yaml: the file is empty",
		"null":                              "p.yaml: the file is empty",
		"- durability\n":                    "p.yaml:1: the file must be",
		"durability: quorum\nsilence: 1s\n": "p.yaml:2: silence: this key is unknown; the keys are durability,",
		"Durability: quorum\n":              "p.yaml:1: Durability: this key is unknown",
		"<<: {durability: async}\n":         "p.yaml:1: <<: this key is unknown",
		"durability: never\n":               `p.yaml:1: durability: "never" is neither quorum nor async`,
		"durability:\n":                     "p.yaml:1: durability: this key takes one plain value",
		"durability: [async]\n":             "p.yaml:1: durability: this key takes one plain value",
		"durability: &a async\n":            "p.yaml:1: durability: this key takes one plain value",
		"durability: !!str async\n":         "p.yaml:1: durability: this key takes one plain value",
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
		"failover: maybe\n":                            `p.yaml:1: failover: "maybe" is none of automatic, observe and manual`,
		"silence_timeout: 1ms\n":                       "p.yaml:1: policy key silence_timeout is 1ms",
		"stall_timeout: 1h\n":                          "p.yaml:1: policy key stall_timeout is",
		"strict_reads: yes\n":                          `p.yaml:1: strict_reads: "yes" is neither true nor false`,
		"strict_reads: True\n":                         `p.yaml:1: strict_reads: "True" is neither true nor false`,
		"paused: true\n":                               "p.yaml:1: paused: this key is unknown",
		"node.main.priority: high\n":                   `p.yaml:1: node.main.priority: "high" is no whole number`,
		"node.main.priority: 5000\n":                   "p.yaml:1: policy key node.main.priority is 5000",
		"node.main.votes: 1\n":                         `p.yaml:1: node.main.votes: "1" is neither true nor false`,
		"node.main.apply_delay: -1h\n":                 "p.yaml:1: policy key node.main.apply_delay is -1h",
		"node.main.colour: red\n":                      "p.yaml:1: node.main.colour: this key is unknown",
		"node.main: 1\n":                               "p.yaml:1: node.main: this key is unknown",
		"node..priority: 1\n":                          "p.yaml:1: node..priority: this key is unknown",
		"node.a.b.priority: 1\n":                       "p.yaml:1: node.a.b.priority: this key is unknown",
		"node.Main.priority: 1\n":                      "p.yaml:1: node.Main.priority: this key is unknown",
		"node.a.votes: true\nnode.a.votes: false\n":    "p.yaml:2: node.a.votes: this key stands in line 1 already",
		"node: {main: {priority: 1}}\n":                "p.yaml:1: node: this key is unknown",
		"durability: quorum\n---\nspool_max: 8GiB\n":   "p.yaml: the file holds more than one YAML document",
		"durability: 'quorum\n":                        "p.yaml:1: the file is not valid YAML: ",
		"#" + strings.Repeat("x", policyfile.MaxBytes): "p.yaml: the file is larger than 64 KiB",
	} {
		got, err := policyfile.Parse("p.yaml", []byte(text), other())
		var e *configs.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %s", text, err, want)
		}
		if !cmp.Equal(got, other()) {
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

func TestParse_NodeKeys(t *testing.T) {
	base := other()
	got, err := policyfile.Parse("p", []byte("node.main.priority: 0\nnode.far.votes: true\n'node.backup.no_failover': 'true'\n"), base)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]facts.NodePolicy{"far": {NoFailover: true, ApplyDelay: 90 * time.Minute}, "backup": {NoFailover: true}}
	if d := cmp.Diff(want, got.Nodes); d != "" {
		t.Errorf("the default did not reset, or something else changed: %s", d)
	}
	if !cmp.Equal(base, other()) {
		t.Error("the base was changed")
	}
	var diff []string
	for _, c := range policyfile.Diff(base, got) {
		diff = append(diff, c.String())
	}
	if d := cmp.Diff([]string{"node.backup.no_failover: false -> true", "node.far.votes: false -> true", "node.main.priority: 10 -> 0"}, diff); d != "" {
		t.Error(d)
	}
}

// A ledger that is older than a key has no value for it, which means the
// default.
func TestFormat_OlderLedger(t *testing.T) {
	p := facts.DefaultPolicy()
	p.Failover, p.StallTimeout = "", 0
	if d := policyfile.Diff(p, facts.DefaultPolicy()); len(d) != 0 {
		t.Error(d)
	}
	if text := policyfile.Format(p); !strings.Contains(text, "failover: automatic\n") || !strings.Contains(text, "stall_timeout: 5s\n") {
		t.Error(text)
	}
}

func TestNodes(t *testing.T) {
	for text, want := range map[string][]string{
		"durability: async\n": nil, "": nil, "{{": nil, "node.x: 1\n": nil,
		"node.b.votes: true\nspool_max: 1\nnode.a.priority: 1\nnode.b.priority: 2\n": {"b", "a"},
	} {
		if d := cmp.Diff(want, policyfile.Nodes([]byte(text))); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(manual(f))
	for _, s := range []string{
		"", policyfile.Format(other()), "durability: async", "a: &a [*a]", "? x", "- - -", "{{", "\xff\xfe", "spool_max: 1TiB\n",
		"{durability: async, spool_max: 0x10}", "<<: *x", "restart_grace: |\n  1s\n", "? durability\n: async\n", "\"durability\": \"async\"\n", "1: 2", "[a]: b\n",
		"node.main.priority: -3\nnode.far.votes: false\n", "node.x.apply_delay: 1h\nstrict_reads: true\nfailover: manual\n", "node.a: {votes: true}\n", "node.0_-.no_failover: true\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policyfile.Parse("p.yaml", data, other())
		if err != nil {
			var e *configs.Error
			if !errors.As(err, &e) || e.Text == "" || strings.Contains(err.Error(), "\n") || !cmp.Equal(p, other()) {
				t.Fatalf("got %#v", err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		base := p
		base.Nodes = nil // Format leaves out what is the default
		again, err := policyfile.Parse("p.yaml", []byte(policyfile.Format(p)), base)
		if err != nil || !cmp.Equal(again, p) {
			t.Fatalf("%+v was written as\n%sand read as %+v, %v", p, policyfile.Format(p), again, err)
		}
	})
}
