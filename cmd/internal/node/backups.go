package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
)

// jobsDir is where this node keeps the folders of its jobs.
func (n *Node) jobsDir() string { return filepath.Join(n.cfg.StateDir, "jobs") }

// JobDir is the folder of one job.
func (n *Node) JobDir(id string) string { return filepath.Join(n.jobsDir(), id) }

// AuditFile is this node's copy of the group's audit.
func (n *Node) AuditFile() string { return filepath.Join(n.cfg.StateDir, "audit.jsonl") }

// spaceWait bounds the question for the room at a directory.
const spaceWait = 500 * time.Millisecond

// Space is the room in a local directory of this node; of other places nothing
// is said, since they would have to be asked.
func (n *Node) Space(ctx context.Context, name string) (location.Space, bool) {
	p, ok := n.ledger.State().Policy.Locations[name]
	if !ok || p.Kind != facts.LocationLocal || p.Node != n.cfg.Name {
		return location.Space{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, spaceWait)
	defer cancel()
	l := local.New(p.Path)
	defer l.Close()
	space, err := l.Space(ctx)
	return space, err == nil
}

// Retention is what a prune of all locations would do now.
func (n *Node) Retention() retention.Plan {
	return retention.Make(retentionInput(n.ledger.State(), time.Now()))
}

// Needed says whether a new backup is needed.
func (n *Node) Needed(context.Context) (doc.Needed, error) {
	st := n.ledger.State()
	if !st.Founded() {
		return doc.Needed{}, refusedAction(n.cfg.Name + " knows of no group yet")
	}
	return neededFull(n.backupSight(st)), nil
}

// backupSight is what an operator's order about backups is planned from.
func (n *Node) backupSight(st facts.State) backupSight {
	v := n.jobsView(st)
	v.Nodes = slices.DeleteFunc(v.Nodes, func(r decide.Report) bool { return r.Boot == "" })
	return backupSight{state: st, agenda: n.jobs.Input(st, v), boots: runsOf(v)}
}

// backupOrder carries out an operator's command about backups. known is false
// for any other action.
func (n *Node) backupOrder(ctx context.Context, action string, args map[string]string) (result any, known bool, err error) {
	isMark := slices.Contains(doc.MarkActions(), action)
	if !isMark && !slices.Contains(doc.JobActions(), action) {
		return nil, false, nil
	}
	st := n.newest(ctx)
	if !st.Founded() {
		return nil, true, refusedAction(n.cfg.Name + " knows of no group yet")
	}
	if isMark {
		result, err = n.markBackups(ctx, st, action, args)
	} else {
		result, err = n.beginJobs(ctx, st, action, args)
	}
	return result, true, err
}

// beginTries is how often jobs are planned anew while others begin some.
const beginTries = 3

// beginJobs plans the jobs of an order and begins them, or only says what it
// would begin.
func (n *Node) beginJobs(ctx context.Context, st facts.State, action string, args map[string]string) (doc.JobsReply, error) {
	for try := 1; ; try++ {
		plan, err := planJobs(n.backupSight(st), action, args)
		rep := doc.JobsReply{Action: action, Steps: plan.steps, Plan: plan.retention, Jobs: []doc.Job{}}
		if err != nil {
			return rep, err
		}
		if action == doc.ActionPrune {
			rep.Steps = append(rep.Steps, n.asideSteps(st)...)
		}
		for _, j := range plan.jobs {
			rep.Jobs = append(rep.Jobs, admin.JobDoc(j))
		}
		if args["dry_run"] == "true" || len(plan.jobs) == 0 {
			return rep, nil
		}
		begun, err := n.beginAll(ctx, st, plan.jobs)
		var refused *ledger.RefusedError
		if errors.As(err, &refused) && refused.Code == facts.CodeStaleVersion && begun == 0 && try < beginTries {
			st = n.newest(ctx)
			continue
		}
		if err != nil && begun == 0 {
			return rep, asRefusal(err)
		}
		rep.Started, rep.Jobs = true, rep.Jobs[:begun]
		if err != nil {
			rep.Steps = append(rep.Steps, fmt.Sprintf("The rest was not begun: %v.", err))
		}
		taken, steps := n.takenUp(ctx, plan.jobs[:begun])
		rep.Steps = append(rep.Steps, steps...)
		for i, j := range taken {
			if known, ok := n.ledger.State().Job(j.ID); ok {
				j = known
			}
			rep.Jobs[i] = admin.JobDoc(j)
		}
		return rep, nil
	}
}

// beginAll begins jobs one after the other and counts those that were.
func (n *Node) beginAll(ctx context.Context, st facts.State, jobs []facts.Job) (begun int, err error) {
	for i, j := range jobs {
		c := facts.BeginJob{Expect: st.Backups.JobsVersion + uint64(i), Removals: st.Backups.Removals, Job: j}
		if _, err := n.ledger.Propose(ctx, facts.Command{BeginJob: &c}); err != nil {
			return i, err
		}
	}
	return len(jobs), nil
}

// asRefusal turns the ledger's refusal into one of the command.
func asRefusal(err error) error {
	var refused *ledger.RefusedError
	switch {
	case errors.As(err, &refused):
		return refusedAction(refused.Text)
	case errors.Is(err, ledger.ErrNoLeader):
		return refusedAction("the ledger has no leader that can be reached; nothing was done as far as is known, look at: understudy jobs")
	}
	return err
}

// await waits until this node's copy of the ledger shows what is durable
// already, so that what it is asked next is answered with it.
func (n *Node) await(ctx context.Context, seen func(facts.State) bool) {
	ctx, cancel := context.WithTimeout(ctx, policySeen)
	defer cancel()
	for {
		changed := n.ledger.Changed()
		if seen(n.ledger.State()) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// protection remembers how the locations stand: with hundreds of sets that
// takes a tenth of a second to work out, and the status is asked for often. The
// zero value is ready. Its method may be called concurrently.
type protection struct {
	mu      sync.Mutex
	ledger  string
	version uint64 // of the state that made is of
	made    *catalog.Protection
	at      time.Time
	took    time.Duration
}

// protectionShare bounds the time that goes into it: one part of so many.
const protectionShare = 20

// of is how the locations stand in a state, or did a moment before. What is
// returned is not to be changed.
func (p *protection) of(st facts.State) *catalog.Protection {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.made != nil && p.ledger == st.Group.LedgerID
	if same && (p.version == st.Version || time.Since(p.at) < protectionShare*p.took) {
		return p.made
	}
	began := time.Now()
	made := view.ProtectionOf(st)
	p.ledger, p.version, p.made, p.at, p.took = st.Group.LedgerID, st.Version, &made, time.Now(), time.Since(began)
	return p.made
}
