package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
)

// Status is the part of a daemon's status document that tests look at.
type Status struct {
	Node      string       `json:"node"` // whose view this is
	Group     GroupStatus  `json:"group"`
	Nodes     []NodeStatus `json:"nodes"`
	Incidents []Incident   `json:"incidents"`
}

// GroupStatus is what concerns all nodes.
type GroupStatus struct {
	Epoch           pos.Epoch    `json:"epoch"`
	Phase           string       `json:"phase"`
	Primary         string       `json:"primary"`
	Timeline        pos.Timeline `json:"timeline"`
	Committed       pos.LSN      `json:"committed"`
	LedgerLeader    string       `json:"ledger_leader"`
	MustAcknowledge struct {
		Voters []string `json:"voters"`
		Needed int      `json:"needed"`
	} `json:"must_acknowledge"`
	Safe struct {
		Level    string `json:"level"`
		Rule     string `json:"rule"`
		Sentence string `json:"sentence"`
	} `json:"safe"`
}

// NodeStatus is one member.
type NodeStatus struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Presence string    `json:"presence"`
	Epoch    pos.Epoch `json:"epoch"`
	Received pos.LSN   `json:"received"`
	Durable  pos.LSN   `json:"durable"`
	Applied  pos.LSN   `json:"applied"`
	Link     struct {
		State   string `json:"state"`
		Problem string `json:"problem"`
	} `json:"link"`
	WALVoter    bool `json:"wal_voter"`
	LedgerVoter bool `json:"ledger_voter"`
	Seeded      bool `json:"seeded"`
	Server      struct {
		State   string `json:"state"`
		Problem string `json:"problem"`
	} `json:"server"`
}

// Incident is a standing condition.
type Incident struct {
	Key  string `json:"key"`
	Node string `json:"node"`
	Text string `json:"text"`
}

// Event is one entry of a daemon's event log.
type Event struct {
	N     uint64    `json:"n"`
	At    time.Time `json:"at"`
	Kind  string    `json:"kind"`
	Node  string    `json:"node"`
	Text  string    `json:"text"`
	Epoch pos.Epoch `json:"epoch"`
}

// String is one line for a failed test.
func (s Status) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %s %s, primary %q, ledger leader %q, committed %s, %s: %s",
		s.Group.Epoch, s.Group.Phase, s.Group.Primary, s.Group.LedgerLeader, s.Group.Committed, s.Group.Safe.Level, s.Group.Safe.Sentence)
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "; %s %s %s durable %s applied %s link %q server %s %s",
			n.Name, n.Role, n.Presence, n.Durable, n.Applied, n.Link.State, n.Server.State, n.Server.Problem)
	}
	return b.String()
}

// Of is the entry of the node of that name, zero when there is none.
func (s Status) Of(name string) NodeStatus {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return NodeStatus{}
}

// Healthy tells whether any one node may be lost: all three vote, and the
// standby applies.
func (s Status) Healthy() bool {
	if s.Group.Safe.Level != "safe" || len(s.Nodes) != len(names) {
		return false
	}
	for _, n := range s.Nodes {
		if !n.WALVoter || !n.LedgerVoter {
			return false
		}
	}
	return true
}

// Get asks the daemon over its local socket and decodes the JSON reply into v.
func (n *Node) Get(ctx context.Context, path string, v any) error {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.RunDir(), "admin.sock"))
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://understudy"+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the daemon of %s answers %s", path, n.Name, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// Status is this node's view of the group, asked over the local socket.
func (n *Node) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var st Status
	err := n.Get(ctx, "/api/v1/status", &st)
	return st, err
}

// Events are the newest events of this node's log.
func (n *Node) Events(ctx context.Context) ([]Event, error) {
	var reply struct {
		Events []Event `json:"events"`
	}
	err := n.Get(ctx, "/api/v1/events", &reply)
	return reply.Events, err
}

// Status is the view of the first node whose daemon answers.
func (g *Group) Status() (Status, error) {
	var errs []error
	for _, n := range g.Nodes() {
		n.mu.Lock()
		frozen := n.frozen
		n.mu.Unlock()
		if !n.Running() || frozen {
			continue
		}
		st, err := n.Status(context.Background())
		if err == nil {
			return st, nil
		}
		errs = append(errs, err)
	}
	return Status{}, errors.Join(append(errs, errors.New("no daemon answers"))...)
}

// WaitStatus waits until some daemon's view satisfies cond.
func (g *Group) WaitStatus(t testing.TB, d time.Duration, what string, cond func(Status) bool) Status {
	t.Helper()
	return waitStatus(t, d, what, g.Status, cond)
}

// WaitStatus waits until this daemon's view satisfies cond.
func (n *Node) WaitStatus(t testing.TB, d time.Duration, what string, cond func(Status) bool) Status {
	t.Helper()
	return waitStatus(t, d, n.Name+": "+what, func() (Status, error) { return n.Status(context.Background()) }, cond)
}

func waitStatus(t testing.TB, d time.Duration, what string, get func() (Status, error), cond func(Status) bool) Status {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		st, err := get()
		if err == nil && cond(st) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s\nlast answer (error %v): %s", d, what, err, st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// WaitHealthy waits until any one node may be lost.
func (g *Group) WaitHealthy(t testing.TB) Status {
	t.Helper()
	return g.WaitStatus(t, healthyWithin, "a healthy group", Status.Healthy)
}
