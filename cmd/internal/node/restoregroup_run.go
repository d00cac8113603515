package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby/recover"
)

// groupProgress is what restoreStatus tells.
type groupProgress struct {
	mu   sync.Mutex
	doc  doc.GroupRestore
	gone bool // the store was given up; of watchRestore only
}

func (g *groupProgress) set(f func(*doc.GroupRestore)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.doc)
}

func (n *Node) restoreStatus() doc.GroupRestore {
	n.restore.mu.Lock()
	defer n.restore.mu.Unlock()
	out := n.restore.doc
	st := n.ledger.State()
	o := st.Order
	if o == nil || o.Kind != facts.OrderRestore {
		return doc.GroupRestore{}
	}
	out.ID, out.Node, out.Target, out.Stage = o.ID, st.NameOf(o.To), o.Restore.Target.String(), string(o.Restore.Stage)
	if o.Reformed {
		out.Step = "opening"
	}
	return out
}

// atStep lets a test interrupt a restore.
func (n *Node) atStep(name string) {
	n.restore.set(func(d *doc.GroupRestore) { d.Step = strings.TrimPrefix(name, "restore-") })
	if n.step != nil {
		n.step(name)
	}
}

// groupRestoreFile is what this node does for an order; it outlives the daemon.
func (n *Node) groupRestoreFile() string { return filepath.Join(n.cfg.StateDir, "restoregroup.json") }

// groupRestore is its content.
type groupRestore struct {
	Order    string       `json:"order"`
	Timeline pos.Timeline `json:"timeline"`
	Prepared prepared     `json:"prepared"`
}

func (n *Node) readGroupRestore() (*groupRestore, error) {
	b, err := os.ReadFile(n.groupRestoreFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	g := &groupRestore{}
	return g, json.Unmarshal(b, g)
}

func (n *Node) writeGroupRestore(g groupRestore) error {
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return writeWhole(n.groupRestoreFile(), b)
}

// restoreGroup restores this node's database while the ledger's order says so.
// It is the role of the node that restores: nobody else works on the directory.
func (n *Node) restoreGroup(ctx context.Context) {
	pause := 200 * time.Millisecond
	told := ""
	for ctx.Err() == nil {
		over, err := n.restoreStep(ctx)
		if ctx.Err() != nil || over {
			return
		}
		n.restore.set(func(d *doc.GroupRestore) { d.Problem = problemText(err) })
		if err == nil {
			pause = 200 * time.Millisecond
			continue
		}
		if told != err.Error() && !errors.Is(err, errFenceFirst) {
			told = err.Error()
			n.notify("restore-waits", facts.SeverityError, "the restore of the group does not go on, and is tried again: "+told, n.plane.Promised())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

var errFenceFirst = errors.New("a majority has not fenced yet")

// restoreStep takes one step. over tells that this life has nothing more to do
// for it.
func (n *Node) restoreStep(ctx context.Context) (over bool, err error) {
	rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	st, err := n.ledger.Read(rctx)
	cancel()
	if err != nil {
		return false, fmt.Errorf("no majority of the group can be asked: %w", err)
	}
	o, ok := st.Restoring()
	if !ok || o.To != n.spool.Store() || st.Primary.Phase != facts.PhaseFencing {
		return false, errors.New("the order was withdrawn")
	}
	switch o.Restore.Stage {
	case facts.RestoreStopping:
		return false, n.beginRewriting(ctx, st, o)
	case facts.RestoreRewriting:
		return false, n.rewrite(ctx, st, o)
	}
	return n.leaveRestored(ctx, st, o)
}

// beginRewriting plans with the stopped database, and gives everything up when
// that cannot work.
func (n *Node) beginRewriting(ctx context.Context, st facts.State, o facts.Order) error {
	if !st.FenceMajority() {
		return errFenceFirst
	}
	if n.agent.Guarded() {
		return errors.New("the server of this node still runs")
	}
	w, err := n.prepare(ctx, st, o.Restore.Target, o.Restore.Set, false)
	switch {
	case errors.Is(err, catalog.ErrImpossible), errors.Is(err, recover.ErrRefused), errors.Is(err, recover.ErrOccupied):
		return n.giveUpRestore(ctx, o, err)
	case err != nil:
		return err
	}
	w.close()
	g := groupRestore{Order: o.ID, Timeline: freeTimeline(st), Prepared: *w}
	if err := n.writeGroupRestore(g); err != nil {
		return err
	}
	n.atStep("restore-planned")
	return n.advance(ctx, o, facts.AdvanceRestore{Stage: facts.RestoreRewriting, Timeline: g.Timeline})
}

// freeTimeline is above every id of which anybody has heard.
func freeTimeline(st facts.State) pos.Timeline {
	top := st.LastTimeline
	if c, ok := st.Catalog(facts.ProfilePostgres); ok {
		for t := range c.Timelines {
			top = max(top, t)
		}
	}
	return top + 1
}

// rewrite restores the files and runs the recovery. From its first act on the
// directory is marked as no database, whatever lies in it.
func (n *Node) rewrite(ctx context.Context, st facts.State, o facts.Order) error {
	g, err := n.readGroupRestore()
	if err == nil && (g == nil || g.Order != o.ID || g.Timeline != o.Restore.Timeline) {
		g, err = n.planAgain(ctx, st, o)
	}
	if err != nil {
		return err
	}
	if err := n.agent.GiveForRestore(); err != nil {
		return err
	}
	n.atStep("restore-files")
	sources, err := n.restoreSources(st, g.Prepared.Choice)
	if err != nil {
		return err
	}
	w := prepared{Choice: g.Prepared.Choice, Plan: g.Prepared.Plan, sources: sources}
	defer w.close()
	if err := n.restoreFiles(ctx, w); err != nil {
		return err
	}
	n.atStep("restore-log")
	reached, err := n.replay(ctx, st, w, g.Timeline)
	if err != nil {
		return err
	}
	if reached.Timeline != g.Timeline {
		n.notify("restore-timeline", facts.SeverityWarning, fmt.Sprintf("the restored database went to timeline %d instead of %d; it is restored again, to another one", reached.Timeline, g.Timeline), st.Primary.Epoch)
		return n.advance(ctx, o, facts.AdvanceRestore{Stage: facts.RestoreRewriting, Timeline: max(freeTimeline(st), reached.Timeline+1)})
	}
	// From there on there is no way back: the way on has to be known first.
	if _, err := n.restoredAs(finished(st, o), o); err != nil {
		return fmt.Errorf("the group could not be formed anew with what was restored: %w", err)
	}
	n.atStep("restore-final")
	return n.advance(ctx, o, facts.AdvanceRestore{Stage: facts.RestoreFinal})
}

// planAgain makes the plan for a timeline that was given out: the one before was
// taken, or its file is gone.
func (n *Node) planAgain(ctx context.Context, st facts.State, o facts.Order) (*groupRestore, error) {
	w, err := n.prepare(ctx, st, o.Restore.Target, o.Restore.Set, false)
	if err != nil {
		return nil, err
	}
	w.close()
	g := groupRestore{Order: o.ID, Timeline: o.Restore.Timeline, Prepared: *w}
	return &g, n.writeGroupRestore(g)
}

func (n *Node) restoreFiles(ctx context.Context, w prepared) error {
	if s, err := recover.Inspect(w.Plan.DataDir); err == nil && s.Plan.ID == w.Plan.ID && s.Startable {
		return nil // an earlier life came as far
	}
	_, err := recover.Execute(ctx, w.Plan, w.sources, recover.Options{Workers: 2, Log: n.log,
		Progress: func(p recover.Progress) {
			n.restore.set(func(d *doc.GroupRestore) { d.Step, d.DoneBytes, d.TotalBytes = "files", p.DoneBytes, p.TotalBytes })
		}})
	return err
}

func (n *Node) restoreSocket() string { return filepath.Join(n.cfg.WALSocketDir(), "restore.sock") }

// restoreCommand asks this daemon, on a socket of its own: the standby's gives
// only log of the group's present history.
func (n *Node) restoreCommand() string {
	return fmt.Sprintf(`"%s" wal-get --socket "%s" "%%f" "%%p"`, n.binary, n.restoreSocket())
}

// replay recovers the restored files to their target on a server that nobody
// can reach, and promotes it on the timeline that was given out.
func (n *Node) replay(ctx context.Context, st facts.State, w prepared, tli pos.Timeline) (recover.Reached, error) {
	known := pos.LSN(0)
	for _, s := range w.Choice.WAL {
		known = max(known, s.To)
	}
	dir := filepath.Join(n.cfg.StateDir, "restorelog")
	cfg := archive.FetchConfig{Root: w.sources.Root, SystemID: st.Group.SystemID, SegSize: st.Group.SegSize, Path: archive.PathFrom(w.Choice.Path),
		Known: known, AllowPartial: true, Dir: dir, Log: n.log}
	places := n.logPlaces(ctx, st, w)
	defer func() {
		for _, p := range places {
			_ = p.Location.Close() // nothing was written
		}
	}()
	cfg.Places = places
	f, err := archive.NewFetcher(cfg)
	if err != nil {
		return recover.Reached{}, err
	}
	defer os.RemoveAll(dir)
	defer f.Close()
	sctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- admin.ServeWAL(sctx, n.restoreSocket(), admin.WALHandler(giveLog(f, dir)), []uint32{n.server.Account.UID, uint32(os.Geteuid())})
	}()
	defer func() { stop(); <-served }()
	s := &pgctl.Scratch{
		Install: n.server.Install, Account: n.server.Account, DataDir: n.server.DataDir, SocketDir: filepath.Join(n.cfg.RunDir, "restore"), Port: n.server.Port,
		LogFile: filepath.Join(n.server.StateDir, "restore.log"), Alive: func() uint64 { return uint64(f.Given()) }, Log: n.log,
	}
	return recover.Complete(ctx, w.Plan, n.restoreEngine(s, w.Choice.Timeline(), tli), recover.CompleteOptions{To: w.Choice.Stop})
}

// placeAnswers is how long a location may take to say anything.
const placeAnswers = 10 * time.Second

// logPlaces opens the locations whose log is replayed. One that does not answer
// may have more than the others, so a recovery to the end of the log waits for
// it, unless the operator gave up what cannot be had. Any other target is
// either reached with what the others have, or the recovery fails.
func (n *Node) logPlaces(ctx context.Context, st facts.State, w prepared) []archive.Place {
	must := w.Choice.Target.Kind == catalog.Latest
	if o, ok := st.Restoring(); ok && o.Restore.Unarchived {
		must = false
	}
	var out []archive.Place
	for _, name := range n.readable(st) {
		l, err := n.placesFor(st).Open(name, st.Policy.Locations[name])
		if err == nil && !must {
			err = n.answers(ctx, l, w.sources.Root.Timeline(w.Choice.Timeline()))
			if err != nil {
				_ = l.Close()
			}
		}
		if err != nil {
			n.log.Warn("restore without the log of a location", "location", name, "error", err)
			continue
		}
		out = append(out, archive.Place{Name: name, Location: l})
	}
	return out
}

// answers tells whether a location can be read at all.
func (n *Node) answers(ctx context.Context, l location.Location, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, placeAnswers)
	defer cancel()
	one := errors.New("one is enough")
	err := l.List(ctx, prefix, func(location.Info) error { return one })
	if errors.Is(err, one) || errors.Is(err, location.ErrNotExist) {
		return nil
	}
	return err
}

// giveLog answers the recovering server from the fetcher. Each file goes through
// one of ours, since the server's directory is not ours to write to.
func giveLog(f *archive.Fetcher, dir string) func(context.Context, string, io.Writer) error {
	return func(ctx context.Context, name string, w io.Writer) error {
		tmp, err := os.MkdirTemp(filepath.Dir(dir), "restorelog-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		path := filepath.Join(tmp, name)
		switch err := f.Get(ctx, name, path); {
		case errors.Is(err, archive.ErrNotExist):
			return admin.ErrNotYet
		case errors.Is(err, archive.ErrUnknown), errors.Is(err, archive.ErrNotYet):
			return fmt.Errorf("%w: %w", admin.ErrLedgerUnknown, err)
		case err != nil:
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(w, in)
		return err
	}
}

// restoreEngine is the recovering server: before it promotes, all ids between
// are used up in its pg_wal.
func (n *Node) restoreEngine(s *pgctl.Scratch, along, tli pos.Timeline) recover.Engine {
	srv := &pgctl.Server{Install: s.Install, Account: s.Account, DataDir: s.DataDir}
	return recover.Engine{
		Recover: func(ctx context.Context, set map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
			if err := srv.BurnTimelines(along, tli); err != nil && !errors.Is(err, pgctl.ErrTimelineTaken) {
				return recover.Reached{}, err // taken: an earlier life was promoted; the id is compared afterwards
			}
			got, err := s.Recover(ctx, set, seen)
			if err == nil {
				n.atStep("restore-promoted")
			}
			return recover.Reached{LSN: got.LSN, Time: got.Time, Timeline: got.Timeline, Stop: got.Stop}, err
		},
		Stop: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			return s.Stop(ctx)
		},
		Renew: s.Renew,
	}
}

// leaveRestored writes down that this node forms the group anew with the
// restored database, and ends this life. The ledger knows already that nobody
// else will ever go on.
func (n *Node) leaveRestored(ctx context.Context, st facts.State, o facts.Order) (bool, error) {
	restored, err := n.restoredAs(st, o)
	if err != nil {
		return false, err
	}
	srv := n.server
	if err := srv.UnburnTimelines(o.Restore.Along, o.Restore.Timeline); err != nil {
		return false, err
	}
	r := reformation{State: st, LedgerID: randomID(), Statement: o.Statement, At: time.Now().UTC(), Restored: &restored}
	b, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	if err := n.takeDirectory(&r); err != nil {
		return false, err
	}
	if err := recover.Forget(n.server.DataDir); err != nil { // or every base taken from here would have it
		return false, err
	}
	n.atStep("restore-taken")
	if err := writeWhole(reformFile(n.cfg), b); err != nil {
		return false, err
	}
	n.atStep("restore-reform")
	if err := os.Remove(n.groupRestoreFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.log.Warn("remove the plan of the restore", "error", err)
	}
	n.notify("reform", facts.SeverityError, "the group is formed anew with the restored database of "+n.cfg.Name+" on the operator's word", st.Primary.Epoch)
	n.later(errRenewKeep)
	return true, nil
}

// restoredAs is what the ledger will be told of the restored database, by a state
// in which the restore is final.
func (n *Node) restoredAs(st facts.State, o facts.Order) (facts.Restored, error) {
	fork, err := forkOf(n.plane.walDir(), o.Restore.Along, o.Restore.Timeline)
	if err != nil {
		return facts.Restored{}, err
	}
	cat, _ := st.Catalog(facts.ProfilePostgres)
	path, err := cat.Path(o.Restore.Along)
	if err != nil {
		return facts.Restored{}, err
	}
	r := facts.Restored{Path: path, Fork: fork}
	_, err = st.RestoredLineage(r)
	return r, err
}

// finished is a state as it will be when the order's restore is final.
func finished(st facts.State, o facts.Order) facts.State {
	r := *o.Restore
	r.Stage = facts.RestoreFinal
	o.Restore = &r
	st.Order = &o
	return st
}

// forkOf is where a timeline left the one before it, by its own history file.
func forkOf(dir string, along, tli pos.Timeline) (pos.LSN, error) {
	b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%08X.history", uint32(tli))))
	if err != nil {
		return 0, fmt.Errorf("read where timeline %d begins: %w", tli, err)
	}
	lines, err := archive.ParseHistory(bytes.TrimSpace(b))
	if err != nil {
		return 0, err
	}
	if len(lines) == 0 || lines[len(lines)-1].Timeline != along {
		return 0, fmt.Errorf("timeline %d did not leave timeline %d", tli, along)
	}
	return lines[len(lines)-1].End, nil
}

// takeDirectory makes the restored directory one that this node has written
// itself.
func (n *Node) takeDirectory(r *reformation) error {
	l, err := r.State.RestoredLineage(*r.Restored)
	if err != nil {
		return err
	}
	return n.agent.TakeRestored(l)
}

// takeRestored begins the received log anew before the new ledger does: what it
// holds is of a history that was left. It may be called again after a crash.
func (n *Node) takeRestored(ctx context.Context, r *reformation) error {
	if r.Restored == nil {
		return nil
	}
	if err := n.takeDirectory(r); err != nil {
		return err
	}
	l, err := r.State.RestoredLineage(*r.Restored)
	if err != nil {
		return err
	}
	c, err := n.server.Control(ctx)
	if err != nil {
		return err
	}
	if c.Timeline != l.Last().Timeline || !c.CleanShutdown() {
		return fmt.Errorf("the restored database is on timeline %d and %s, expected is timeline %d after a regular stop", c.Timeline, c.State, l.Last().Timeline)
	}
	return renewLog(n.spool, c, l)
}

// renewLog empties the received log and gives it another history.
func renewLog(sp *spool.Spool, c pgctl.Control, l pos.Lineage) error {
	base := c.Redo.SegStart(c.SegSize)
	var err error
	if sp.Meta().Base == 0 {
		err = sp.Begin(c.SystemID, c.SegSize, base)
	} else {
		err = sp.Reset(base)
	}
	if err != nil {
		return err
	}
	fence := sp.Fence()
	if fence.Less(l.Last().Epoch) {
		fence = l.Last().Epoch
	}
	return sp.Adopt(l, fence)
}
