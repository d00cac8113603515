package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// restless is after how many plans in a row rules that undo each other are
// taken for what they are.
const restless = 50

// decide asks the rules, does what they say, and asks again until they come to
// rest; every decision is written down.
func (g *group) decide(out *strings.Builder) error {
	for range restless {
		plan := decide.Decide(g.observe())
		if plan.Empty() {
			g.summary(out)
			return nil
		}
		fmt.Fprintf(out, "%s: %s\n", plan.Rule, plan.Why)
		for _, a := range plan.Actions {
			fmt.Fprintf(out, "  does %s\n", g.words(a))
			if err := g.carry(a); err != nil {
				fmt.Fprintf(out, "  REFUSED %s\n", err)
				return nil
			}
		}
		for _, r := range plan.Rejected {
			fmt.Fprintf(out, "  not %s: %s\n", r.What, r.Why)
		}
	}
	return errors.New("the rules do not come to rest")
}

// carry does one action of a plan.
func (g *group) carry(a decide.Action) error {
	switch {
	case a.Command != nil:
		if err := g.do(*a.Command); err != nil {
			return err
		}
		return g.confirm()
	case a.RaftAdd != nil:
		i := slices.IndexFunc(g.raft, func(s decide.RaftServer) bool { return s.Store == a.RaftAdd.Store })
		if i < 0 {
			g.raft = append(g.raft, *a.RaftAdd)
		} else {
			g.raft[i] = *a.RaftAdd
		}
	case a.RaftRemove != "":
		g.raft = slices.DeleteFunc(g.raft, func(s decide.RaftServer) bool { return s.Store == a.RaftRemove })
	case a.Transfer != "":
		for _, n := range g.nodes {
			if n.store == a.Transfer {
				g.leader, g.moved = n, g.now
			}
		}
	}
	return nil
}

// confirm lets an open primary count by the voters that the ledger has now.
func (g *group) confirm() error {
	v, p := g.state.Voters, g.state.Primary
	if v.Confirmed == v.Version || p.Phase != facts.PhaseOpened {
		return nil
	}
	return g.do(facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: v.Version, Epoch: p.Epoch}})
}

// words are an action in a line.
func (g *group) words(a decide.Action) string {
	c := a.Command
	switch {
	case c == nil:
		return g.named(a.String())
	case c.BeginEpoch != nil:
		s := "begin-epoch, a " + string(c.BeginEpoch.Change)
		if l := c.BeginEpoch.Lost; !l.IsZero() {
			s += fmt.Sprintf(", lost %s ago", g.now.Sub(l))
		}
		return s
	case c.Assign != nil:
		return fmt.Sprintf("assign %s, force %t", g.state.NameOf(c.Assign.Store), c.Assign.Force)
	case c.Nominate != nil:
		return fmt.Sprintf("nominate %s, donor %s", g.state.NameOf(c.Nominate.Store), g.state.NameOf(c.Nominate.Donor))
	case c.SetOrder != nil:
		o := c.SetOrder.Order
		return fmt.Sprintf("set-order %s to %s within %s, scheduled %q", o.Kind, g.state.NameOf(o.To), o.Deadline.Sub(o.At), o.Scheduled)
	case c.RaiseIncident != nil:
		return fmt.Sprintf("raise-incident %s", c.RaiseIncident.Incident.Key)
	case c.ClearIncident != nil:
		return fmt.Sprintf("clear-incident %s", c.ClearIncident.Key)
	case c.SetPolicy != nil:
		return fmt.Sprintf("set-policy paused %t", c.SetPolicy.Policy.Paused)
	case c.SetLedgerVote != nil:
		return fmt.Sprintf("set-ledger-vote %s %t", g.state.NameOf(c.SetLedgerVote.Store), c.SetLedgerVote.Voter)
	case c.DropVoter != nil:
		return fmt.Sprintf("drop-voter %s", g.state.NameOf(c.DropVoter.Store))
	case c.Unschedule != nil:
		return fmt.Sprintf("unschedule %s", c.Unschedule.ID)
	}
	return g.named(a.String())
}

// named puts names in the place of store ids.
func (g *group) named(s string) string { return strings.ReplaceAll(s, "s-", "") }

// summary is what is left to see when the rules rest.
func (g *group) summary(out *strings.Builder) {
	p := g.state.Primary
	fmt.Fprintf(out, "= %s %s", p.Epoch, p.Phase)
	if p.Store != "" {
		fmt.Fprintf(out, " %s", p.Node)
	}
	if c := p.Copy; c != nil {
		fmt.Fprintf(out, ", %s copies", g.state.NameOf(c.Store))
	}
	if o := g.state.Order; o != nil {
		fmt.Fprintf(out, ", %s to %s ordered", o.Kind, g.state.NameOf(o.To))
	}
	if g.state.Scheduled != nil {
		out.WriteString(", one scheduled")
	}
	fmt.Fprintf(out, ", led by %s\n", g.leader.name)
	for _, key := range sorted(g.state.Incidents) {
		if i := g.state.Incidents[key]; i.Until.IsZero() {
			fmt.Fprintf(out, "! %s: %s\n", key, i.Text)
		}
	}
}

func sorted(m map[string]facts.Incident) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Play plays a script and returns it with the outcomes that it has now. An
// error names the line that could not be understood or done.
func Play(text string) (string, error) {
	var out strings.Builder
	g := &group{}
	skip := false
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		words := strings.Fields(strings.SplitN(line, "#", 2)[0])
		if skip { // what was decided earlier
			if strings.TrimSpace(line) != "" {
				continue
			}
			skip = false
		}
		out.WriteString(strings.TrimRight(line, " ") + "\n")
		if len(words) == 0 {
			continue
		}
		err := g.line(words)
		if err == nil && words[0] == "decide" {
			skip, err = true, g.decide(&out)
		}
		if err != nil {
			return "", fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
	}
	return out.String(), nil
}

// options splits words of the form key=value from the others. A key without a
// value is "true".
func options(words []string, keys ...string) (plain []string, opt map[string]string) {
	opt = map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		switch {
		case ok && slices.Contains(keys, k):
			opt[k] = strings.ReplaceAll(v, "_", " ")
		case slices.Contains(keys, w):
			opt[w] = "true"
		default:
			plain = append(plain, w)
		}
	}
	return plain, opt
}

func duration(s string, err *error) time.Duration {
	if s == "" {
		return 0
	}
	d, e := time.ParseDuration(s)
	if e != nil && *err == nil {
		*err = e
	}
	return d
}
