package sim

import "time"

// maxNodes is how many nodes a group of the model may have.
const maxNodes = 5

// network carries messages between nodes. Those of a pair arrive in order,
// unless they are lost or repeated late; the layers above must cope.
type network struct {
	w    *world
	cut  [maxNodes][maxNodes]bool // from, to
	mute [maxNodes][maxNodes]bool // for reports only: their connection is stuck
	hold bool                     // what is cut arrives when the way is there again, as TCP has it
	held []func()
	last [maxNodes][maxNodes]time.Duration
	drop float64
	dup  float64
	slow time.Duration // longest usual delay
}

// send runs fn at the node to, in the daemon that runs there then. What comes
// while that one is frozen waits for it.
func (n *network) send(from, to int, fn func(d *daemon)) {
	w := n.w
	if n.cut[from][to] {
		n.keep(from, to, fn)
		return
	}
	if w.chance(n.drop) {
		return
	}
	at := max(w.now+w.between(100*time.Microsecond, n.slow), n.last[from][to])
	n.last[from][to] = at
	deliver := func() {
		if n.cut[from][to] {
			n.keep(from, to, fn)
			return
		}
		if d := w.nodes[to].daemon; d != nil {
			w.nodes[to].later(true, func() {
				if d.alive() {
					fn(d)
				}
			})
		}
	}
	w.after(at-w.now, deliver)
	if w.chance(n.dup) {
		w.after(at-w.now+w.between(time.Millisecond, 2*time.Second), deliver)
	}
}

// maxHeld bounds what waits for a way to be there again.
const maxHeld = 4000

func (n *network) keep(from, to int, fn func(d *daemon)) {
	if n.hold && len(n.held) < maxHeld {
		sent := n.w.now
		n.held = append(n.held, func() {
			if n.w.nodes[from].host.dropped <= sent { // else it is lost with the sender's host
				n.send(from, to, fn)
			}
		})
	}
}

// report sends what goes over the connection of reports.
func (n *network) report(from, to int, fn func(d *daemon)) {
	if !n.mute[from][to] {
		n.send(from, to, fn)
	}
}

// both tells whether two nodes reach each other.
func (n *network) both(a, b int) bool { return !n.cut[a][b] && !n.cut[b][a] }

// heal ends all cuts.
func (n *network) heal() {
	n.cut, n.mute = [maxNodes][maxNodes]bool{}, [maxNodes][maxNodes]bool{}
	held := n.held
	n.held = nil
	for _, again := range held {
		again()
	}
}

// isolate cuts a node off: what it sends, what it is sent, or both.
func (n *network) isolate(i int, out, in bool) {
	for j := range n.w.nodes {
		if j != i {
			n.cut[i][j] = n.cut[i][j] || out
			n.cut[j][i] = n.cut[j][i] || in
		}
	}
}

// between cuts two nodes off from each other.
func (n *network) between(a, b int) { n.cut[a][b], n.cut[b][a] = true, true }
