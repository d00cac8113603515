package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

const (
	// reportMaxAge is the age from which the node's own report proves nothing:
	// whoever makes it hangs.
	reportMaxAge = 3 * time.Second
	// livenessMaxAge is the age from which the daemon is reported as dead. It is
	// larger, because the answer may be a restart.
	livenessMaxAge = 15 * time.Second
)

// Health is the document of the health endpoints. Its status code, 200 or 503,
// is the answer; the rest is for people.
type Health struct {
	State         string       `json:"state"` // "running", "starting", "stopped" and the like
	Role          string       `json:"role"`  // "primary", "replica", "witness" or "none"
	Timeline      pos.Timeline `json:"timeline,omitempty"`
	ServerVersion int          `json:"server_version,omitempty"` // as PostgreSQL's server_version_num, minor unknown
	XLog          *XLog        `json:"xlog,omitempty"`
	Epoch         pos.Epoch    `json:"epoch"`
	Sync          bool         `json:"sync_standby,omitempty"`
	LagBytes      *uint64      `json:"lag,omitempty"`
	Understudy    Daemon       `json:"understudy"`
	Reason        string       `json:"reason,omitempty"` // why the answer is 503
}

// XLog are positions as plain numbers.
type XLog struct {
	Location uint64 `json:"location,omitempty"`          // primary
	Received uint64 `json:"received_location,omitempty"` // replica
	Replayed uint64 `json:"replayed_location,omitempty"`
}

// Daemon names who answers.
type Daemon struct {
	Version string `json:"version"`
	Scope   string `json:"scope"` // name of the group
	Name    string `json:"name"`
}

// condition is what the health endpoints look at.
type condition struct {
	state  facts.State
	self   decide.Report
	age    time.Duration // of self; very large when there is none
	lag    *view.Lag
	wanted uint64 // highest lag allowed, in bytes
	limit  bool   // wanted was given
}

// check says why the answer is 503, "" for 200.
type check func(condition) string

// handleHealth registers the endpoints. Each answers GET, HEAD and OPTIONS, the
// latter two without a body, under the names that load-balancer configurations
// for PostgreSQL use.
func (s *server) handleHealth(mux *http.ServeMux) {
	for path, c := range map[string]check{
		"/{$}": isPrimary, "/primary": isPrimary, "/master": isPrimary, "/read-write": isPrimary, "/leader": isPrimary,
		"/replica":        isReplica,
		"/read-only":      isReadable,
		"/read-only-sync": isReadableSync, "/read-only-quorum": isReadableSync,
		"/sync": isSync, "/synchronous": isSync, "/quorum": isSync,
		"/async": isAsync, "/asynchronous": isAsync,
		"/standby-leader": func(condition) string { return "there are no standby groups" }, "/standby_leader": func(condition) string { return "there are no standby groups" },
		"/health":    isRunning,
		"/liveness":  isLive,
		"/readiness": isReady,
	} {
		mux.HandleFunc(path, s.health(c))
	}
}

func (s *server) health(c check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
		default:
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			writeError(w, http.StatusMethodNotAllowed, "method", "Use GET, HEAD or OPTIONS.")
			return
		}
		cond, err := s.condition(r)
		if err != nil {
			writeError(w, http.StatusBadRequest, CodeBadArgument, err.Error())
			return
		}
		reason, status := c(cond), http.StatusOK
		if reason != "" {
			status = http.StatusServiceUnavailable
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, cond.document(reason)) // net/http drops the body of a HEAD
	}
}

func (s *server) condition(r *http.Request) (condition, error) {
	c := condition{age: 1 << 62}
	c.state, c.self = s.b.Self()
	if !c.self.SentAt.IsZero() {
		c.age = time.Since(c.self.SentAt)
	}
	if text := r.URL.Query().Get("lag"); text != "" {
		v, err := parseSize(text)
		if err != nil {
			return c, err
		}
		c.wanted, c.limit = v, true
	}
	if c.self.Role == decide.RoleStandby {
		if st, err := s.b.Status(r.Context()); err == nil {
			for _, n := range st.Nodes {
				if n.Name == c.self.Node {
					c.lag = n.Lag
				}
			}
		}
	}
	return c, nil
}

// isPrimary wants the node's own word and the ledger's, in the same epoch.
func isPrimary(c condition) string {
	p := c.state.Primary
	switch {
	case c.age > reportMaxAge:
		return "the daemon's own report is too old"
	case c.self.Role != decide.RolePrimary:
		return "this node is not the primary"
	case c.self.Server.State != decide.ServerOpen:
		return "clients are not let in yet"
	case p.Store == "" || p.Store != c.self.Store:
		return "the ledger names another primary"
	case p.Phase != facts.PhaseOpened || p.Epoch != c.self.Epoch:
		return "the ledger has not opened this epoch"
	}
	return ""
}

func isReplica(c condition) string {
	switch {
	case c.age > reportMaxAge:
		return "the daemon's own report is too old"
	case c.self.Role != decide.RoleStandby:
		return "this node is not a standby"
	case c.self.Server.State != decide.ServerReplica:
		return "PostgreSQL does not run as standby"
	case c.limit && c.lag == nil:
		return "how far this node is behind is unknown"
	case c.limit && c.lag.ApplyBytes > c.wanted:
		return fmt.Sprintf("this node is %d bytes behind", c.lag.ApplyBytes)
	}
	return ""
}

// isReadable accepts the primary too, so that reads go on without a standby.
func isReadable(c condition) string {
	if isPrimary(c) == "" {
		return ""
	}
	return isReplica(c)
}

func (c condition) sync() bool {
	return c.state.IsVoter(c.self.Store) && c.state.Policy.Durability != facts.Async
}

func isSync(c condition) string {
	if why := isReplica(c); why != "" {
		return why
	}
	if !c.sync() {
		return "commits do not wait for this node"
	}
	return ""
}

func isReadableSync(c condition) string {
	if isPrimary(c) == "" {
		return ""
	}
	return isSync(c)
}

func isAsync(c condition) string {
	if why := isReplica(c); why != "" {
		return why
	}
	if c.sync() {
		return "commits wait for this node"
	}
	return ""
}

func isRunning(c condition) string {
	switch {
	case c.age > reportMaxAge:
		return "the daemon's own report is too old"
	case c.self.Server.State == decide.ServerOpen, c.self.Server.State == decide.ServerReplica, c.self.Server.State == decide.ServerLocked:
		return ""
	case c.self.Role == decide.RoleWitness:
		return "this node has no PostgreSQL; ask /liveness"
	}
	return "PostgreSQL does not run"
}

func isLive(c condition) string {
	if c.age > livenessMaxAge {
		return "the daemon's own report is too old"
	}
	return ""
}

// isReady accepts a witness that belongs to a group: it has its work to do.
func isReady(c condition) string {
	if c.self.Role == decide.RoleWitness {
		if !c.state.Founded() {
			return "this node belongs to no group yet"
		}
		return isLive(c)
	}
	if isPrimary(c) == "" {
		return ""
	}
	if why := isReplica(c); why != "" {
		return why
	}
	if !c.self.Server.Streaming {
		return "PostgreSQL does not stream yet"
	}
	return ""
}

func (c condition) document(reason string) Health {
	h := Health{
		State: serverWord(c.self.Server.State), Role: roleWord(c.self.Role), Timeline: c.self.Timeline,
		ServerVersion: c.self.Server.Major * 10000, Epoch: c.self.Epoch, Reason: reason,
		Understudy: Daemon{Version: c.self.Version, Scope: c.state.Group.Name, Name: c.self.Node},
	}
	switch h.Role {
	case "primary":
		h.XLog = &XLog{Location: uint64(c.self.Durable)}
	case "replica":
		h.XLog = &XLog{Received: uint64(c.self.Received), Replayed: uint64(c.self.Applied)}
		h.Sync = c.sync()
		if c.lag != nil {
			h.LagBytes = &c.lag.ApplyBytes
		}
	}
	return h
}

func roleWord(r decide.Role) string {
	switch r {
	case decide.RolePrimary:
		return "primary"
	case decide.RoleStandby, decide.RoleSeeding:
		return "replica"
	case decide.RoleWitness:
		return "witness"
	default:
		return "none"
	}
}

func serverWord(s decide.ServerState) string {
	switch s {
	case decide.ServerOpen, decide.ServerReplica:
		return "running"
	case decide.ServerStarting, decide.ServerLocked:
		return "starting"
	case decide.ServerFailed:
		return "start failed"
	case decide.ServerStopped:
		return "stopped"
	default:
		return "absent"
	}
}

// parseSize reads bytes with an optional unit, as PostgreSQL does: B, kB, MB,
// GB and TB are steps of 1024.
func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "kKMGTBib ")
	unit := strings.ToLower(strings.TrimSpace(text[len(digits):]))
	shift, ok := map[string]uint{"": 0, "b": 0, "kb": 10, "k": 10, "mb": 20, "m": 20, "gb": 30, "g": 30, "tb": 40, "t": 40, "kib": 10, "mib": 20, "gib": 30, "tib": 40}[unit]
	v, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || !ok || v > 1<<62>>shift {
		return 0, errors.New("lag must be a number of bytes, or one with a unit such as 10MB")
	}
	return v << shift, nil
}
