package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/shipper/pos"
)

// changes answers with the changes of the primaryship, newest last.
func (s *server) changes(w http.ResponseWriter, r *http.Request) {
	h, err := s.b.History(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	h.Changes = orEmpty(h.Changes)
	writeJSON(w, http.StatusOK, h)
}

// plans answers with the stored decisions, newest last.
func (s *server) plans(w http.ResponseWriter, r *http.Request) {
	p, err := s.b.Plans(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	p.Plans = orEmpty(p.Plans)
	writeJSON(w, http.StatusOK, p)
}

// explain answers with the decision that ?plan= names, or the newest.
func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	e, err := s.b.Explain(r.Context(), r.URL.Query().Get("plan"))
	if err != nil {
		writeReadError(w, err)
		return
	}
	e.Evidence, e.Rejected, e.Actions = orEmpty(e.Evidence), orEmpty(e.Rejected), orEmpty(e.Actions)
	writeJSON(w, http.StatusOK, e)
}

// orEmpty is the list that JSON shows as [] where there is none.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// writeReadError says why a document is not to be had: in the backend's words
// where it has a code for it, else that it cannot be read now.
func writeReadError(w http.ResponseWriter, err error) {
	var ae *ActionError
	if errors.As(err, &ae) {
		writeActionError(w, err)
		return
	}
	writeError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
}

// history answers as tools for load balancers expect, with one entry per change
// of the timeline: the timeline that ended, the LSN at which it ended as a
// number, the reason, the time and the new primary. Time and primary are null
// where nothing is recorded any more.
func (s *server) history(w http.ResponseWriter, r *http.Request) {
	h, err := s.b.History(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	recorded := map[pos.Epoch]doc.Change{}
	for _, c := range h.Changes {
		recorded[c.Epoch] = c
	}
	state, _ := s.b.Self()
	reply := [][]any{}
	for i := 1; i < len(state.Lineage); i++ {
		old, now := state.Lineage[i-1], state.Lineage[i]
		if now.Timeline == old.Timeline {
			continue
		}
		entry := []any{old.Timeline, uint64(now.Start), fmt.Sprintf("epoch %s went on with timeline %d", now.Epoch, now.Timeline), nil, nil}
		if c, ok := recorded[now.Epoch]; ok {
			fill(entry, c)
		}
		reply = append(reply, entry)
	}
	writeJSON(w, http.StatusOK, reply)
}

// fill puts what is recorded of a change into an entry of history.
func fill(entry []any, c doc.Change) {
	if c.Cause != "" {
		entry[2] = c.Cause
	}
	if p, ok := c.Phase(doc.PhaseOpened); ok && !p.At.IsZero() {
		entry[3] = p.At.UTC().Format(time.RFC3339Nano)
	}
	if c.To != "" {
		entry[4] = c.To
	}
}
