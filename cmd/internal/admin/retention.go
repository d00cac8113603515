package admin

import (
	"fmt"
	"net/http"

	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
)

// RetentionDoc is a plan as the surface shows it; of one location only unless
// location is "".
func RetentionDoc(p retention.Plan, location string) doc.RetentionPlan {
	out := doc.RetentionPlan{At: p.At, Frozen: p.Frozen, Gold: orEmpty(p.Gold), Places: []doc.RetentionPlace{}}
	for _, place := range p.Places {
		if location != "" && place.Location != location {
			continue
		}
		d := doc.RetentionPlace{Location: place.Location, Frozen: place.Frozen, Keep: []doc.Kept{}, Remove: []doc.Removed{}}
		for _, k := range place.Keep {
			d.Keep = append(d.Keep, doc.Kept{Label: k.Label, Why: k.Why})
		}
		for _, s := range place.Steps {
			r := doc.Removed{Label: s.Label, Bytes: s.Bytes, Why: s.Why}
			if s.Kind == retention.StepWAL {
				r.Timeline, r.From, r.To, r.Bytes = s.Timeline, s.WAL.From, s.WAL.To, bytesOf(s.WAL.From, s.WAL.To)
			}
			d.Remove = append(d.Remove, r)
		}
		out.Places = append(out.Places, d)
	}
	return out
}

// retention answers with what would be deleted now. Nothing is.
func (s *server) retention(w http.ResponseWriter, r *http.Request) {
	st, _ := s.b.Self()
	name := r.URL.Query().Get("location")
	if _, ok := st.Policy.Locations[name]; name != "" && !ok {
		writeActionError(w, noLocation(st, name))
		return
	}
	writeJSON(w, http.StatusOK, RetentionDoc(s.b.Retention(), name))
}

// retentionWords are the rules of a location, one each.
func retentionWords(r facts.Retention) []string {
	out := []string{}
	add := func(n int, one, many string) {
		switch {
		case n == 1:
			out = append(out, one)
		case n > 1:
			out = append(out, fmt.Sprintf(many, n))
		}
	}
	add(r.Keep, "the newest set", "the newest %d sets")
	add(r.Days, "every moment of the last day", "every moment of the last %d days")
	add(r.Cycles, "the newest cycle of a set and its log", "the newest %d cycles of a set and its log")
	add(r.Daily, "the last set of a day", "the last set of each of %d days")
	add(r.Weekly, "the last set of a week", "the last set of each of %d weeks")
	add(r.Monthly, "the last set of a month", "the last set of each of %d months")
	add(r.Yearly, "the last set of a year", "the last set of each of %d years")
	if len(out) == 0 {
		out = append(out, "everything")
	}
	if r.GoldEvery > 0 {
		out = append(out, fmt.Sprintf("a set for ever, every %.4g days", r.GoldEvery.Hours()/24))
	}
	add(r.FailedDays, "failed sets for a day", "failed sets for %d days")
	return out
}
