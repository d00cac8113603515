// Package admin is the HTTP surface of one daemon: status, events, feed, health
// for load balancers, metrics, and on the unix socket the commands.
package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// Backend is what the surface needs of the daemon. All methods may be called by
// many goroutines at once.
type Backend interface {
	// Status is what this node knows of the group. It does not wait for others.
	Status(ctx context.Context) (view.Status, error)
	// Self is the ledger's state as this node has it, and the node's own newest
	// report.
	Self() (facts.State, decide.Report)
	// Events is the daemon's event log.
	Events() *eventlog.Log
	// History is what the group remembers of changes of the primaryship. It does
	// not wait for others.
	History(ctx context.Context) (doc.History, error)
	// Plans are the stored decisions.
	Plans(ctx context.Context) (doc.Plans, error)
	// Explain is one stored decision, the newest for an empty id. The error is
	// an *ActionError with CodeUnknownPlan when there is none.
	Explain(ctx context.Context, id string) (doc.Explanation, error)
	// Do carries out a command and returns what to show, as JSON. The error is
	// an *ActionError where the caller is to be told why it was refused.
	Do(ctx context.Context, action string, args map[string]string) (any, error)
	// WAL writes the whole, committed segment or the history file of that name
	// to w, or nothing and ErrNotYet or ErrLedgerUnknown.
	WAL(ctx context.Context, name string, w io.Writer) error
	Backups
}

// ActionError is a command that was not carried out, for a reason the caller
// can act on.
type ActionError struct {
	Code string // stable id, such as "unknown-action" or "refused"
	Text string // one sentence
}

// Error is the sentence.
func (e *ActionError) Error() string { return e.Text }

// The codes that every Backend uses.
const (
	CodeUnknownAction = "unknown-action" // no such command: 404
	CodeBadArgument   = "bad-argument"   // an argument is missing or malformed: 400
	CodeRefused       = "refused"        // it would not be safe, or not now: 409
	CodeUnknownPlan   = "unknown-plan"   // no such decision is stored: 404
)

// Options configure a Handler.
type Options struct {
	// Writable admits commands; set it on the unix socket only.
	Writable bool
	// Log receives one line per command. Required.
	Log *slog.Logger
	// Ports are PostgreSQL's ports by node name, as far as they are known; they
	// appear in /cluster.
	Ports map[string]int
	// PingEvery is how often the feed pings its clients; zero means 10 s. A
	// client that is silent for twice as long is cut off.
	PingEvery time.Duration
	// SampleEvery is how often the feed sends the status; zero means 1 s.
	SampleEvery time.Duration
}

const (
	maxBodyBytes   = 64 << 10
	maxEventsReply = 1000
)

type server struct {
	b       Backend
	opts    Options
	feedID  string
	clients chan struct{} // a slot per feed client
}

// Handler answers all endpoints. Its feeds end when their request's context
// does: serve it with ServeTCP or ServeUnix.
func Handler(b Backend, opts Options) http.Handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.PingEvery <= 0 {
		opts.PingEvery = 10 * time.Second
	}
	if opts.SampleEvery <= 0 {
		opts.SampleEvery = time.Second
	}
	s := &server{b: b, opts: opts, feedID: newFeedID(), clients: make(chan struct{}, maxFeedClients)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/status", s.status)
	mux.HandleFunc("GET /api/v1/events", s.events)
	mux.HandleFunc("GET /api/v1/feed", s.feed)
	mux.HandleFunc("GET /api/v1/history", s.changes)
	mux.HandleFunc("GET /api/v1/incidents", s.incidents)
	mux.HandleFunc("GET /api/v1/plans", s.plans)
	mux.HandleFunc("GET /api/v1/explain", s.explain)
	mux.HandleFunc("POST /api/v1/do/{action}", s.do)
	mux.HandleFunc("GET /cluster", s.cluster)
	mux.HandleFunc("GET /history", s.history)
	mux.HandleFunc("GET /metrics", s.metrics)
	s.handleBackups(mux)
	s.handleHealth(mux)
	return mux
}

// newFeedID names this run's numbering of events.
func newFeedID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.b.Status(r.Context())
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, st)
}

// EventsReply is the document of /api/v1/events.
type EventsReply struct {
	Oldest uint64           `json:"oldest"` // number of the oldest event at hand
	Last   uint64           `json:"last"`   // number of the newest
	Gap    bool             `json:"gap"`    // events after the asked number are gone
	Events []eventlog.Event `json:"events"`
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, err := number(q.Get("since"), 0)
	if err != nil {
		writeError(w, http.StatusBadRequest, CodeBadArgument, "since must be the number of an event.")
		return
	}
	limit, err := number(q.Get("max"), maxEventsReply)
	if err != nil {
		writeError(w, http.StatusBadRequest, CodeBadArgument, "max must be a number.")
		return
	}
	log := s.b.Events()
	if limit == 0 || limit > maxEventsReply {
		limit = maxEventsReply
	}
	events, oldest := log.Since(since, int(limit))
	if events == nil {
		events = []eventlog.Event{}
	}
	last := log.Last()
	writeJSON(w, http.StatusOK, EventsReply{Oldest: oldest, Last: last, Gap: gap(since, oldest, last), Events: events})
}

// gap tells whether a reader who has everything up to since missed something;
// a number from the future belongs to another numbering.
func gap(since, oldest, last uint64) bool { return since > last || oldest > since+1 }

func number(s string, def uint64) (uint64, error) {
	if s == "" {
		return def, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// ErrorReply is the document of every failed request to /api.
type ErrorReply struct {
	Code  string `json:"code"`
	Error string `json:"error"`
}

func (s *server) do(w http.ResponseWriter, r *http.Request) {
	if !s.opts.Writable {
		writeError(w, http.StatusForbidden, "read-only", "Commands are taken on the daemon's own socket only.")
		return
	}
	args := map[string]string{}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err := dec.Decode(&args); err != nil && !errors.Is(err, io.EOF) {
		writeError(w, http.StatusBadRequest, CodeBadArgument, "the body must be a JSON object of strings.")
		return
	}
	action := r.PathValue("action")
	result, err := s.b.Do(r.Context(), action, args)
	if err != nil {
		s.opts.Log.Warn("command failed", "action", action, "error", err)
		writeActionError(w, err)
		return
	}
	s.opts.Log.Info("command done", "action", action)
	if result == nil {
		result = struct{}{}
	}
	writeJSON(w, http.StatusOK, result)
}

func writeActionError(w http.ResponseWriter, err error) {
	var ae *ActionError
	if !errors.As(err, &ae) {
		writeError(w, http.StatusInternalServerError, "failed", err.Error())
		return
	}
	status := map[string]int{
		CodeUnknownAction: http.StatusNotFound, CodeUnknownPlan: http.StatusNotFound, CodeBadArgument: http.StatusBadRequest,
		CodeUnknownSet: http.StatusNotFound, CodeUnknownJob: http.StatusNotFound, CodeUnknownLocation: http.StatusNotFound,
	}[ae.Code]
	if status == 0 {
		status = http.StatusConflict
	}
	writeError(w, status, ae.Code, ae.Text)
}

func writeError(w http.ResponseWriter, status int, code, text string) {
	writeJSON(w, status, ErrorReply{Code: code, Error: text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, fmt.Appendf(nil, `{"code":"failed","error":%q}`, "encode the reply")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that left gets nothing; nobody else cares
}
