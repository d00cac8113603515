package admin

import (
	"cmp"
	"net/http"
	"slices"

	"understudy/cmd/internal/doc"
)

// incidents answers with the standing incidents, newest first; with all=true
// also with those that ended and are not forgotten yet.
func (s *server) incidents(w http.ResponseWriter, r *http.Request) {
	all := false
	switch r.URL.Query().Get("all") {
	case "true", "1":
		all = true
	case "", "false", "0":
	default:
		writeError(w, http.StatusBadRequest, CodeBadArgument, "all must be true or false.")
		return
	}
	st, err := s.b.Status(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	out := []doc.Incident{}
	for _, i := range st.Incidents {
		out = append(out, doc.Incident{Key: i.Key, Node: i.Node, Severity: i.Severity, Text: i.Text, Since: i.Since})
	}
	if all {
		state, _ := s.b.Self()
		for _, i := range state.Incidents {
			if !i.Until.IsZero() {
				out = append(out, doc.Incident{Key: i.Key, Node: i.Node, Severity: i.Severity, Text: i.Text, Since: i.Since, Until: i.Until})
			}
		}
	}
	slices.SortFunc(out, newestFirst)
	writeJSON(w, http.StatusOK, doc.Incidents{Incidents: out})
}

// newestFirst puts what stands before what ended, and in each the newest first;
// one that is not recorded yet has just begun.
func newestFirst(a, b doc.Incident) int {
	if c := compareFlag(a.Until.IsZero(), b.Until.IsZero()); c != 0 {
		return c
	}
	if c := compareFlag(a.Since.IsZero(), b.Since.IsZero()); c != 0 {
		return c
	}
	return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Key, b.Key))
}

// compareFlag puts true first.
func compareFlag(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
