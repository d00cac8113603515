package admin

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"understudy/cmd/internal/view"
	"understudy/failover/decide"
)

// exposition collects metrics in the Prometheus text format. The few gauges
// here are computed from one status per scrape, so that they agree with each
// other; there is nothing to keep between scrapes.
type exposition struct {
	b     bytes.Buffer
	order []string
	lines map[string][]string
	head  map[string]string
}

// gauge adds a sample; labels are names and values in turn. Samples of one
// metric are written together, whatever order they come in.
func (x *exposition) gauge(name, help string, v float64, labels ...string) {
	if x.lines == nil {
		x.lines, x.head = map[string][]string{}, map[string]string{}
	}
	if _, ok := x.head[name]; !ok {
		x.order = append(x.order, name)
		x.head[name] = "# HELP " + name + " " + help + "\n# TYPE " + name + " gauge\n"
	}
	var l strings.Builder
	l.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		l.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		fmt.Fprintf(&l, `%s="%s"`, labels[i], labelEscaper.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		l.WriteByte('}')
	}
	l.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
	x.lines[name] = append(x.lines[name], l.String())
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (x *exposition) bytes() []byte {
	for _, name := range x.order {
		x.b.WriteString(x.head[name])
		for _, l := range x.lines[name] {
			x.b.WriteString(l)
		}
	}
	return x.b.Bytes()
}

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	st, err := s.b.Status(r.Context())
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	var x exposition
	x.group(st)
	for _, n := range st.Nodes {
		x.node(st, n)
	}
	x.backups(st.Backups)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(x.bytes())
}

func (x *exposition) group(st view.Status) {
	g := st.Group
	x.gauge("understudy_build_info", "Version of the daemon that answers; always 1.", 1, "version", st.Version, "node", st.Node)
	x.gauge("understudy_epoch_generation", "Generation of the present epoch.", float64(g.Epoch.Gen))
	x.gauge("understudy_epoch_number", "Number of the present epoch within its generation.", float64(g.Epoch.Num))
	x.gauge("understudy_timeline", "Timeline of the present primaryship.", float64(g.Timeline))
	x.gauge("understudy_committed_lsn", "Position up to which a majority has the log, in bytes.", float64(g.Committed))
	x.gauge("understudy_voters", "Nodes whose disks count for a commit.", float64(len(g.MustAcknowledge.Voters)))
	x.gauge("understudy_voters_needed", "Nodes that must have a commit on disk before it returns.", float64(g.MustAcknowledge.Needed))
	x.gauge("understudy_protected", "1 if another node than the primary has a base and the log.", flag(g.Protected))
	x.gauge("understudy_paused", "1 if automatic failover is paused now.", flag(g.Paused))
	x.gauge("understudy_failover_ready", "1 if another node would become primary by itself, were the primary lost.", flag(g.Failover.Ready))
	for _, l := range []view.Level{view.LevelSafe, view.LevelDegraded, view.LevelUnprotected, view.LevelStopped} {
		x.gauge("understudy_safety", "1 for the present level of safety.", flag(g.Safe.Level == l), "level", string(l))
	}
	counts := map[string]int{}
	for _, i := range st.Incidents {
		counts[i.Severity]++
	}
	for _, sev := range []string{"error", "warning"} {
		x.gauge("understudy_incidents", "Standing incidents.", float64(counts[sev]), "severity", sev)
	}
}

func (x *exposition) node(st view.Status, n view.Node) {
	heard := n.Presence == view.PresenceSelf || n.Presence == view.PresenceHeard
	x.gauge("understudy_node_up", "1 if the node is heard from.", flag(heard), "node", n.Name)
	x.gauge("understudy_node_is_primary", "1 if the node says that it is the primary and open, in the ledger's epoch.",
		flag(heard && n.Role == decide.RolePrimary && n.Server.State == decide.ServerOpen && n.Epoch == st.Group.Epoch && n.Name == st.Group.Primary), "node", n.Name)
	for _, role := range []decide.Role{decide.RolePrimary, decide.RoleStandby, decide.RoleSeeding, decide.RoleWitness, decide.RoleNone} {
		x.gauge("understudy_node_role", "1 for the node's present role.", flag(n.Role == role), "node", n.Name, "role", string(role))
	}
	x.gauge("understudy_node_timeline", "Timeline that the node is on.", float64(n.Timeline), "node", n.Name)
	x.gauge("understudy_node_received_lsn", "Position received, in bytes.", float64(n.Received), "node", n.Name)
	x.gauge("understudy_node_durable_lsn", "Position on disk, in bytes.", float64(n.Durable), "node", n.Name)
	x.gauge("understudy_node_applied_lsn", "Position replayed, in bytes.", float64(n.Applied), "node", n.Name)
	x.gauge("understudy_node_spool_bytes", "Size of the node's log of received WAL.", float64(n.SpoolBytes), "node", n.Name)
	if n.Lag != nil {
		x.gauge("understudy_node_lag_bytes", "Flushed by the primary and not on this node's disk.", float64(n.Lag.Bytes), "node", n.Name)
		x.gauge("understudy_node_apply_lag_bytes", "Flushed by the primary and not replayed here.", float64(n.Lag.ApplyBytes), "node", n.Name)
		x.gauge("understudy_node_lag_seconds", "Age of the newest byte on this node's disk, 0 when nothing is missing.", n.Lag.Seconds, "node", n.Name)
	}
	for _, h := range n.Hears {
		x.gauge("understudy_hears_age_seconds", "Age of the newest report that the node has of the peer, or since when it waits for the first.", h.Ago, "node", n.Name, "peer", h.Node)
	}
	x.gauge("understudy_node_failing", "1 if the node's PostgreSQL or the disk below it cannot serve although it runs.", flag(n.Server.Failing != ""), "node", n.Name)
	if n.Link.State != "" {
		x.gauge("understudy_node_link_up", "1 if the primary streams to the node.", flag(n.Link.State == view.LinkStreaming), "node", n.Name)
	}
	if n.Seeding != nil {
		x.gauge("understudy_node_seed_done_bytes", "Bytes of its base that the node has.", float64(n.Seeding.DoneBytes), "node", n.Name)
		x.gauge("understudy_node_seed_total_bytes", "Bytes of the base in all, 0 while unknown.", float64(n.Seeding.TotalBytes), "node", n.Name)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
