package sim

import "time"

// network carries messages between nodes. Those of a pair arrive in order,
// unless they are lost or repeated late; the layers above must cope.
type network struct {
	w    *world
	cut  [3][3]bool // from, to
	last [3][3]time.Duration
	drop float64
	dup  float64
	slow time.Duration // longest usual delay
}

// send runs fn at the node to, in the daemon that runs there then.
func (n *network) send(from, to int, fn func(d *daemon)) {
	w := n.w
	if n.cut[from][to] || w.chance(n.drop) {
		return
	}
	at := max(w.now+w.between(100*time.Microsecond, n.slow), n.last[from][to])
	n.last[from][to] = at
	deliver := func() {
		if d := w.nodes[to].daemon; d != nil && !n.cut[from][to] {
			fn(d)
		}
	}
	w.after(at-w.now, deliver)
	if w.chance(n.dup) {
		w.after(at-w.now+w.between(time.Millisecond, 2*time.Second), deliver)
	}
}

// both tells whether two nodes reach each other.
func (n *network) both(a, b int) bool { return !n.cut[a][b] && !n.cut[b][a] }

func (n *network) heal() { n.cut = [3][3]bool{} }

// isolate cuts a node off: what it sends, what it is sent, or both.
func (n *network) isolate(i int, out, in bool) {
	for j := range n.w.nodes {
		if j != i {
			n.cut[i][j] = n.cut[i][j] || out
			n.cut[j][i] = n.cut[j][i] || in
		}
	}
}
