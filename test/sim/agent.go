package sim

import (
	"errors"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// The causes that end a role.
var (
	errSuperseded = errors.New("a newer epoch began")
	errElected    = errors.New("this node was elected")
)

// duty is a role being lived.
type duty struct {
	as role.Assignment
	p  *proc
}

// end leaves the role and waits until it is left.
func (d *daemon) end(p *proc, u *duty, cause error) {
	if u.p != nil {
		u.p.cancel(cause)
		for !u.p.done {
			p.rest(2 * time.Millisecond)
		}
	}
	*u = duty{}
}

// follow makes the node be what the ledger says, as the agent does.
func (d *daemon) follow(p *proc) {
	d.formAnew(p)
	for { // nothing is done on a state that is still being replayed
		st, err := d.read(p)
		if err == nil {
			for d.state().Version < st.Version {
				p.rest(10 * time.Millisecond)
			}
			break
		}
		p.rest(20 * time.Millisecond)
	}
	var cur duty
	for {
		st := d.state()
		if e, owed := role.Fence(st, d.n.sp.store, d.n.sp.fence); owed {
			late := d.w.mut.on(OwnCopyAfterFence)
			if cur.as.Kind == role.Primary && cur.as.Epoch.Less(e) && !late {
				d.end(p, &cur, errSuperseded)
			}
			if err := d.fence(p, e, st); err != nil {
				d.w.trace("%s: fence %s: %v", d.n.name, e, err)
			}
			if late && cur.as.Kind == role.Primary {
				p.rest(300 * time.Millisecond)
			}
			st = d.state()
		}
		d.maybeCopy(st)
		if want := role.Assigned(st, d.n.sp.store, d.n.marked != nil); want != cur.as {
			cause := errSuperseded
			if want.Kind == role.Primary && cur.as.Kind == role.Standby {
				cause = errElected
			}
			d.end(p, &cur, cause)
			d.w.trace("%s: role %s %s", d.n.name, want.Kind, want.Epoch)
			cur = duty{as: want, p: d.spawn(func(p *proc) { d.inside(p, want) })}
		}
		p.rest(100 * time.Millisecond)
	}
}

// inside is the role as a function.
func (d *daemon) inside(p *proc, as role.Assignment) {
	switch as.Kind {
	case role.Primary:
		d.role = decide.RolePrimary
		if err := d.primary(p, as.Epoch); err != nil && p.cause == nil {
			d.w.trace("%s: primary of %s ended: %v", d.n.name, as.Epoch, err)
			if d.server.Ended.Less(as.Epoch) {
				d.server.Ended = as.Epoch
			}
			d.server.State, d.server.Problem = decide.ServerStopped, err.Error()
		}
		d.role = decide.RoleNone
	case role.Standby:
		d.standby(p)
	case role.Restore:
		d.role = decide.RoleNone
		if d.n.pg != nil {
			d.stop(p, d.n.pg)
		}
		d.restoreGroup(p)
	case role.Hold:
		if s := d.n.pg; s != nil && (!s.primary || s.epoch.Less(d.state().Primary.Epoch)) {
			d.stop(p, s)
		}
	}
}

// probed adds what the daemon's probes of its disk and server find.
func (d *daemon) probed(s *decide.Server) {
	n := d.n
	s.Failing, s.FailingFor = "", 0
	if n.host.stuck <= n.w.now || d.hung == 0 {
		if d.hung = 0; n.host.stuck > n.w.now {
			d.hung = n.w.now
		}
		return
	}
	if hung := n.w.now - d.hung; hung >= d.state().Policy.StallTimeout {
		s.Failing, s.FailingFor = "its disk does not answer", hung
	}
}

// stop ends a server at once, in the time that signals take.
func (d *daemon) stop(p *proc, s *server) {
	p.rest(d.w.between(time.Millisecond, 20*time.Millisecond))
	s.end()
	d.server.State, d.server.Streaming = decide.ServerStopped, false
}

// fence promises e and reports what is durable here.
func (d *daemon) fence(p *proc, e pos.Epoch, st facts.State) error {
	n := d.n
	if s := n.pg; s != nil && s.primary && s.epoch.Less(e) && !d.w.mut.on(OwnCopyAfterFence) {
		d.stop(p, s)
	}
	lineage, lsn, err := d.recv.fence(p, e)
	if err != nil {
		return err
	}
	if st.Primary.Phase != facts.PhaseFencing || st.Primary.Epoch != e {
		return nil
	}
	rep, err := d.fenceReport(p, e, lineage, lsn)
	if err != nil {
		return err
	}
	rep.Voters = st.Voters.Version
	_, err = d.propose(p, 3*time.Second, facts.Command{ReportFence: &facts.ReportFence{FenceReport: rep}})
	return err
}

// fenceReport is the word of this node, whose received log ends at lsn. A
// database that was opened for writing here has a log of its own.
func (d *daemon) fenceReport(p *proc, e pos.Epoch, lineage pos.Lineage, lsn pos.LSN) (facts.FenceReport, error) {
	n := d.n
	rep := facts.FenceReport{Store: n.sp.store, Epoch: e, Lineage: lineage, LSN: lsn, Heard: d.heardOf()}
	rep.Timeline = lineage.TimelineAt(lsn)
	if n.givenUp() {
		return rep, errGivenUp
	}
	if !n.coming.spool {
		if n.past() == role.PastPrimary {
			if err := d.ownReport(p, &rep); err != nil {
				return rep, err
			}
		}
		if n.marked != nil {
			rep.Heard = min(rep.Heard, rep.LSN)
		}
	}
	if d.w.mut.on(OrderByMaker) {
		log := n.sp.log
		if rep.Opened {
			log = n.dir.wal
		}
		rep.Pos = made(log.cut(rep.LSN))
	}
	if rep.Timeline == 0 {
		rep.Timeline = max(n.dir.tli, 1)
	}
	return rep, nil
}

// ownReport speaks for the log of the own directory.
func (d *daemon) ownReport(p *proc, rep *facts.FenceReport) error {
	n, group := d.n, d.state().Lineage
	lineage := n.ownLineage()
	rep.Lineage, rep.Opened = lineage, true
	end, err := n.ownLog(lineage)
	if err != nil {
		return err
	}
	if begins(group, lineage, end) {
		lineage = group
		n.marked = &mark{epoch: n.marked.epoch, lineage: lineage}
		rep.Lineage = lineage
		if err := d.step(p); err != nil {
			return err
		}
	}
	rep.LSN, rep.Timeline = end, lineage.TimelineAt(end)
	return nil
}

// begins tells whether a log along a lineage, up to end, is exactly where a
// longer one goes on: nothing of that was written below end but what this log
// has, so it may be adopted.
func begins(longer, lineage pos.Lineage, end pos.LSN) bool {
	n := len(lineage)
	for n > 1 && lineage[n-1].Start == end { // nothing was written in those
		n--
	}
	lineage = lineage[:n]
	if n == 0 || len(longer) <= n || !slices.Equal(longer[:n], lineage) {
		return false
	}
	return !slices.ContainsFunc(longer[n:], func(e pos.Entry) bool { return e.Start != end || e.Timeline != lineage.Last().Timeline })
}

func (d *daemon) heardOf() pos.LSN { return d.recv.committed }

// ownLineage is the history of the log in the directory.
func (n *node) ownLineage() pos.Lineage {
	if n.marked != nil && len(n.marked.lineage) > 0 {
		return n.marked.lineage
	}
	return n.sp.lineage
}

// ownLog is the end of the log in the own pg_wal along a lineage, of which all
// is fsynced. Where the lineage goes to a timeline that the directory never
// had, there is no file to read.
func (n *node) ownLog(lineage pos.Lineage) (pos.LSN, error) {
	end := n.along(lineage)
	if end < lineage.Last().Start {
		return 0, errors.New("the directory has lost log")
	}
	n.dir.flushed = max(n.dir.flushed, end)
	return end, nil
}

func (n *node) along(lineage pos.Lineage) pos.LSN {
	end := n.dir.wal.recordEnd(n.dir.wal.end)
	for _, e := range lineage {
		if e.Timeline > n.dir.tli {
			return min(end, e.Start)
		}
	}
	return end
}

// maybeCopy copies what the group asks this node to copy.
func (d *daemon) maybeCopy(st facts.State) {
	p, sp := st.Primary, &d.n.sp
	if p.Phase != facts.PhaseFencing || p.Copy == nil || p.Copy.Store != sp.store || sp.fence != p.Epoch || d.copying == p.Epoch {
		return
	}
	d.copying = p.Epoch
	d.spawn(func(q *proc) {
		if err := d.copyFrom(q, st); err != nil {
			d.w.trace("%s: copy: %v", d.n.name, err)
		}
		if d.copying == p.Epoch {
			d.copying = pos.Epoch{}
		}
	})
}

func (d *daemon) copyFrom(q *proc, st facts.State) error {
	p, sp := st.Primary, &d.n.sp
	f := p.Fence[p.Copy.Donor]
	n := 0
	for n < len(f.Lineage) && n < len(st.Lineage) && f.Lineage[n] == st.Lineage[n] {
		n++
	}
	var donor *node
	for _, o := range d.w.nodes {
		if o.sp.store == p.Copy.Donor {
			donor = o
		}
	}
	d.step(q)
	q.rest(d.w.between(5*time.Millisecond, 100*time.Millisecond))
	now := d.state().Primary
	if donor == nil || donor.daemon == nil || !d.w.net.both(d.n.i, donor.i) || now.Epoch != p.Epoch || now.Phase != facts.PhaseFencing || sp.fence != p.Epoch {
		return errors.New("the donor cannot be reached, or the group went on")
	}
	from := donor.sp.log
	if donor.past() == role.PastPrimary {
		from = donor.dir.wal
	}
	if err := sp.adopt(st.Lineage[:n], sp.fence); err != nil {
		return err
	}
	if upto := min(f.Pos.LSN, from.end); upto > sp.log.end {
		joined, ok := sp.log.join(from.slice(sp.log.end, upto))
		if !ok || from.mark(sp.log.end) != sp.log.mark(sp.log.end) {
			return errors.New("the donor's log does not join")
		}
		sp.log, sp.durable = joined, upto
	}
	return d.fence(q, p.Epoch, d.state())
}

// report is what this node says of itself.
func (d *daemon) report() decide.Report {
	n, sp := d.n, &d.n.sp
	r := decide.Report{
		Node: n.name, Store: sp.store, Kind: string(n.kind), Boot: string(rune('a' + d.life%26)), Seq: d.seq, SentAt: n.wall(), Clock: n.clock(),
		Address: n.name + ":1", HTTP: n.name + ":2", Ledger: n.ledger.id, Generation: n.ledger.gen, Role: d.role, Epoch: sp.lineage.Last().Epoch, Fence: sp.fence,
		Received: sp.log.end, Durable: d.recv.durable(), Applied: d.recv.applied, Committed: d.recv.committed,
		Server: d.server, Hears: d.hears(), Stream: d.recv.stream(),
	}
	d.probed(&r.Server)
	if s := n.pg; s != nil && !s.primary {
		r.Server.Streaming = s.rcv != nil
	}
	if sp.log.base != 0 {
		r.Spool = decide.Spool{From: sp.log.base, End: sp.log.end}
	}
	if d.run != nil {
		d.run.say(&r)
	}
	return r
}

// decide is the controller: it decides for the group while it leads.
func (d *daemon) decide(p *proc) {
	l := d.n.ledger
	for {
		for k := 0; k < 8 && l.leader == d.n.i && l.ready; k++ {
			plan := decide.Decide(d.observe(d.state()))
			if plan.Empty() || !d.carryOut(p, plan) {
				break
			}
		}
		p.rest(100 * time.Millisecond)
	}
}

func (d *daemon) carryOut(p *proc, plan decide.Plan) bool {
	for _, a := range plan.Actions {
		if a.Command != nil {
			c := *a.Command
			if b := c.BeginEpoch; b != nil { // the checks ask for the rule
				with := *b
				with.Decision, c.BeginEpoch = plan.Rule, &with
			}
			if _, err := d.propose(p, 3*time.Second, c); err != nil {
				return false
			}
			continue
		}
		if a.Transfer != "" {
			d.transfer = d.n.clock()
		}
		p.rest(d.w.between(time.Millisecond, 5*time.Millisecond))
		if !d.n.ledger.raft(d.n.i, a) {
			d.w.trace("%s: not carried out: %s", d.n.name, plan.Rule)
			return false
		}
	}
	d.w.trace("%s: decided %s: %s", d.n.name, plan.Rule, plan.Why)
	return true
}
