package admin

import (
	"net"
	"net/http"
	"time"

	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// ClusterReply is the document of /cluster.
type ClusterReply struct {
	Members []ClusterMember `json:"members"`
	Scope   string          `json:"scope"`
	Pause   bool            `json:"pause,omitempty"`
	// ScheduledSwitchover is absent when none is scheduled.
	ScheduledSwitchover *ClusterSwitchover `json:"scheduled_switchover,omitempty"`
}

// ClusterSwitchover is a switchover that is to begin at a time.
type ClusterSwitchover struct {
	At   string `json:"at"` // with date and zone
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"` // absent where the group chooses
}

// ClusterMember is one node in the words that tools for PostgreSQL high
// availability use.
type ClusterMember struct {
	Name     string       `json:"name"`
	Role     string       `json:"role"`  // "leader", "sync_standby", "replica" or "witness"
	State    string       `json:"state"` // "running", "streaming", "creating replica", "stopped", "unknown" and the like
	APIURL   string       `json:"api_url,omitempty"`
	Host     string       `json:"host,omitempty"`
	Port     int          `json:"port,omitempty"` // PostgreSQL's, where it is known
	Timeline pos.Timeline `json:"timeline,omitempty"`
	// Lag is bytes not yet applied, "unknown" on a standby that is not heard,
	// absent on the leader.
	Lag any `json:"lag,omitempty"`
	// Tags are what the policy keeps the node from; absent when nothing.
	Tags *ClusterTags `json:"tags,omitempty"`
}

// ClusterTags are what a node does not do.
type ClusterTags struct {
	NoFailover bool `json:"nofailover,omitempty"` // become primary by itself
	NoSync     bool `json:"nosync,omitempty"`     // have commits wait for it
}

func (s *server) cluster(w http.ResponseWriter, r *http.Request) {
	st, err := s.b.Status(r.Context())
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	reply := ClusterReply{Scope: st.Group.Name, Pause: st.Group.Paused, Members: []ClusterMember{}}
	if sc := st.Group.Scheduled; sc != nil {
		reply.ScheduledSwitchover = &ClusterSwitchover{At: sc.At.Format(time.RFC3339), From: sc.From, To: sc.To}
	}
	for _, n := range st.Nodes {
		reply.Members = append(reply.Members, s.clusterMember(st, n))
	}
	writeJSON(w, http.StatusOK, reply)
}

func (s *server) clusterMember(st view.Status, n view.Node) ClusterMember {
	m := ClusterMember{Name: n.Name, Timeline: n.Timeline, State: clusterState(n), Port: s.opts.Ports[n.Name]}
	if host, _, err := net.SplitHostPort(n.Address); err == nil {
		m.Host = host
	}
	if n.HTTP != "" && n.HTTP != "off" {
		m.APIURL = "http://" + n.HTTP + "/health"
	}
	if n.NoFailover || n.NoVote {
		// Without a vote a node cannot become primary either.
		m.Tags = &ClusterTags{NoFailover: true, NoSync: n.NoVote}
	}
	switch {
	case n.Kind == facts.KindWitness:
		m.Role = "witness"
		return m
	case n.Name == st.Group.Primary && n.Role == decide.RolePrimary:
		m.Role = "leader"
		return m
	case n.WALVoter && st.Group.Durability != string(facts.Async):
		m.Role = "sync_standby"
	default:
		m.Role = "replica"
	}
	m.Lag = "unknown"
	if n.Lag != nil && n.Presence != view.PresenceSilent {
		m.Lag = n.Lag.ApplyBytes
	}
	return m
}

func clusterState(n view.Node) string {
	switch {
	case n.Presence == view.PresenceSilent || n.Presence == view.PresenceNever:
		return "unknown"
	case n.Kind == facts.KindWitness:
		return "running"
	case n.Role == decide.RoleSeeding:
		return "creating replica"
	case n.Server.State == decide.ServerReplica && n.Link.State == view.LinkStreaming:
		return "streaming"
	}
	return serverWord(n.Server.State)
}
