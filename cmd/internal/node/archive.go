package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"

	"understudy/cmd/internal/places"
	"understudy/cmd/internal/worker"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/link"
	"understudy/shipper/location"
	"understudy/shipper/location/peer"
	"understudy/shipper/pos"
)

// servePlace gives another node what it asks of a location that is this
// node's own.
func (n *Node) servePlace(ctx context.Context, c net.Conn, from link.Peer) {
	st := n.ledger.State()
	o := places.Opener{Node: n.cfg.Name, Secret: places.SecretsOf(n.cfg), Plain: true}
	err := peer.Serve(ctx, c, func(name string) (location.Location, error) {
		p, ok := st.Policy.Locations[name]
		if !ok || p.Node != n.cfg.Name {
			return nil, fmt.Errorf("%w: %s has no location %q", location.ErrRefused, n.cfg.Name, name)
		}
		return o.Open(name, p)
	})
	if err != nil && ctx.Err() == nil {
		n.log.Info("connection for a location ended", "from", from.Node, "error", err)
	}
}

// recorded is the history of which the ledger knows that it took place: an
// epoch that has not opened yet may come to nothing, and its timeline with it.
func recorded(st facts.State) pos.Lineage {
	l := st.Lineage
	if n := len(l); n > 1 && st.Primary.Phase != facts.PhaseOpened && l[n-1].Epoch == st.Primary.Epoch {
		l = l[:n-1]
	}
	return l
}

// walUpdate is what the archive's worker has to know of the log on this node.
func (n *Node) walUpdate(st facts.State) worker.Update {
	u := worker.Update{Lineage: recorded(st), Flush: awaited(st)}
	if run := n.primaryRun(); run != nil {
		u.Dir, u.Committed = n.plane.walDir(), run.Snapshot().Committed
		return u
	}
	snap := n.receiver.Snapshot()
	u.Dir, u.Committed = filepath.Join(spoolDir(n.cfg), "wal"), min(snap.Committed, n.spool.Durable())
	return u
}

// awaited is the highest end of a complete set: whoever took it waits until the
// log up to there is at the locations.
func awaited(st facts.State) (lsn pos.LSN) {
	if o := st.Order; o != nil && o.Restore != nil && !o.Reformed {
		lsn = o.Restore.Upto // and a restore of the group waits for the last log
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	for _, s := range c.Sets {
		if s.State == catalog.SetComplete {
			lsn = max(lsn, s.End)
		}
	}
	return lsn
}

// archiveSpec is what the archive's worker of this node is started with; nil
// while there is no log here.
func (n *Node) archiveSpec(st facts.State, locations []string) *worker.Spec {
	if n.spool.Base() == 0 && n.primaryRun() == nil {
		return nil
	}
	s := n.baseSpec(st)
	s.Task, s.Catalog = worker.TaskArchive, nil
	maps.DeleteFunc(s.Locations, func(name string, _ facts.LocationPolicy) bool { return !slices.Contains(locations, name) })
	s.Archive = &worker.Archive{Store: n.spool.Store(), Update: n.walUpdate(st)}
	oldest := n.oldestWAL(st)
	for _, l := range locations {
		s.Archive.Feeds = append(s.Archive.Feeds, feedOf(st, l, oldest))
	}
	return &s
}

// oldestWAL is the first byte of log that this node can give.
func (n *Node) oldestWAL(st facts.State) pos.LSN {
	if run := n.primaryRun(); run != nil {
		o := &oldestLog{dir: n.plane.walDir(), segSize: run.segSize, timeline: st.Lineage.Last().Timeline}
		return o.get()
	}
	return n.spool.Base()
}

// feedOf is from where on a location is to have the log: it goes on where the
// newest stretch along the present history began. One that has none begins with
// all that this node still has, since the next backup may need log from before
// it was ordered.
func feedOf(st facts.State, name string, oldest pos.LSN) worker.Feed {
	if span, ok := newestSpan(st, name); ok {
		return worker.Feed{Location: name, From: span.From}
	}
	return worker.Feed{Location: name, From: oldest, New: true}
}

// newestSpan is the furthest stretch of the present history at a location.
func newestSpan(st facts.State, name string) (span catalog.Span, ok bool) {
	c, _ := st.Catalog(facts.ProfilePostgres)
	lin := recorded(st)
	for _, s := range c.Places[name].WAL {
		if s.To > s.From && lin.TimelineAt(s.To-1) == s.Timeline && s.To >= span.To {
			span, ok = s, true
		}
	}
	return span, ok
}

// stored is the lowest end of the log at the enabled locations, and which one
// that is: nobody is to forget log before all of them have it. One that has
// nothing yet holds nothing back.
func (n *Node) stored() (lowest pos.LSN, where string) {
	st := n.ledger.State()
	for _, name := range slices.Sorted(maps.Keys(st.Policy.Locations)) {
		span, ok := newestSpan(st, name)
		if p := st.Policy.Locations[name]; !ok || p.Disabled || p.Tier == facts.TierCold {
			continue
		}
		if where == "" || span.To < lowest {
			lowest, where = span.To, name
		}
	}
	return lowest, where
}

// baseSpec is what every worker has to know.
func (n *Node) baseSpec(st facts.State) worker.Spec {
	s := worker.Spec{
		Config: n.cfg.File(), Program: n.version, Group: st.Group, Profile: facts.ProfilePostgres, Lineage: recorded(st),
		Members: map[string]string{}, Locations: maps.Clone(st.Policy.Locations), Policy: st.Policy.Backups(),
	}
	for _, m := range st.Members {
		s.Members[m.Name] = m.Address
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	s.Catalog = &c
	return s
}

var errNoServer = errors.New("this node has no PostgreSQL")
