package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/ledger/raftnode"
	"understudy/shipper/pos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcp is a stream layer on loopback.
type tcp struct{ net.Listener }

func (tcp) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(addr), timeout)
}

// group is a few ledgers that forward to each other by direct calls.
type group struct {
	t    *testing.T
	root string
	raft raftnode.Config

	mu    sync.Mutex
	nodes map[string]*ledger.Ledger
	addrs map[string]string
	fails int // next forwarded proposals whose answer gets lost
}

func newGroup(t *testing.T) *group {
	t.Helper()
	g := &group{t: t, root: t.TempDir(), nodes: map[string]*ledger.Ledger{}, addrs: map[string]string{}}
	t.Cleanup(func() {
		for name := range g.addrs {
			g.stop(name)
		}
	})
	return g
}

func (g *group) get(store string) *ledger.Ledger {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[store]
}

func (g *group) Propose(ctx context.Context, store, _ string, cmd []byte) ([]byte, error) {
	l := g.get(store)
	if l == nil {
		return nil, errors.New("connection refused")
	}
	b, err := l.HandlePropose(ctx, cmd)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && g.fails > 0 {
		g.fails--
		return nil, errors.New("connection reset")
	}
	return b, err
}

func (g *group) Read(ctx context.Context, store, _ string) ([]byte, error) {
	l := g.get(store)
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return l.HandleRead(ctx)
}

// start opens a node, at the address it had before if any.
func (g *group) start(store string) *ledger.Ledger {
	g.t.Helper()
	addr := g.addrs[store]
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var ln net.Listener
	g.wait("listen on "+addr, func() (err error) { ln, err = net.Listen("tcp", addr); return err })
	g.addrs[store] = ln.Addr().String()
	l, err := ledger.Open(ledger.Config{
		Dir: filepath.Join(g.root, store), Store: store, Advertise: g.addrs[store], Stream: tcp{ln}, Forward: g,
		Raft: g.raft,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.nodes[store] = l
	g.mu.Unlock()
	return l
}

func (g *group) stop(store string) {
	g.t.Helper()
	g.mu.Lock()
	l := g.nodes[store]
	delete(g.nodes, store)
	g.mu.Unlock()
	if l == nil {
		return
	}
	if err := l.Close(); err != nil {
		g.t.Errorf("close %s: %v", store, err)
	}
}

// wait tries fn until it returns nil.
func (g *group) wait(what string, fn func() error) {
	g.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g *group) leader() string {
	g.t.Helper()
	var name string
	g.wait("leader", func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for s, l := range g.nodes {
			if _, _, self := l.Leader(); self {
				name = s
				return nil
			}
		}
		return errors.New("none")
	})
	return name
}

// agreed waits until every running node has the state that Read returns.
func (g *group) agreed() facts.State {
	g.t.Helper()
	want, err := g.get(g.leader()).Read(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	nodes := make(map[string]*ledger.Ledger)
	for s, l := range g.nodes {
		nodes[s] = l
	}
	g.mu.Unlock()
	for s, l := range nodes {
		g.wait(s+" agrees", func() error {
			if d := cmp.Diff(want, l.State()); d != "" {
				return errors.New(d)
			}
			return nil
		})
	}
	return want
}

func founding(store string) facts.Found {
	return facts.Found{
		Group:  facts.Group{ID: "g1", Name: "shop", LedgerID: "l1", SystemID: 7, PGMajor: 15, SegSize: 16 << 20},
		Member: facts.Member{Name: store, Store: store, Kind: facts.KindData},
		Policy: facts.DefaultPolicy(),
	}
}

// three founds a group of a, b and c.
func three(t *testing.T, g *group) {
	t.Helper()
	ctx := t.Context()
	a := g.start("a")
	if err := a.Found(ctx, founding("a")); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"b", "c"} {
		g.start(s)
		if err := a.AddServer(ctx, s, g.addrs[s], true); err != nil {
			t.Fatal(err)
		}
		m := facts.Member{Name: s, Store: s, Kind: facts.KindData, Address: g.addrs[s], LedgerVoter: true}
		if _, err := a.Propose(ctx, facts.Command{AddMember: &facts.AddMember{Member: m, Expect: a.State().MembersVersion}}); err != nil {
			t.Fatal(err)
		}
	}
	g.agreed()
}

func incident(key string) facts.Command {
	return facts.Command{RaiseIncident: &facts.RaiseIncident{Incident: facts.Incident{
		Key: key, Severity: facts.SeverityWarning, Text: "something about " + key,
	}}}
}

func TestLedger_FoundsAndElects(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	ctx := t.Context()
	l := g.get("b")
	s, err := l.Read(ctx)
	if err != nil || len(s.Members) != 3 {
		t.Fatalf("%d members, %v", len(s.Members), err)
	}
	if err := g.get("a").Found(ctx, founding("a")); !refused(err, facts.CodeAlreadyFounded) {
		t.Errorf("second founding: %v", err)
	}
	if _, err := l.Propose(ctx, facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: s.Primary.Version, Cause: "founding"}}); err != nil {
		t.Fatal(err)
	}
	_, err = l.Propose(ctx, facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: s.Primary.Version, Cause: "late"}})
	if !refused(err, facts.CodeStaleVersion) {
		t.Errorf("stale proposal: %v", err)
	}
	if got := g.agreed().Primary.Epoch; got != (pos.Epoch{Gen: 1, Num: 1}) {
		t.Errorf("epoch %s", got)
	}
}

func refused(err error, code string) bool {
	var r *ledger.RefusedError
	return errors.As(err, &r) && r.Code == code
}

func TestLedger_SurvivesEachNode(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	for _, s := range []string{"a", "b", "c"} {
		g.stop(s)
		l := g.get(g.leader())
		if _, err := l.Propose(t.Context(), incident("without-"+s)); err != nil {
			t.Fatalf("without %s: %v", s, err)
		}
		g.start(s)
		if st := g.agreed(); st.Incidents["without-"+s].Key == "" {
			t.Errorf("the incident raised without %s is lost", s)
		}
	}
}

func TestLedger_SurvivesAllStopped(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	want := g.agreed()
	for _, s := range []string{"a", "b", "c"} {
		g.stop(s)
	}
	for _, s := range []string{"a", "b", "c"} {
		if ok, err := raftnode.HasState(filepath.Join(g.root, s)); !ok || err != nil {
			t.Errorf("HasState(%s) = %v, %v", s, ok, err)
		}
		g.start(s)
	}
	if d := cmp.Diff(want, g.agreed()); d != "" {
		t.Error(d)
	}
}

func TestLedger_Transfer(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	ctx := t.Context()
	from := g.leader()
	to := "b"
	if from == "b" {
		to = "c"
	}
	if err := g.get(to).TransferLeadership(ctx, to); !errors.Is(err, ledger.ErrNotLeader) {
		t.Errorf("transfer by a follower: %v", err)
	}
	if err := g.get(from).TransferLeadership(ctx, "nobody"); !errors.Is(err, ledger.ErrNoVote) {
		t.Errorf("transfer to nobody: %v", err)
	}
	if err := g.get(from).TransferLeadership(ctx, to); err != nil {
		t.Fatal(err)
	}
	g.wait("new leader", func() error {
		if _, _, self := g.get(to).Leader(); !self {
			return errors.New("not yet")
		}
		return nil
	})
	if _, err := g.get(from).Propose(ctx, incident("after")); err != nil {
		t.Error(err)
	}
}

func TestLedger_ForwardedRetryAppliesOnce(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	follower := "a"
	if g.leader() == "a" {
		follower = "b"
	}
	before := g.agreed()
	g.mu.Lock()
	g.fails = 2
	g.mu.Unlock()
	out, err := g.get(follower).Propose(t.Context(), facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: before.Primary.Version, Cause: "test"}})
	if err != nil || !out.Repeated || len(out.Events) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if after := g.agreed(); after.Version != before.Version+1 || after.Primary.Epoch.Num != before.Primary.Epoch.Num+1 {
		t.Errorf("version %d to %d, epoch %s to %s", before.Version, after.Version, before.Primary.Epoch, after.Primary.Epoch)
	}
	if _, err := g.get(follower).HandlePropose(t.Context(), []byte(`{"kind":"withdraw-voter","id":"x","at":"2026-01-01T00:00:00Z","withdraw_voter":{}}`)); !errors.Is(err, ledger.ErrNotLeader) {
		t.Errorf("a follower took a forwarded proposal: %v", err)
	}
	if _, err := g.get(follower).HandleRead(t.Context()); !errors.Is(err, ledger.ErrNotLeader) {
		t.Errorf("a follower answered a forwarded read: %v", err)
	}
}

func TestLedger_SnapshotAndRestore(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	g.raft = raftnode.Config{SnapshotThreshold: 4, SnapshotInterval: time.Hour, TrailingLogs: 1}
	three(t, g)
	g.stop("c")
	l := g.get(g.leader())
	for i := range 20 {
		if _, err := l.Propose(t.Context(), incident(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"a", "b"} {
		if err := g.get(s).Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	g.start("c") // its log has a gap: only the snapshot can fill it
	want := g.agreed()
	for _, s := range []string{"a", "b", "c"} {
		g.stop(s)
	}
	for _, s := range []string{"c", "b", "a"} {
		g.start(s)
	}
	if d := cmp.Diff(want, g.agreed()); d != "" || len(want.Incidents) != 20 {
		t.Errorf("%d incidents, %s", len(want.Incidents), d)
	}
}

// A node that comes back after a while must get the log at once: the next
// commit may need it.
func TestLedger_ReturningNodeCatchesUpAtOnce(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	away := "c"
	if g.leader() == "c" {
		away = "b"
	}
	g.stop(away)
	l := g.get(g.leader())
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		if _, err := l.Propose(t.Context(), incident("meanwhile")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if _, err := l.Propose(t.Context(), incident("last")); err != nil {
		t.Fatal(err)
	}
	back := g.start(away)
	began := time.Now()
	g.wait("catch up", func() error {
		if back.State().Incidents["last"].Key == "" {
			return errors.New("behind")
		}
		return nil
	})
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestLedger_NoLeader(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	g.stop("b")
	g.stop("c")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := g.get("a").Propose(ctx, incident("x")); !errors.Is(err, ledger.ErrNoLeader) {
		t.Errorf("propose without a majority: %v", err)
	}
	ctx2, cancel2 := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel2()
	if _, err := g.get("a").Read(ctx2); !errors.Is(err, ledger.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read without a majority: %v", err)
	}
}

func TestLedger_AddServerChangesVote(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	three(t, g)
	ctx := t.Context()
	l, other := g.get(g.leader()), "c"
	if g.leader() == "c" {
		other = "b"
	}
	votes := func() map[string]bool {
		out := map[string]bool{}
		for _, s := range l.Servers() {
			out[s.Store] = s.Voter
		}
		return out
	}
	if err := l.AddServer(ctx, other, g.addrs[other], false); err != nil || votes()[other] {
		t.Fatalf("demoted: %v, %v", votes(), err)
	}
	if err := l.RemoveServer(ctx, other); err != nil || len(votes()) != 2 {
		t.Fatalf("removed: %v, %v", votes(), err)
	}
	if err := l.AddServer(ctx, other, g.addrs[other], true); err != nil || !votes()[other] {
		t.Fatalf("added: %v, %v", votes(), err)
	}
	g.agreed()
}

func TestLedger_SubscribeGetsEveryEvent(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	l := g.start("a")
	var (
		mu     sync.Mutex
		events []facts.Event
		newest facts.State
		hold   = make(chan struct{})
	)
	cancel := l.Subscribe(func(s facts.State, e []facts.Event) {
		<-hold // a slow reader must not stop the ledger
		mu.Lock()
		defer mu.Unlock()
		events, newest = append(events, e...), s
	})
	changed := l.Changed()
	if err := l.Found(t.Context(), founding("a")); err != nil {
		t.Fatal(err)
	}
	<-changed
	for i := range 30 {
		if _, err := l.Propose(t.Context(), incident(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	close(hold)
	g.wait("events", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(events) != 31 || newest.Version != 31 {
			return fmt.Errorf("%d events, version %d", len(events), newest.Version)
		}
		return nil
	})
	cancel()
	for i, e := range events {
		if e.Version != uint64(i+1) {
			t.Errorf("event %d is of version %d", i, e.Version)
		}
	}
}

func TestLedger_WaitsWithoutState(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	l := g.start("lone")
	if ok, err := raftnode.HasState(filepath.Join(g.root, "other")); ok || err != nil {
		t.Errorf("HasState of nothing = %v, %v", ok, err)
	}
	if store, _, self := l.Leader(); store != "" || self || l.State().Founded() {
		t.Error("a node without a state leads")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Propose(ctx, incident("x")); !errors.Is(err, ledger.ErrNoLeader) {
		t.Errorf("propose: %v", err)
	}
	g.stop("lone")
	if _, err := l.Propose(t.Context(), incident("x")); !errors.Is(err, ledger.ErrClosed) && !errors.Is(err, ledger.ErrNoLeader) {
		t.Errorf("propose after close: %v", err)
	}
}
