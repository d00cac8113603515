package cli

import (
	"fmt"
	"strings"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
)

// What the daemon's documents look like on a terminal. Nothing here reads a
// clock or writes: documents in, text out. Every text of others goes through
// printable.

const (
	timeLayout = "2006-01-02 15:04:05.000"
	// maxLostShown is how many lost transactions history lists.
	maxLostShown = 10
)

// stepsText is what an order does, one sentence a line; "" for none.
func stepsText(r doc.OrderReply) string {
	lines := make([]string, 0, len(r.Steps))
	for _, s := range r.Steps {
		lines = append(lines, printable(s))
	}
	return strings.Join(lines, "\n")
}

// phaseWords say what a phase is where its node says nothing more.
func phaseWords(name string) string {
	return map[string]string{
		doc.PhaseLost: "the last sign of life", doc.PhaseOrdered: "the order is recorded", doc.PhaseFrozen: "clients are shut out", doc.PhaseStopped: "PostgreSQL has ended",
		doc.PhaseEpoch: "a new epoch has begun", doc.PhaseFenced: "a majority refuses the old epoch", doc.PhaseCopied: "the log is complete",
		doc.PhaseAssigned: "elected", doc.PhaseReplayed: "the whole log is applied", doc.PhasePromoting: "promotion begins",
		doc.PhasePromoted: "promotion is done", doc.PhaseOpened: "clients are let in", doc.PhaseReturned: "the old primary is a standby",
	}[name]
}

// phaseLine is one line of progress: time after the start, phase, node, words.
func phaseLine(p doc.Phase) string {
	text := p.Text
	if text == "" {
		text = phaseWords(p.Name)
	}
	after := time.Duration(p.AfterNS).Seconds()
	return strings.TrimRight(fmt.Sprintf("%8.3f s  %-9s  %-10s  %s", after, printable(p.Name), printable(dash(p.Node)), printable(text)), " ")
}

// doneText is the last sentence of a change that succeeded.
func doneText(c doc.Change) string {
	text := fmt.Sprintf("%s is primary in epoch %s", printable(c.To), c.Epoch)
	if d, ok := c.Outage(); ok {
		text += " after " + seconds(d) + " without a writer"
	} else if d, ok := c.Took(); ok {
		text += " after " + seconds(d)
	}
	switch {
	case c.Lossless():
		return text + "; nothing acknowledged was lost."
	case c.Proof == nil || c.Proof.Sentence == "":
		return text + ". What was lost is not recorded."
	}
	return text + ". " + printable(c.Proof.Sentence)
}

// otherText is the last sentence of a change after which another node than the
// wanted one is primary.
func otherText(action, wanted string, changes []doc.Change) string {
	c := changes[len(changes)-1]
	text := fmt.Sprintf("the %s did not succeed: %s is primary in epoch %s", action, printable(c.To), c.Epoch)
	if wanted != "" {
		text = fmt.Sprintf("the %s to %s did not succeed: %s is primary in epoch %s", action, printable(wanted), printable(c.To), c.Epoch)
	}
	for _, failed := range changes {
		if failed.Failed != "" {
			text += ". " + strings.TrimSuffix(printable(failed.Failed), ".")
		}
	}
	if p := c.Proof; p != nil && !c.Lossless() && p.Sentence != "" {
		text += ". " + strings.TrimSuffix(printable(p.Sentence), ".")
	}
	return text
}

// historyText is one paragraph a change, newest last; with tail it lists what
// only an old primary had.
func historyText(h doc.History, tail bool) string {
	if len(h.Changes) == 0 {
		return "No change of primary is recorded.\n"
	}
	parts := make([]string, 0, len(h.Changes))
	for _, c := range h.Changes {
		parts = append(parts, changeText(c, tail))
	}
	return strings.Join(parts, "\n")
}

func changeText(c doc.Change, tail bool) string {
	var t labelled
	at := "-"
	if len(c.Phases) > 0 {
		at = localTime(c.Phases[0].At)
	}
	who := printable(c.To)
	if c.From != "" && c.From != c.To {
		who = printable(c.From) + " -> " + printable(dash(c.To))
	}
	fmt.Fprintf(&t.b, "%s  %s  %s  %s\n", c.Epoch, at, printable(c.Kind), dash(who))
	cause := printable(c.Cause)
	if c.Plan != "" {
		cause += " (understudy explain " + printable(c.Plan) + ")"
	}
	t.line("cause", cause)
	t.line("confirmed", printable(c.Statement))
	t.line("phases", phasesText(c))
	t.line("took", durationsText(c.Durations))
	switch d, ok := c.Outage(); {
	case c.Failed != "":
		t.line("failed", printable(c.Failed))
	case !c.Opened:
		t.line("state", "not open yet")
	case ok:
		t.line("no writer", seconds(d))
	}
	t.proof(c.Proof)
	t.returned(c)
	if tail && c.Return != nil {
		t.tail(c.Return)
	}
	return t.b.String()
}

// durationsText is how long each part took, a part of another in brackets.
func durationsText(list []doc.Duration) string {
	var parts []string
	for _, d := range list {
		text := printable(d.Part) + " " + millisText(d)
		if last := len(parts) - 1; d.In != "" && last >= 0 {
			parts[last] += " (" + text + ")"
			continue
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func millisText(d doc.Duration) string {
	text := fmt.Sprintf("%.0f ms", d.Milliseconds)
	switch took := time.Duration(d.Milliseconds * float64(time.Millisecond)); {
	case took >= 10*time.Second:
		text = seconds(took)
	case d.Milliseconds < 10 && d.Milliseconds > 0:
		text = fmt.Sprintf("%.1f ms", d.Milliseconds)
	}
	if d.Approximate {
		text = "~" + text
	}
	return text
}

// phasesText names each phase with the time since the one before. The return
// of the old primary is no part of the way to the opening.
func phasesText(c doc.Change) string {
	var parts []string
	var last int64
	for _, p := range c.Phases {
		if p.Name == doc.PhaseReturned {
			continue
		}
		text := printable(p.Name)
		if len(parts) > 0 {
			text += fmt.Sprintf(" %+.0f ms", float64(p.AfterNS-last)/1e6)
		}
		parts, last = append(parts, text), p.AfterNS
	}
	text := strings.Join(parts, ", ")
	if d, ok := c.Took(); ok && len(parts) > 1 {
		text += "; " + seconds(d) + " in all"
	}
	return text
}

// labelled collects lines with a label each.
type labelled struct{ b strings.Builder }

// line adds a line, or nothing for no text.
func (t *labelled) line(label, text string) {
	if text != "" {
		fmt.Fprintf(&t.b, "  %-10s %s\n", label, text)
	}
}

func (t *labelled) proof(p *doc.Proof) {
	if p == nil {
		return
	}
	t.line("loss", printable(p.Sentence))
	if len(p.Missing) > 0 {
		t.line("", "Not heard: "+printable(strings.Join(p.Missing, ", "))+".")
	}
	t.line("", printable(p.Closed))
	for i, x := range p.Transactions {
		if i == maxLostShown {
			t.line("", fmt.Sprintf("and %d more; --json lists them", len(p.Transactions)-i))
			break
		}
		t.line("", "lost: "+transactionText(x))
	}
	t.line("unlogged", printable(p.Unlogged))
}

func transactionText(x doc.LostTransaction) string {
	text := fmt.Sprintf("transaction %d of %s, up to %s", x.XID, localTime(x.Time), x.End)
	if len(x.Tables) > 0 {
		text += ", in " + printable(strings.Join(x.Tables, ", "))
	}
	return text
}

// tail lists what only the old primary had.
func (t *labelled) tail(r *doc.Return) {
	for _, x := range r.Transactions {
		t.line("", transactionText(x))
	}
	if more := r.TailTransactions - len(r.Transactions); more > 0 {
		t.line("", fmt.Sprintf("and %d more; the report in %s on %s lists them", more, printable(r.Tail), printable(r.Node)))
	}
}

// returned says how the old primary came back.
func (t *labelled) returned(c doc.Change) {
	r := c.Return
	switch {
	case r == nil && c.Opened && c.From != "" && c.From != c.To:
		t.line("return", printable(c.From)+" is not back yet")
		return
	case r == nil:
		return
	case r.At.IsZero():
		t.line("return", printable(r.Node)+" is not back yet")
	default:
		text := fmt.Sprintf("%s at %s, %s", printable(r.Node), localTime(r.At), methodText(r))
		if r.Why != "" {
			text += ": " + printable(r.Why)
		}
		t.line("return", text)
	}
	t.line("", printable(r.Problem))
	if r.Tail != "" {
		t.line("kept", fmt.Sprintf("%s: %s that only %s had", printable(r.Tail), counted(r.TailTransactions, "commit"), printable(r.Node)))
	}
}

func methodText(r *doc.Return) string {
	var text string
	switch r.Method {
	case doc.MethodFollow:
		return "nothing had to be copied"
	case doc.MethodRewind:
		text = "rewound"
	case doc.MethodDelta:
		text = "the blocks that differed were copied"
	case doc.MethodFull:
		text = "everything was copied"
	default:
		text = printable(dash(r.Method))
	}
	if r.Bytes > 0 {
		text += " (" + view.Size(r.Bytes) + ")"
	}
	return text
}

// explanationText is a decision: what, why, from what, instead of what.
func explanationText(e doc.Explanation) string {
	var t labelled
	fmt.Fprintf(&t.b, "%s  %s  decided by %s\n", printable(dash(e.ID)), localTime(e.At), printable(dash(e.Node)))
	rule := printable(e.Rule)
	if e.RuleMeaning != "" {
		rule += ": " + printable(e.RuleMeaning)
	}
	t.line("rule", rule)
	t.line("why", printable(e.Why))
	label := "evidence"
	for _, v := range e.Evidence {
		t.line(label, printable(evidenceText(v)))
		label = ""
	}
	label = "rejected"
	for _, r := range e.Rejected {
		t.line(label, printable(r.What+": "+r.Why))
		label = ""
	}
	label = "done"
	for _, a := range e.Actions {
		t.line(label, actionText(a))
		label = ""
	}
	if len(e.Actions) == 0 {
		t.line(label, "nothing")
	}
	return t.b.String()
}

// evidenceText is who knew, how, how old that was, and what.
func evidenceText(v doc.Evidence) string {
	var source []string
	for _, s := range []string{v.Node, v.Kind} {
		if s != "" {
			source = append(source, s)
		}
	}
	if v.AgeNS > 0 {
		source = append(source, seconds(time.Duration(v.AgeNS))+" old")
	}
	if len(source) == 0 {
		return v.Text
	}
	return strings.Join(source, ", ") + ": " + v.Text
}

// plansText is one line a decision.
func plansText(p doc.Plans) string {
	if len(p.Plans) == 0 {
		return "No decision is stored.\n"
	}
	var b strings.Builder
	for _, l := range p.Plans {
		fmt.Fprintf(&b, "%-12s  %s  %-20s  %s\n", printable(l.ID), localTime(l.At), printable(l.Rule), printable(l.Why))
	}
	return b.String()
}

func localTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(timeLayout)
}

// seconds is a duration for people: exact where it is short.
func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
