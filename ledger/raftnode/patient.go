package raftnode

import (
	"time"

	"github.com/hashicorp/raft"
)

// retryEvery is how often a node that does not answer is asked again.
const retryEvery = 100 * time.Millisecond

// patient is a transport that keeps trying to reach a follower itself. Raft
// doubles its pause after every failure, up to ten seconds: a node that was
// away for a few seconds would then wait as long again for its first entry,
// and with it every commit that needs this node. Heartbeats are left alone,
// since Raft bounds their pause and learns from their failures who is gone.
type patient struct {
	*raft.NetworkTransport
	// leads tells whether this node still leads in term and id is still to be
	// reached at addr: without that, trying on is not wanted.
	leads func(term uint64, id raft.ServerID, addr raft.ServerAddress) bool
	stop  <-chan struct{}
}

// AppendEntries returns an error only when trying on is pointless.
func (p *patient) AppendEntries(id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for {
		err := p.NetworkTransport.AppendEntries(id, addr, args, resp)
		if err == nil || isHeartbeat(args) {
			return err
		}
		select {
		case <-p.stop:
			return err
		case <-time.After(retryEvery):
		}
		if !p.leads(args.Term, id, addr) {
			return err
		}
		*resp = raft.AppendEntriesResponse{}
	}
}

// isHeartbeat recognizes what Raft's transport itself takes for a heartbeat.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// leads is the question that patient asks.
func (n *Node) leads(term uint64, id raft.ServerID, addr raft.ServerAddress) bool {
	select {
	case <-n.started:
	default:
		return true // Raft is still being set up; only a leader appends
	}
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return false
	}
	for _, s := range n.Servers() {
		if s.Store == string(id) && s.Addr == string(addr) {
			return true
		}
	}
	return false
}
