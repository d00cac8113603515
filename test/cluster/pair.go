package cluster

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Pair is a group of main and backup only. Each is reached by the other through
// a link of the test, which can be cut. Of the embedded Group only what does not
// need a witness may be used.
type Pair struct {
	*Group
	links []*cutLink
}

// NewPair makes a pair with main as its founder and starts both daemons. The
// primary goes on alone after the given time without its standby.
func NewPair(t testing.TB, aloneAfter time.Duration, opts ...Option) *Pair {
	t.Helper()
	p := &Pair{Group: New(t, append(opts, WithoutStart())...)}
	w := p.Witness
	for n, behind := range map[*Node]int{p.Main: w.Port, p.Backup: w.HTTPPort} {
		n.Edit(t, fmt.Sprintf("  - {name: %s, address: \"127.0.0.1:%d\"}\n", Witness, w.LinkPort), "")
		n.Edit(t, fmt.Sprintf("listen: 127.0.0.1:%d\n", n.LinkPort), fmt.Sprintf("listen: 127.0.0.1:%d\nadvertise: 127.0.0.1:%d\n", behind, n.LinkPort))
		p.links = append(p.links, newCutLink(t, n.LinkPort, behind))
	}
	p.Start(t)
	p.WaitOpen(t, p.Main)
	policy := filepath.Join(p.Main.Dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("pair_alone_after: "+aloneAfter.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Main.MustRun(t, "policy", "apply", policy)
	return p
}

// Start starts the daemons that do not run.
func (p *Pair) Start(t testing.TB) {
	t.Helper()
	for _, n := range []*Node{p.Main, p.Backup} {
		if !n.Running() {
			n.Start(t)
		}
	}
}

// WaitOpen waits until n is the open primary, by its own word.
func (p *Pair) WaitOpen(t testing.TB, n *Node) Status {
	t.Helper()
	return n.WaitStatus(t, healthyWithin, "open", func(s Status) bool {
		return s.Group.Phase == "opened" && s.Group.Primary == n.Name && s.Of(n.Name).Server.State == "open"
	})
}

// WaitTogether waits until a commit needs both hosts, by the word of each of
// them, and the primary alone keeps the ledger.
func (p *Pair) WaitTogether(t testing.TB) Status {
	t.Helper()
	var st Status
	for _, n := range []*Node{p.Main, p.Backup} {
		st = n.WaitStatus(t, healthyWithin, "a pair together", Status.Together)
	}
	return st
}

// Together tells whether commits of a pair are on both hosts.
func (s Status) Together() bool {
	if s.Group.Safe.Level != "safe" || len(s.Nodes) != 2 {
		return false
	}
	for _, n := range s.Nodes {
		if !n.WALVoter || n.LedgerVoter != (n.Name == s.Group.Primary) {
			return false
		}
	}
	return true
}

// WaitAlone waits until n says that it goes on alone.
func (p *Pair) WaitAlone(t testing.TB, n *Node) Status {
	t.Helper()
	return n.WaitStatus(t, 30*time.Second, "alone", func(s Status) bool { return s.Group.Safe.Rule == "alone" && s.Group.Primary == n.Name })
}

// Order makes n primary by an order given on a node, and fails the test when it
// does not become that.
func (p *Pair) Order(t testing.TB, on, to *Node, args ...string) Change {
	t.Helper()
	return on.changed(t, to, append(args, "--to", to.Name)...)
}

// Cut makes the two deaf to each other: what they send is lost, and connections
// stand.
func (p *Pair) Cut() {
	for _, l := range p.links {
		l.set(true)
	}
}

// Heal ends Cut. The connections of before break.
func (p *Pair) Heal() {
	for _, l := range p.links {
		l.set(false)
	}
}

// cutLink passes connections on, or loses what they carry.
type cutLink struct {
	to string

	mu   sync.Mutex
	cut  bool
	open map[net.Conn]bool
}

func newCutLink(t testing.TB, port, to int) *cutLink {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	l := &cutLink{to: net.JoinHostPort("127.0.0.1", strconv.Itoa(to)), open: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.note(c, true)
			wg.Go(func() { l.pass(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		l.drop()
		wg.Wait()
	})
	return l
}

func (l *cutLink) note(c net.Conn, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open {
		l.open[c] = true
	} else {
		delete(l.open, c)
		c.Close()
	}
}

func (l *cutLink) isCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

func (l *cutLink) set(cut bool) {
	l.mu.Lock()
	l.cut = cut
	l.mu.Unlock()
	if !cut {
		l.drop()
	}
}

func (l *cutLink) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Close()
	}
}

// pass is one connection's life.
func (l *cutLink) pass(in net.Conn) {
	defer l.note(in, false)
	if l.isCut() {
		io.Copy(io.Discard, in) // nobody answers
		return
	}
	out, err := net.DialTimeout("tcp", l.to, time.Second)
	if err != nil {
		return
	}
	l.note(out, true)
	defer l.note(out, false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.pump(in, out)
	}()
	l.pump(out, in)
	<-done
}

// pump copies until either end closes, and ends both.
func (l *cutLink) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !l.isCut() {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
