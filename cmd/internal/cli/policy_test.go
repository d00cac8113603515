package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
	"understudy/ledger/facts"
)

// ledgerBackend keeps a policy as the ledger does.
type ledgerBackend struct {
	backend
	mu     sync.Mutex
	policy facts.Policy
	// meanwhile, once, is somebody else's change between a question and a
	// proposal.
	meanwhile bool
	proposals int
}

func (b *ledgerBackend) Do(_ context.Context, action string, args map[string]string) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch action {
	case "policy":
		p := b.policy
		if b.meanwhile {
			b.policy.Version++
			b.meanwhile = false
		}
		return p, nil
	case "policy-apply":
		b.proposals++
		expect, err := strconv.ParseUint(args["expect"], 10, 64)
		if err != nil {
			return nil, &admin.ActionError{Code: admin.CodeBadArgument, Text: "expect"}
		}
		if expect != b.policy.Version {
			return nil, &admin.ActionError{Code: admin.CodeRefused, Text: fmt.Sprintf("The policy changed meanwhile: version %d.", b.policy.Version)}
		}
		b.policy = facts.Policy{}
		if err := json.Unmarshal([]byte(args["policy"]), &b.policy); err != nil {
			return nil, &admin.ActionError{Code: admin.CodeBadArgument, Text: "policy"}
		}
		b.policy.Version = expect + 1
		return b.policy, nil
	}
	return nil, &admin.ActionError{Code: admin.CodeUnknownAction, Text: action}
}

// policyDaemon serves a group with the default policy, version 4.
func policyDaemon(t *testing.T) (config string, b *ledgerBackend) {
	t.Helper()
	config, socket, _ := nodeFile(t)
	b = &ledgerBackend{policy: facts.DefaultPolicy()}
	b.policy.Version, b.policy.StrictReads = 4, true
	b.policy = b.policy.With("main", facts.NodePolicy{Priority: 10})
	serve(t, socket, admin.Handler(b, admin.Options{Writable: true}))
	return config, b
}

func policyFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPolicy_ShowIsAFileForApply(t *testing.T) {
	config, b := policyDaemon(t)
	var out buffer
	if err := run(t.Context(), &out, "policy", "show", "--config", config); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "version 4\ndurability: quorum\n") || !strings.Contains(out.String(), "strict_reads: true\n") || !strings.HasSuffix(out.String(), "\nnode.main.priority: 10\n") {
		t.Errorf("got %s", out.String())
	}
	file := policyFile(t, out.String())
	for _, verb := range []string{"diff", "apply"} {
		out = buffer{}
		if err := run(t.Context(), &out, "policy", verb, file, "--config", config); err != nil || !strings.HasPrefix(out.String(), "Nothing to change: version 4 ") {
			t.Errorf("%s: got %q, %v", verb, out.String(), err)
		}
	}
	if b.proposals != 0 {
		t.Error("the same policy was proposed")
	}
	out = buffer{}
	if err := run(t.Context(), &out, "policy", "show", "--json", "--config", config); err != nil {
		t.Fatal(err)
	}
	var got cli.PolicyReply
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := cli.PolicyReply{Version: 4, Durability: "quorum", Failover: "automatic", IsolationTimeoutNS: 2e9, RestartGraceNS: 10e9,
		SilenceTimeoutNS: 1e9, StallTimeoutNS: 5e9, StrictReads: true, Nodes: map[string]cli.NodeReply{"main": {Priority: 10, Votes: true}},
		SwitchoverCatchupNS: 2e9, SwitchoverMaxLagBytes: 16 << 20, PairAloneAfterNS: 10e9, SpoolMaxBytes: 8 << 30}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPolicy_DiffAndApply(t *testing.T) {
	config, b := policyDaemon(t)
	file := policyFile(t, "durability: async\nspool_max: 1GiB\nrestart_grace: 10s\n")
	const changes = "durability: quorum -> async\nspool_max: 8GiB -> 1GiB\n"
	var out buffer
	if err := run(t.Context(), &out, "policy", "diff", file, "--config", config); err != nil || out.String() != changes {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if b.proposals != 0 {
		t.Error("diff proposed a change")
	}
	out = buffer{}
	if err := run(t.Context(), &out, "policy", "apply", file, "--config", config); err != nil || out.String() != changes+"The policy is now version 5.\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	want := facts.DefaultPolicy().With("main", facts.NodePolicy{Priority: 10})
	want.Version, want.StrictReads, want.Durability, want.SpoolMaxBytes = 5, true, facts.Async, 1<<30
	if d := cmp.Diff(want, b.policy); d != "" {
		t.Error(d)
	}
}

func TestPolicy_NodeKeys(t *testing.T) {
	config, b := policyDaemon(t)
	for _, verb := range []string{"diff", "apply"} {
		for _, text := range []string{"node.mian.priority: 1\n", "durability: async\nnode.mian.priority: 0\n"} {
			file := policyFile(t, text)
			err := run(t.Context(), io.Discard, "policy", verb, file, "--config", config)
			if cli.Code(err) != cli.ExitRefused || fmt.Sprint(err) != file+`: the group has no node "mian"; it has main` {
				t.Errorf("%s %q: %d %v", verb, text, cli.Code(err), err)
			}
		}
	}
	if b.proposals != 0 {
		t.Error("proposed a refused file")
	}
	// One that has left can be taken back.
	b.policy = b.policy.With("gone", facts.NodePolicy{NoVote: true})
	var out buffer
	if err := run(t.Context(), &out, "policy", "apply", policyFile(t, "node.gone.votes: true\nnode.main.priority: 0\n"), "--config", config); err != nil {
		t.Fatal(err)
	}
	if want := "node.gone.votes: false -> true\nnode.main.priority: 10 -> 0\nThe policy is now version 5.\n"; out.String() != want || b.policy.Nodes != nil {
		t.Errorf("got %q, %v", out.String(), b.policy.Nodes)
	}
}

func TestPolicy_ApplyRefusedWhenChangedMeanwhile(t *testing.T) {
	config, b := policyDaemon(t)
	b.meanwhile = true
	err := run(t.Context(), io.Discard, "policy", "apply", policyFile(t, "durability: async\n"), "--config", config)
	if cli.Code(err) != cli.ExitRefused || !strings.Contains(err.Error(), "changed meanwhile") || b.policy.Durability != facts.Quorum {
		t.Errorf("got %d %v", cli.Code(err), err)
	}
}

func TestPolicy_Failures(t *testing.T) {
	config, _, _ := nodeFile(t) // nobody answers
	bad, good := policyFile(t, "durability: quorum\ndurabilty: async\n"), policyFile(t, "durability: async\n")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"policy"}, cli.ExitUsage, "show, diff FILE or apply FILE"},
		{[]string{"policy", "edit"}, cli.ExitUsage, `"edit"`},
		{[]string{"policy", "apply"}, cli.ExitUsage, "arg"},
		{[]string{"policy", "show", "x"}, cli.ExitUsage, "x"},
		{[]string{"policy", "diff", "--nope"}, cli.ExitUsage, "nope"},
		{[]string{"policy", "diff", bad + ".none", "--config", config}, cli.ExitUsage, "policy.yaml.none does not exist"},
		{[]string{"policy", "apply", bad, "--config", config}, cli.ExitUsage, bad + ":2: durabilty: this key is unknown"},
		{[]string{"policy", "apply", good, "--config", config}, cli.ExitNotRunning, "is not running"},
		{[]string{"policy", "show", "--config", config}, cli.ExitNotRunning, "is not running"},
	} {
		err := run(t.Context(), io.Discard, tt.args...)
		if cli.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%v: %d %v", tt.args, cli.Code(err), err)
		}
	}
}
