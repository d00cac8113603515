package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/policyfile"
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
)

// PolicyReply is the document of policy show --json: the keys of the policy
// file, with numbers in the units that their names end in, and the pause.
type PolicyReply struct {
	Version               uint64               `json:"version"`
	Durability            string               `json:"durability"`
	Failover              string               `json:"failover"`
	IsolationTimeoutNS    int64                `json:"isolation_timeout_ns"`
	RestartGraceNS        int64                `json:"restart_grace_ns"`
	SilenceTimeoutNS      int64                `json:"silence_timeout_ns"`
	StallTimeoutNS        int64                `json:"stall_timeout_ns"`
	StrictReads           bool                 `json:"strict_reads"`
	SwitchoverCatchupNS   int64                `json:"switchover_catchup_ns"`
	SwitchoverMaxLagBytes int64                `json:"switchover_max_lag_bytes"`
	PairAloneAfterNS      int64                `json:"pair_alone_after_ns"`
	SpoolMaxBytes         int64                `json:"spool_max_bytes"`
	Paused                bool                 `json:"paused"`
	PausedUntil           time.Time            `json:"paused_until,omitzero"`
	Nodes                 map[string]NodeReply `json:"nodes"` // those that differ from any other
}

// NodeReply is what a policy says of one node.
type NodeReply struct {
	ApplyDelayNS int64 `json:"apply_delay_ns"`
	NoFailover   bool  `json:"no_failover"`
	Priority     int   `json:"priority"`
	Votes        bool  `json:"votes"`
}

func policyReply(p facts.Policy) PolicyReply {
	now := time.Now()
	r := PolicyReply{
		Version: p.Version, Durability: string(p.Durability), Failover: string(p.Failover), IsolationTimeoutNS: p.IsolationTimeout.Nanoseconds(),
		RestartGraceNS: p.RestartGrace.Nanoseconds(), SilenceTimeoutNS: p.SilenceTimeout.Nanoseconds(), StallTimeoutNS: p.StallTimeout.Nanoseconds(),
		StrictReads: p.StrictReads, SwitchoverCatchupNS: p.SwitchoverCatchup.Nanoseconds(), SwitchoverMaxLagBytes: p.SwitchoverMaxLagBytes,
		PairAloneAfterNS: p.PairAloneAfter.Nanoseconds(), SpoolMaxBytes: p.SpoolMaxBytes, Paused: p.PauseStands(now), Nodes: map[string]NodeReply{},
	}
	// A policy of an older ledger says nothing of these.
	if r.Failover == "" {
		r.Failover = doc.ModeAutomatic
	}
	if r.StallTimeoutNS == 0 {
		r.StallTimeoutNS = facts.DefaultPolicy().StallTimeout.Nanoseconds()
	}
	if r.Paused {
		r.PausedUntil = p.PausedUntil
	}
	for name, n := range p.Nodes {
		r.Nodes[name] = NodeReply{ApplyDelayNS: n.ApplyDelay.Nanoseconds(), NoFailover: n.NoFailover, Priority: n.Priority, Votes: !n.NoVote}
	}
	return r
}

func policyCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Show or change what is decided for the whole group",
		Long: "Show or change what is decided for the whole group: when commits return, and how long to wait for whom.\n" +
			"The policy is kept in the ledger; any node can be asked. configs/policy.yaml explains its keys.",
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		text := "policy: say which: show, diff FILE or apply FILE"
		if len(args) > 0 {
			text = fmt.Sprintf("policy: there is no %q, only show, diff FILE and apply FILE", args[0])
		}
		return &ExitError{Code: ExitUsage, Err: errors.New(text)}
	}
	for _, sub := range []*cobra.Command{policyShow(opts), policyDiff(opts), policyApply(opts)} {
		Prepare(sub)
		c.AddCommand(sub)
	}
	return c
}

func policyShow(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "show", Short: "Print the policy in force, as a file for apply", Args: cobra.NoArgs,
		Long: "Print the policy in force, as a file for apply. Of the nodes it has what is not the default.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := NewClient(*config)
		if err != nil {
			return err
		}
		defer client.Close()
		p, err := client.policy(commandContext(c))
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(opts.Out, policyReply(p))
		}
		_, err = io.WriteString(opts.Out, policyfile.Format(p))
		return err
	}
	return c
}

func policyDiff(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "diff FILE", Short: "Print what applying a policy file would change", Args: cobra.ExactArgs(1),
		Long: "Print what applying a policy file would change, one key a line. The exit code is 0 whether it would or not.",
	}
	config := ConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := NewClient(*config)
		if err != nil {
			return err
		}
		defer client.Close()
		now, wanted, err := client.comparePolicy(commandContext(c), args[0])
		if err != nil {
			return err
		}
		return printChanges(opts.Out, now, wanted)
	}
	return c
}

func policyApply(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "apply FILE", Short: "Make a policy file the group's policy", Args: cobra.ExactArgs(1),
		Long: "Make a policy file the group's policy, and print what that changed. A key that the file leaves out keeps its value;\n" +
			"writing the default takes a change back. Keys of a node that the group does not have are refused.\n" +
			"It is refused when the policy was changed by somebody else at the same time.",
	}
	config := ConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := NewClient(*config)
		if err != nil {
			return err
		}
		defer client.Close()
		ctx := commandContext(c)
		now, wanted, err := client.comparePolicy(ctx, args[0])
		if err != nil {
			return err
		}
		if len(policyfile.Diff(now, wanted)) == 0 {
			return printChanges(opts.Out, now, wanted)
		}
		body, err := json.Marshal(wanted)
		if err != nil {
			return fmt.Errorf("encode the policy: %w", err)
		}
		var applied facts.Policy
		err = client.Do(ctx, "policy-apply", map[string]string{"expect": strconv.FormatUint(now.Version, 10), "policy": string(body)}, &applied)
		if err != nil {
			return err
		}
		if err := printChanges(opts.Out, now, applied); err != nil {
			return err
		}
		_, err = fmt.Fprintf(opts.Out, "The policy is now version %d.\n", applied.Version)
		return err
	}
	return c
}

// policy is the one in force.
func (c *Client) policy(ctx context.Context) (p facts.Policy, err error) {
	err = c.Do(ctx, "policy", nil, &p)
	return p, err
}

// comparePolicy returns the policy in force and what the file makes of it.
func (c *Client) comparePolicy(ctx context.Context, file string) (now, wanted facts.Policy, err error) {
	data, err := readPolicy(file)
	if err != nil {
		return now, wanted, &ExitError{Code: ExitUsage, Err: err}
	}
	// A mistake in the file is told whether the daemon answers or not.
	if err := policyfile.Check(file, data); err != nil {
		return now, wanted, &ExitError{Code: ExitUsage, Err: err}
	}
	if now, err = c.policy(ctx); err != nil {
		return now, wanted, err
	}
	if wanted, err = policyfile.Parse(file, data, now); err != nil {
		return now, wanted, &ExitError{Code: ExitUsage, Err: err}
	}
	return now, wanted, c.checkNodes(ctx, file, policyfile.Nodes(data), now)
}

// checkNodes refuses a file with keys of nodes that the group does not have, be
// it with their defaults: they would do nothing, and look as if they did. What
// is in force of a node that has left can be taken back.
func (c *Client) checkNodes(ctx context.Context, file string, named []string, now facts.Policy) error {
	if len(named) == 0 {
		return nil
	}
	var st view.Status
	if err := c.Get(ctx, "/api/v1/status", &st); err != nil {
		return err
	}
	var have []string
	for _, n := range st.Nodes {
		have = append(have, n.Name)
	}
	for _, name := range named {
		if !slices.Contains(have, name) && now.Of(name).IsZero() {
			return &ExitError{Code: ExitRefused, Err: fmt.Errorf("%s: the group has no node %q; it has %s", file, name, printable(strings.Join(have, ", ")))}
		}
	}
	return nil
}

// readPolicy reads at most one byte more than a policy file may have.
func readPolicy(file string) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the policy file %s does not exist", file)
	}
	if err != nil {
		return nil, fmt.Errorf("read policy file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, policyfile.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read policy file: %w", err)
	}
	return data, nil
}

func printChanges(w io.Writer, now, wanted facts.Policy) error {
	changes := policyfile.Diff(now, wanted)
	if len(changes) == 0 {
		_, err := fmt.Fprintf(w, "Nothing to change: version %d of the policy says the same.\n", now.Version)
		return err
	}
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintln(&b, printable(c.String()))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
