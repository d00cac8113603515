package main

import (
	"fmt"
	"strings"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/stats"
)

// stage is a part of an outage, between two phases of a change.
type stage struct{ name, from, to string }

// detectStage is the one that begins before anything is recorded.
const detectStage = "detect"

// stages are all of them up to the opening, in order.
func stages() []stage {
	return []stage{
		{detectStage, "lost", "epoch"},
		{"fence", "epoch", "fenced"},
		{"elect", "fenced", "assigned"},
		{"catch up", "assigned", "replayed"},
		{"promote", "replayed", "promoted"},
		{"open", "promoted", "opened"},
	}
}

// clientsStage is what comes after the opening.
const clientsStage = "clients"

// lasted is how long each stage of a run took, by name. A stage is left out
// when the history does not say it; the clocks of all nodes are one.
func lasted(r changed) map[string]time.Duration {
	at := map[string]time.Time{}
	for _, p := range r.change.Phases {
		at[p.Name] = p.At // of one that was tried again the last counts
	}
	if at["lost"].IsZero() {
		at["lost"] = r.struck
	}
	out := map[string]time.Duration{}
	for _, s := range stages() {
		if from, to := at[s.from], at[s.to]; !from.IsZero() && !to.IsZero() {
			out[s.name] = max(0, to.Sub(from))
		}
	}
	if at["promoted"].IsZero() && !at["assigned"].IsZero() && !at["opened"].IsZero() {
		out["open"] = max(0, at["opened"].Sub(at["assigned"])) // one that opened again on its timeline
	}
	if opened := at["opened"]; !opened.IsZero() && !r.first.IsZero() {
		// Without the monotonic part, as the nodes read it.
		out[clientsStage] = max(0, r.first.Round(0).Sub(opened))
	}
	return out
}

func stageNames() []string {
	var out []string
	for _, s := range stages() {
		out = append(out, s.name)
	}
	return append(out, clientsStage)
}

// stagesText is a run's stages in one line.
func stagesText(r changed) string {
	took := lasted(r)
	var parts []string
	for _, n := range stageNames() {
		if d, ok := took[n]; ok {
			parts = append(parts, fmt.Sprintf("%s %.0f", n, millis(d)))
		}
	}
	return strings.Join(parts, ", ")
}

// lossReport is the section of all scenarios that were measured.
func lossReport(seed int64, intro, rows string, all []*losses) string {
	var out strings.Builder
	fmt.Fprintf(&out, "Main, backup and witness each have a network of their own; the writers reach them from another. The policy is the default one. The primary is lost in one of the ways below, at a random moment of the load, "+
		"with the ledger led from another node unless said otherwise; nobody orders anything. Then the fault is taken back, and the old primary has to come back as a healthy standby by itself, under the load, before the next run. "+
		"`-seed=%d` repeats the moments. %s %s\n\n", seed, intro, rows)
	out.WriteString(barTable(all).String())
	out.WriteString("\nHow the median outage divides, ms: from the last sign of life to the new epoch, to its fence by a majority, to the election, to the end of the replay, to the promotion, to the opening, and to the first acknowledged commit.\n\n")
	out.WriteString(stageTable(all).String())
	for _, l := range all {
		out.WriteString(l.report())
	}
	return out.String()
}

// barTable is every scenario's outage beside its bar.
func barTable(all []*losses) doc.Table {
	t := doc.Table{Head: []string{"outage, ms", "runs", "median", "bar", "", "worst", "bar", "", "slowest writer", "its worst"}}
	for _, l := range all {
		s, w := summary(l.runs, func(r changed) time.Duration { return r.outage }), summary(l.runs, func(r changed) time.Duration { return r.slowest })
		t.Rows = append(t.Rows, []string{l.fault.name, fmt.Sprint(s.N), whole(s, s.Median), bar(l.fault.median), passed(s, s.Median, l.fault.median),
			whole(s, s.Max), bar(l.fault.worst), passed(s, s.Max, l.fault.worst), whole(w, w.Median), whole(w, w.Max)})
	}
	return t
}

// stageTable is the median of every stage.
func stageTable(all []*losses) doc.Table {
	t := doc.Table{Head: append([]string{"median, ms"}, stageNames()...)}
	for _, l := range all {
		row := []string{l.fault.name}
		for _, n := range stageNames() {
			s := stats.Summarize(stageTimes(l.runs, n))
			row = append(row, whole(s, s.Median))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// stageTimes are the times of one stage in the runs that have it.
func stageTimes(runs []changed, name string) []float64 {
	var out []float64
	for _, r := range runs {
		if d, ok := lasted(r)[name]; ok {
			out = append(out, millis(d))
		}
	}
	return out
}

func summary(runs []changed, f func(changed) time.Duration) stats.Summary {
	var ms []float64
	for _, d := range pick(runs, f) {
		ms = append(ms, millis(d))
	}
	return stats.Summarize(ms)
}

// whole is a value of a summary in whole milliseconds.
func whole(s stats.Summary, v float64) string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", v)
}

func bar(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %.0f", millis(d))
}

// passed is nothing where there is no bar or nothing was measured.
func passed(s stats.Summary, v float64, limit time.Duration) string {
	if s.N == 0 || limit == 0 {
		return ""
	}
	return verdict(v <= millis(limit))
}

// report is one scenario's own part of the section.
func (l *losses) report() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n**%s**: %s\n\n", l.fault.name, l.fault.title)
	if l.unarranged > 0 {
		fmt.Fprintf(&out, "In %d of %d runs this could not be arranged: the leader was never on the primary in %d tries each.\n\n", l.unarranged, l.unarranged+len(l.runs), leaderTries)
	}
	if len(l.runs) == 0 {
		return out.String() + "Nothing was measured.\n"
	}
	sum := doc.Table{Head: []string{"ms", "runs", "median", "worst"}, Rows: [][]string{
		medianWorst("outage", pick(l.runs, func(r changed) time.Duration { return r.outage })),
		medianWorst("slowest writer", pick(l.runs, func(r changed) time.Duration { return r.slowest })),
	}}
	for _, n := range stageNames() {
		s := stats.Summarize(stageTimes(l.runs, n))
		sum.Rows = append(sum.Rows, []string{n, fmt.Sprint(s.N), whole(s, s.Median), whole(s, s.Max)})
	}
	sum.Rows = append(sum.Rows,
		medianWorst("group healthy again after the fault was taken back", pick(l.runs, func(r changed) time.Duration { return r.back })),
		medianWorst("longest time without a commit meanwhile", pick(l.runs, func(r changed) time.Duration { return r.backGap })))
	if l.fault.plain {
		out.WriteString("Each run is followed by the same change of a plain pair by hand, under the same load.\n\n")
		sum.Rows = append(sum.Rows, l.bareRows()...)
	}
	fmt.Fprintf(&out, "%s\nThe old primary came back by: %s. Kinds of change: %s.\n\n", sum, methods(l.runs), kinds(l.runs))
	t := doc.Table{Head: []string{"run", "primary", "ledger leader", "outage, ms", "slowest writer, ms", "epochs", "back by", "after, s", "stages, ms"}}
	for i, r := range l.runs {
		t.Rows = append(t.Rows, []string{fmt.Sprint(i + 1), r.from + " → " + r.to, r.leader, fmt.Sprintf("%.0f", millis(r.outage)), fmt.Sprintf("%.0f", millis(r.slowest)),
			fmt.Sprint(r.epochs), method(r.change), fmt.Sprintf("%.1f", r.back.Seconds()), stagesText(r)})
	}
	out.WriteString(t.String())
	return out.String()
}

// kinds counts the kinds of change.
func kinds(runs []changed) string {
	return tally(runs, func(r changed) string { return kindOfChange(r.change) })
}

func kindOfChange(c group.Change) string {
	if c.Kind == "" {
		return "not recorded"
	}
	return c.Kind
}
