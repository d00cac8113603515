package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/places"
	"understudy/cmd/internal/worker"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

// The whole group goes back to a moment in four steps, each recorded in the
// ledger before it is taken: clients are shut out and the last log goes to the
// locations; the primary stops and the group fences; one node restores its
// database; and, the point of no return, the ledger says that it is over. Then
// that node forms the group anew. Whoever is killed on the way goes on where the
// ledger stands.

// What the node that restores, and the primary, are asked by others.
const (
	opRestorePlan = "restore-plan"
	opRestoreShut = "restore-shut"
)

// restorePlanWithin bounds the look at a set: its list of files is read.
const restorePlanWithin = 2 * time.Minute

func answerWithin(op string) time.Duration {
	if op == opRestorePlan {
		return restorePlanWithin
	}
	return 5 * time.Second
}

// groupAsk is what an operator wants of a restore of the group.
type groupAsk struct {
	Target   string       `json:"target"`
	Set      string       `json:"set,omitempty"`
	Timeline pos.Timeline `json:"timeline,omitempty"`
}

// groupPlan is what the node that would restore says to it.
type groupPlan struct {
	Restore facts.Restore `json:"restore"`
	Steps   []string      `json:"steps"`
	Refused string        `json:"refused,omitempty"`
}

// restoreWait is how long locations are waited for when nobody says otherwise.
const restoreWait = 2 * time.Minute

// groupOrder carries out an operator's command about a restore of the group.
// known is false for any other action.
func (n *Node) groupOrder(ctx context.Context, action string, args map[string]string) (result any, known bool, err error) {
	switch action {
	case doc.ActionRestoreGroup:
		result, err = n.orderRestore(ctx, args)
	case doc.ActionRestoreCancel:
		result, err = n.cancelRestore(ctx)
	case doc.ActionRestoreStatus:
		result = n.restoreStatus()
	default:
		return nil, false, nil
	}
	return result, true, err
}

func (n *Node) orderRestore(ctx context.Context, args map[string]string) (doc.OrderReply, error) {
	ask, wait, err := restoreArgs(args)
	if err != nil {
		return doc.OrderReply{}, err
	}
	o, m, err := n.restorer(ctx, args["node"])
	if err != nil {
		return doc.OrderReply{}, err
	}
	plan, err := n.askPlan(ctx, m, ask)
	if err != nil {
		return doc.OrderReply{}, refusedAction(fmt.Sprintf("%s cannot plan it: %v", m.Name, err))
	}
	if plan.Refused != "" {
		return doc.OrderReply{}, refusedAction(plan.Refused)
	}
	force := args["force"] == "true"
	p := o.State.Primary
	if p.Phase != facts.PhaseOpened && !force {
		return doc.OrderReply{}, refusedAction("no primary is open whose last log could be saved first; wait for one, or, if what no location has may be given up, use --force")
	}
	plan.Restore.Wait, plan.Restore.Unarchived = wait, force
	rep := doc.OrderReply{Kind: string(facts.OrderRestore), From: p.Node, To: m.Name, After: before(p), Statement: restoreStatement(m.Name, plan.Restore),
		Steps: append(plan.Steps, restoreSteps(o.State, m.Name, plan.Restore)...)}
	if args["dry_run"] == "true" {
		return rep, nil
	}
	if args["confirm"] != rep.Statement {
		if args["confirm"] != "" {
			return rep, refusedAction("what was confirmed is not what would happen now; look at it again")
		}
		return rep, nil
	}
	ord := facts.Order{ID: randomID(), Kind: facts.OrderRestore, To: m.Store, Epoch: p.Epoch, Statement: rep.Statement, At: o.Now, Deadline: o.Now, Restore: &plan.Restore}
	if err := n.propose(ctx, facts.Command{SetOrder: &facts.SetOrder{Expect: p.Version, Order: ord}}); err != nil {
		return rep, err
	}
	rep.ID, rep.Started = ord.ID, true
	return rep, nil
}

func restoreArgs(args map[string]string) (ask groupAsk, wait time.Duration, err error) {
	ask, wait = groupAsk{Target: args["target"], Set: args["set"]}, restoreWait
	if ask.Target == "" {
		return ask, wait, badArgument("say what to restore to, with target.")
	}
	if v := args["timeline"]; v != "" {
		t, err := strconv.ParseUint(v, 10, 32)
		if err != nil || t == 0 {
			return ask, wait, badArgument("timeline %.40q is no number of one.", v)
		}
		ask.Timeline = pos.Timeline(t)
	}
	if v := args["wait"]; v != "" {
		if wait, err = time.ParseDuration(v); err != nil || wait < 0 {
			return ask, wait, badArgument("wait must be a duration such as 2m.")
		}
	}
	return ask, wait, nil
}

// restorer is the node that would restore: the one that was named, else the
// primary's, else this one.
func (n *Node) restorer(ctx context.Context, name string) (decide.Observation, facts.Member, error) {
	o := n.observe(ctx)
	none := facts.Member{}
	if !o.State.Founded() {
		return o, none, refusedAction(n.cfg.Name + " knows of no group yet")
	}
	rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := n.ledger.Read(rctx)
	if err != nil {
		return o, none, refusedAction(fmt.Sprintf("no majority of the group can be asked; if the others are lost for good, form the group anew first with: understudy failover --to %s --force", n.cfg.Name))
	}
	o.State = st
	if st.Order != nil {
		return o, none, refusedAction(fmt.Sprintf("the %s to %s is not finished; look at: understudy history", st.Order.Kind, st.NameOf(st.Order.To)))
	}
	if name == "" {
		name = n.cfg.Name
		if h, ok := o.Reports[st.Primary.Store]; ok && !h.Gone && o.Now.Sub(h.At) < decide.Fresh {
			name = st.Primary.Node
		}
	}
	m, ok := st.MemberByName(name)
	switch {
	case !ok:
		return o, none, refusedAction(fmt.Sprintf("the group has no node %q; look at: understudy status", name))
	case m.Kind != facts.KindData:
		return o, none, refusedAction(m.Name + " has no PostgreSQL; name a node that has one with --node")
	case !m.Seeded || !st.IsVoter(m.Store):
		return o, none, refusedAction(m.Name + " has no complete base or no WAL vote yet; name another node with --node")
	}
	return o, m, nil
}

// askPlan has the node that would restore look at the backups and at itself.
func (n *Node) askPlan(ctx context.Context, m facts.Member, ask groupAsk) (groupPlan, error) {
	var plan groupPlan
	body, err := json.Marshal(ask)
	if err != nil {
		return plan, err
	}
	ctx, cancel := context.WithTimeout(ctx, restorePlanWithin)
	defer cancel()
	if m.Store == n.spool.Store() {
		body, err = n.handleRestore(ctx, opRestorePlan, body)
	} else {
		body, err = n.control.ask(ctx, m.Address, opRestorePlan, body)
	}
	if err != nil {
		return plan, err
	}
	return plan, json.Unmarshal(body, &plan)
}

// handleRestore answers what another node asks for a restore of the group.
func (n *Node) handleRestore(ctx context.Context, op string, body []byte) ([]byte, error) {
	if n.server == nil {
		return nil, errNoServer
	}
	if op == opRestoreShut {
		return n.handleShut(ctx, body)
	}
	var ask groupAsk
	if err := json.Unmarshal(body, &ask); err != nil {
		return nil, err
	}
	st := n.newest(ctx)
	plan, err := n.planRestore(ctx, st, ask)
	switch {
	case errors.Is(err, catalog.ErrImpossible), errors.Is(err, catalog.ErrTarget), errors.Is(err, recover.ErrRefused), errors.Is(err, recover.ErrOccupied):
		plan.Refused = err.Error()
	case err != nil:
		return nil, err
	}
	return json.Marshal(plan)
}

// planRestore looks for what can never work, while the server still runs.
func (n *Node) planRestore(ctx context.Context, st facts.State, ask groupAsk) (groupPlan, error) {
	target, err := catalog.Parse(ask.Target, worker.Zone(st.Policy.Backups().TimeZone))
	if err != nil {
		return groupPlan{}, err
	}
	target.Timeline = ask.Timeline
	w, err := n.prepare(ctx, st, target, ask.Set, true)
	if err != nil {
		return groupPlan{}, err
	}
	if t := stopsOn(w.Choice); t != w.Choice.Timeline() {
		// Along a timeline that it never comes to, the server would write a history
		// that leaves that one before it began.
		w.close()
		target.Timeline = t
		if w, err = n.prepare(ctx, st, target, ask.Set, true); err != nil {
			return groupPlan{}, err
		}
	}
	defer w.close()
	c := w.Choice
	r := facts.Restore{Target: target, Set: c.Set, Along: c.Timeline()}
	r.Target.Timeline = r.Along
	steps := []string{
		fmt.Sprintf("%s restores set %s from %s over its own database: %d MiB, of which only what differs is fetched.", n.cfg.Name, c.Set, strings.Join(c.Locations, ", "), c.RawBytes>>20),
		fmt.Sprintf("It replays the log along timeline %d up to %s: at most %d MiB.", r.Along, target, c.WALBytes()>>20),
	}
	steps = append(steps, n.thrownAway(st, c))
	for _, note := range append(slices.Clone(c.Notes), w.Plan.Notes...) {
		steps = append(steps, "Note: "+note+".")
	}
	return groupPlan{Restore: r, Steps: steps}, nil
}

// stopsOn is the timeline on which a recovery ends, as far as that is known.
func stopsOn(c catalog.Choice) pos.Timeline {
	for _, s := range c.Path {
		if s.To != 0 && c.Stop <= s.To {
			return s.Timeline
		}
	}
	return c.Timeline()
}

// thrownAway says what of the present history is left behind.
func (n *Node) thrownAway(st facts.State, c catalog.Choice) string {
	end, now := n.spool.Durable(), time.Now().UTC().Format(time.RFC3339)
	if run := n.primaryRun(); run != nil {
		end = run.Snapshot().Received
	}
	if st.Lineage.TimelineAt(c.Stop) != c.Timeline() {
		return fmt.Sprintf("The present history, on timeline %d up to %s at %s, is left for that of timeline %d.", st.Lineage.Last().Timeline, end, now, c.Timeline())
	}
	s := fmt.Sprintf("Thrown away is the log from %s at the latest to %s", c.Stop, end)
	if c.Target.Kind == catalog.AtTime {
		return s + fmt.Sprintf(", the time from %s to %s.", c.Target.Time.UTC().Format(time.RFC3339), now)
	}
	return s + ", which is of " + now + "."
}

// restoreStatement is what the operator confirms. It holds nothing that moves,
// so that what is confirmed is what was read.
func restoreStatement(node string, r facts.Restore) string {
	s := fmt.Sprintf("All nodes go back to %s, on timeline %d: everything that was committed later is thrown away, and the database of %s is overwritten with set %s.", r.Target, r.Along, node, r.Set)
	if r.Unarchived {
		return s + fmt.Sprintf(" What no location of backups has after %s is lost for good.", r.Wait)
	}
	return s + " It can be had back from the backups by a restore to the end of that timeline."
}

// restoreSteps are what happens around the restore.
func restoreSteps(st facts.State, node string, r facts.Restore) []string {
	last := "No primary is open: what no location has is lost."
	if p := st.Primary; p.Phase == facts.PhaseOpened {
		last = fmt.Sprintf("Clients of %s are cut off, and the last log goes to all enabled locations, for at most %s; if that is not enough, clients are let in again and nothing has changed.", p.Node, r.Wait)
		if r.Unarchived {
			last = fmt.Sprintf("Clients of %s are cut off, and the last log goes to the locations that take it within %s.", p.Node, r.Wait)
		}
	}
	return []string{
		last,
		"The primary stops in the regular way; nobody is primary until the restore has ended. It can be withdrawn with --cancel until the database is restored.",
		fmt.Sprintf("%s is promoted on a timeline that was never used, and forms the group anew.", node),
		"The others give up what they hold and are seeded again by themselves; only what differs is sent.",
	}
}

func (n *Node) cancelRestore(ctx context.Context) (doc.OrderReply, error) {
	o := n.observe(ctx).State.Order
	if o == nil || o.Kind != facts.OrderRestore {
		return doc.OrderReply{}, refusedAction("no restore of the group is under way")
	}
	rep := doc.OrderReply{ID: o.ID, Kind: string(facts.OrderRestore), Started: true,
		Steps: []string{"The restore is withdrawn; the group goes on with what it has."}}
	return rep, n.propose(ctx, facts.Command{ClearOrder: &facts.ClearOrder{ID: o.ID, Why: "withdrawn by the operator"}})
}

// prepared is what a restore on this node works with.
type prepared struct {
	Choice  catalog.Choice `json:"choice"`
	Plan    recover.Plan   `json:"plan"`
	sources recover.Sources
}

func (p *prepared) close() {
	for _, s := range p.sources.Places {
		_ = s.Location.Close() // nothing was written
	}
}

// prepare chooses what to restore and plans it. The plan's directory may still
// be in use.
func (n *Node) prepare(ctx context.Context, st facts.State, target catalog.Target, set string, runs bool) (*prepared, error) {
	cat, ok := st.Catalog(facts.ProfilePostgres)
	if !ok {
		return nil, refusedAction("the group has no backups")
	}
	choice, err := catalog.Choose(cat, target, catalog.Options{Set: set, Locations: n.readable(st)})
	if err != nil {
		return nil, err
	}
	w := &prepared{Choice: choice}
	if w.sources, err = n.restoreSources(st, choice); err != nil {
		return nil, err
	}
	build, err := n.server.Install.Build(ctx, n.server.Account)
	if err == nil {
		req := recover.Request{
			Mode: recover.Delta, DataDir: n.server.DataDir, Label: choice.Set, Digest: cat.Sets[choice.Set].Digest, Aim: recover.AimOf(choice, recover.Promote),
			Local:    recover.Local{Major: build.Major, Version: build.Version, Architecture: build.Architecture, BlockSize: build.BlockSize, CatalogVersion: build.CatalogVersion},
			SystemID: st.Group.SystemID, RestoreCommand: n.restoreCommand(), Runs: runs, Now: time.Now(),
		}
		if a := n.server.Account; a.Switch {
			req.Owner = &restore.Owner{UID: int(a.UID), GID: int(a.GID)}
		}
		w.Plan, err = recover.MakePlan(ctx, req, w.sources)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// readable are the locations to read from, the preferred first.
func (n *Node) readable(st facts.State) []string {
	names := slices.Sorted(maps.Keys(st.Policy.Locations))
	slices.SortStableFunc(names, func(a, b string) int {
		x, y := st.Policy.Locations[a], st.Policy.Locations[b]
		if x.Order != y.Order {
			return x.Order - y.Order
		}
		near := func(p facts.LocationPolicy) int {
			if p.Node == n.cfg.Name {
				return 0
			}
			return 1
		}
		return near(x) - near(y)
	})
	return names
}

// restoreSources opens the locations of a choice, and those of its log.
func (n *Node) restoreSources(st facts.State, c catalog.Choice) (recover.Sources, error) {
	out := recover.Sources{Root: backupset.Root{Group: st.Group.Name, Profile: facts.ProfilePostgres}}
	var errs []error
	for _, name := range c.Locations {
		l, err := n.placesFor(st).Open(name, st.Policy.Locations[name])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.Places = append(out.Places, recover.Source{Name: name, Location: l})
	}
	if len(out.Places) == 0 {
		return out, refusedAction(fmt.Sprintf("no location that has set %s can be opened here: %v", c.Set, errors.Join(errs...)))
	}
	return out, nil
}

// placesFor opens locations on this node.
func (n *Node) placesFor(st facts.State) places.Opener {
	return places.Opener{Node: n.cfg.Name, Secret: places.SecretsOf(n.cfg), Dial: func(ctx context.Context, node string) (net.Conn, error) {
		m, ok := st.MemberByName(node)
		if !ok {
			return nil, fmt.Errorf("node %s is no member of the group", node)
		}
		c, _, err := n.net.Dial(ctx, m.Address, link.Place, node)
		return c, err
	}}
}
