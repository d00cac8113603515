package sim

import "time"

// A host's clocks and pauses. Everything that a host measures is measured by
// one of its own three clocks; the world's time is nobody's.
type host struct {
	up       bool
	booted   time.Duration // world time of its start
	ahead    time.Duration // of its wall clock
	lost     time.Duration // what its clock since the start has missed in pauses
	frozen   time.Duration // until when the daemon's processes do not run
	paused   time.Duration // until when nothing runs
	stuck    time.Duration // until when the disk of its database does nothing
	stuckLog time.Duration // and that of its received log and promises
	hidden   bool          // of the present pause: its clocks did not go on either
	dropped  time.Duration // when the host was last lost
	gone     time.Duration // when its daemon last ended while the host lived
}

// wall is the node's time of day.
func (n *node) wall() time.Time { return n.w.at(n.w.now + n.host.ahead) }

// clock is the time since the host's start, as its daemon and its guard
// measure durations.
func (n *node) clock() time.Duration { return n.w.now - n.host.booted - n.host.lost }

// halted is until when the node's daemon, or its server, does not run; a time
// that has passed when it runs.
func (n *node) halted(daemon bool) time.Duration {
	if daemon {
		return max(n.host.frozen, n.host.paused)
	}
	return n.host.paused
}

// runs tells whether the daemon is there and gets the processor.
func (n *node) runs() bool { return n.daemon != nil && n.halted(true) <= n.w.now }

// later runs fn, of the daemon or of the server, as soon as it gets the
// processor.
func (n *node) later(daemon bool, fn func()) {
	if until := n.halted(daemon); until > n.w.now {
		n.w.after(until-n.w.now, func() { n.later(daemon, fn) })
		return
	}
	fn()
}

// after is a timer of the server.
func (n *node) after(d time.Duration, fn func()) {
	n.w.after(d, func() { n.later(false, fn) })
}

// after is a timer of the daemon; it dies with it.
func (d *daemon) after(t time.Duration, fn func()) {
	d.w.after(t, func() {
		d.n.later(true, func() {
			if d.alive() {
				fn()
			}
		})
	})
}

// freeze stops the daemon's processes for a while; its server and the guard go
// on.
func (n *node) freeze(d time.Duration) {
	n.w.trace("%s: daemon frozen for %s", n.name, d)
	n.host.frozen = max(n.host.frozen, n.w.now+d)
}

// pause stops the whole host for a while. A hidden pause is that of a virtual
// machine which does not notice: its clocks stand still, too, and its time of
// day is wrong until it is set.
func (n *node) pause(d time.Duration, hidden bool) {
	if n.host.paused > n.w.now || !n.host.up {
		return
	}
	n.w.trace("%s: host paused for %s, hidden %t", n.name, d, hidden)
	n.host.paused, n.host.hidden = n.w.now+d, hidden
	if hidden {
		// Nothing of the host looks at a clock before the pause is over.
		n.host.lost += d
		n.host.ahead -= d
		n.w.after(d+n.w.between(0, 3*time.Second), func() { n.host.ahead += d })
	}
}

// hang lets the host's disks do nothing for a while.
func (n *node) hang(d time.Duration) {
	n.w.trace("%s: disk hangs for %s", n.name, d)
	n.host.stuck = max(n.host.stuck, n.w.now+d)
	n.hangLog(d)
}

// hangLog lets the disk of the received log do nothing for a while.
func (n *node) hangLog(d time.Duration) { n.host.stuckLog = max(n.host.stuckLog, n.w.now+d) }

// disk is how long a write of the daemon to its own disk takes.
func (n *node) disk(lo, hi time.Duration) time.Duration {
	return n.w.between(lo, hi) + max(0, n.host.stuckLog-n.w.now)
}

// base is how long a write to the disk of the database takes.
func (n *node) base(lo, hi time.Duration) time.Duration {
	return n.w.between(lo, hi) + max(0, n.host.stuck-n.w.now)
}

// boot makes the host's clock begin anew.
func (n *node) boot() {
	if !n.host.up {
		n.host.up = true
		n.host.booted, n.host.lost = n.w.now-n.w.between(time.Second, 5*time.Second), 0
	}
}

// jump sets the host's time of day.
func (n *node) jump(to time.Duration) {
	n.w.trace("%s: its clock is set to %s ahead", n.name, to)
	n.host.ahead = to
}
