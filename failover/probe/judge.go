package probe

import (
	"cmp"
	"slices"
	"time"
)

// Seen is a finding together with the unbroken row of rounds that had it.
type Seen struct {
	Finding
	Since  time.Duration // when the row began
	Rounds int
}

// Note adds one round of one source to what was seen before: what the round
// does not have any more is forgotten, what it has again becomes a longer row.
func Note(before []Seen, round []Finding, now time.Duration) []Seen {
	var out []Seen
	same := func(f Finding) func(Seen) bool {
		return func(s Seen) bool { return s.Kind == f.Kind && s.Where == f.Where }
	}
	for _, f := range round {
		if slices.ContainsFunc(out, same(f)) {
			continue
		}
		s := Seen{Finding: f, Since: now, Rounds: 1}
		if i := slices.IndexFunc(before, same(f)); i >= 0 {
			s.Since, s.Rounds = before[i].Since, before[i].Rounds+1
		}
		out = append(out, s)
	}
	return out
}

// Observations are all that Judge looks at.
type Observations struct {
	Rounds  []Seen    // from finished rounds, of all sources
	Lasting []Finding // what goes on at this moment, with For
}

// matter is one finding as Judge weighs it.
type matter struct {
	Finding
	lasted  time.Duration
	failing bool
	told    bool
}

// Judge decides whether a node fails. now is on the clock of the observations,
// which counts only the time in which the observer itself ran.
func Judge(o Observations, now time.Duration, lim Limits) Health {
	all := make([]matter, 0, len(o.Rounds)+len(o.Lasting))
	for _, s := range o.Rounds {
		all = append(all, matter{s.Finding, now - s.Since, fatal(s.Kind) && s.Rounds >= lim.Rounds, true})
	}
	for _, f := range o.Lasting {
		limit := lim.Stall
		if f.Kind == ServerFrozen {
			limit = lim.Frozen
		}
		fails := f.For >= limit
		all = append(all, matter{f, f.For, fails, fails || f.For >= lim.Tell})
	}
	slices.SortFunc(all, func(a, b matter) int {
		return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), cmp.Compare(b.lasted, a.lasted), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Text, b.Text))
	})
	h := Health{}
	for _, m := range all {
		switch {
		case m.failing && h.Failing == "":
			h.Failing, h.Kind, h.For = m.Text, m.Kind, m.lasted
		case m.told && m.Text != h.Failing:
			h.warn(m.Kind, m.Text)
		}
	}
	return h
}

func (h *Health) warn(k Kind, text string) {
	if h.Warnings == nil {
		h.Warnings = make(map[Kind]string)
	}
	if old := h.Warnings[k]; old != "" && old != text {
		text = old + "; " + text
	}
	h.Warnings[k] = text
}

// ranks has what fails a node, the likelier cause first.
func ranks() []Kind {
	return []Kind{DiskHung, DiskReadOnly, DiskError, DiskFull, ServerFrozen, ServerHung, ServerError}
}

func rank(k Kind) int {
	if i := slices.Index(ranks(), k); i >= 0 {
		return i
	}
	return len(ranks())
}

func fatal(k Kind) bool { return rank(k) < len(ranks()) }
