package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/cmd/internal/node"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/shipper/link"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func TestMessage_RoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := node.Message{Kind: "request", ID: 7, Op: "propose", Body: json.RawMessage(`{"a":1}`)}
	if err := node.WriteMessage(&b, want); err != nil {
		t.Fatal(err)
	}
	raw := bytes.Clone(b.Bytes())
	got, err := node.ReadMessage(&b)
	if err != nil || got.ID != 7 || got.Op != "propose" || string(got.Body) != `{"a":1}` {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range raw {
		if _, err := node.ReadMessage(bytes.NewReader(raw[:i])); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
}

// zeros is an endless body that counts what was taken of it.
type zeros struct{ n int }

func (z *zeros) Read(p []byte) (int, error) { z.n += len(p); return len(p), nil }

func TestMessage_LengthIsBounded(t *testing.T) {
	body := &zeros{}
	_, err := node.ReadMessage(io.MultiReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), body))
	if err == nil || !strings.Contains(err.Error(), "limit") || body.n > 64<<10 {
		t.Errorf("%v after %d bytes", err, body.n)
	}
	big := node.Message{Kind: "report", Body: json.RawMessage(`"` + strings.Repeat("x", node.MaxMessage) + `"`)}
	if err := node.WriteMessage(io.Discard, big); err == nil {
		t.Error("a message above the limit was written")
	}
}

// peer is one control on a network in memory.
type peer struct {
	node.Control
	name, addr string
	mu         sync.Mutex
	seq        uint64
	proposed   []string
	refuse     error
}

// group makes controls that all know each other.
func group(t *testing.T, n *link.MemNetwork, names ...string) map[string]*peer {
	t.Helper()
	var targets []node.Target
	for _, name := range names {
		targets = append(targets, node.Target{Name: name, Address: name + ":1"})
	}
	out := map[string]*peer{}
	for _, name := range names {
		p := &peer{name: name, addr: name + ":1"}
		p.Control = node.NewControl(node.ControlConfig{
			Self: name, Net: n.Node(name), Targets: func() []node.Target { return targets },
			Report: func() decide.Report {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.seq++
				return decide.Report{Node: name, Store: strings.ToUpper(name), Seq: p.seq}
			},
			Propose: func(_ context.Context, cmd []byte) ([]byte, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.proposed = append(p.proposed, string(cmd))
				return cmd, p.refuse
			},
			Read: func(context.Context) ([]byte, error) { return json.Marshal(name) },
		})
		serve(t, n, p)
		out[name] = p
	}
	return out
}

func serve(t *testing.T, n *link.MemNetwork, p *peer) {
	t.Helper()
	l, err := n.Node(p.name).Listen(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.Handle(link.Control, p.Handle)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Serve(ctx) })
	wg.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestControl_EverybodyHearsEverybody(t *testing.T) {
	n := link.Memory()
	g := group(t, n, "a", "b", "c")
	for _, p := range g {
		pgtest.Eventually(t, patience, p.name+" hears all", func() bool { return len(p.Reports()) == 3 && len(p.HeardByNode()) == 2 })
	}
	old := g["a"].HeardByNode()["b"].Report.Seq
	pgtest.Eventually(t, patience, "a newer report", func() bool { return g["a"].HeardByNode()["b"].Report.Seq > old })
	// Cut off, a node's last word grows old; it is heard again afterwards.
	n.Cut("a", "b")
	pgtest.Eventually(t, patience, "silence", func() bool { return time.Since(g["a"].HeardByNode()["b"].At) > 500*time.Millisecond })
	n.Heal("a", "b")
	pgtest.Eventually(t, patience, "b again", func() bool { return time.Since(g["a"].HeardByNode()["b"].At) < 300*time.Millisecond })
	n.CloseAll()
	at := time.Now()
	pgtest.Eventually(t, patience, "b after the connections broke", func() bool { return g["a"].HeardByNode()["b"].At.After(at) })
}

func TestControl_Asks(t *testing.T) {
	n := link.Memory()
	g := group(t, n, "a", "b")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pgtest.Eventually(t, patience, "a connection", func() bool { _, err := g["a"].Read(ctx, "b:1"); return err == nil })
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			cmd := fmt.Sprintf(`"%d"`, i)
			if got, err := g["a"].Propose(ctx, "b:1", []byte(cmd)); err != nil || string(got) != cmd {
				t.Errorf("%s: %s, %v", cmd, got, err)
			}
		})
	}
	wg.Wait()
	g["b"].mu.Lock()
	slices.Sort(g["b"].proposed)
	if n := len(slices.Compact(g["b"].proposed)); n != 100 {
		t.Errorf("%d of 100 arrived", n)
	}
	g["b"].refuse = ledger.ErrNotLeader
	g["b"].mu.Unlock()
	if _, err := g["a"].Propose(ctx, "b:1", []byte("1")); !errors.Is(err, ledger.ErrNotLeader) {
		t.Errorf("not the leader: %v", err)
	}
	g["b"].mu.Lock()
	g["b"].refuse = errors.New("the disk is full")
	g["b"].mu.Unlock()
	if _, err := g["a"].Propose(ctx, "b:1", []byte("1")); err == nil || err.Error() != "the disk is full" {
		t.Errorf("refused: %v", err)
	}
	if _, err := g["a"].Read(ctx, "x:1"); !errors.Is(err, node.ErrUnreached) {
		t.Errorf("a stranger: %v", err)
	}
}

// A question whose answer cannot come ends with the asker's patience, or with
// the connection.
func TestControl_LostQuestion(t *testing.T) {
	n := link.Memory()
	g := group(t, n, "a", "b")
	pgtest.Eventually(t, patience, "a connection", func() bool { _, err := g["a"].Read(t.Context(), "b:1"); return err == nil })
	n.Cut("a", "b")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := g["a"].Read(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, n.CloseAll)
	if _, err := g["a"].Read(t.Context(), "b:1"); err == nil {
		t.Error("an answer out of nowhere")
	}
}

// A node cannot speak for another one, and garbage ends the connection.
func TestControl_RefusesImposters(t *testing.T) {
	n := link.Memory()
	g := group(t, n, "a")
	send := func(as string, b []byte) error {
		c, _, err := n.Node(as).Dial(t.Context(), "a:1", link.Control, "a")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}
	report := func(name string) []byte {
		var b bytes.Buffer
		body, _ := json.Marshal(decide.Report{Node: name, Store: "X"})
		if err := node.WriteMessage(&b, node.Message{Kind: "report", Body: body}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var unknown bytes.Buffer
	if err := node.WriteMessage(&unknown, node.Message{Kind: "order"}); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"another's report": report("b"),
		"unknown kind":     unknown.Bytes(),
		"length":           {0xff, 0xff, 0xff, 0x7f},
		"no json":          append([]byte{3, 0, 0, 0}, "{{{"...),
	} {
		if err := send("mallory", b); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the connection goes on: %v", name, err)
		}
	}
	if h := g["a"].HeardByNode(); len(h) != 0 {
		t.Errorf("heard %+v", h)
	}
}
