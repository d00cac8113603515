package agenda

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// agenda is a decision on its way.
type agenda struct {
	Input
	orders []Order
}

func newAgenda(in Input) *agenda {
	in.Jobs = slices.Clone(in.Jobs)
	slices.SortStableFunc(in.Jobs, func(x, y Job) int { return cmp.Or(x.Began.Compare(y.Began), strings.Compare(x.ID, y.ID)) })
	in.Nodes = slices.Clone(in.Nodes)
	slices.SortStableFunc(in.Nodes, func(x, y Node) int { return strings.Compare(x.Name, y.Name) })
	in.Locations = slices.Clone(in.Locations)
	slices.SortStableFunc(in.Locations, func(x, y Location) int { return strings.Compare(x.Name, y.Name) })
	return &agenda{Input: in}
}

func (a *agenda) order(o Order) { a.orders = append(a.orders, o) }

// raise says once that an incident stands.
func (a *agenda) raise(key string, s Severity, format string, args ...any) {
	if slices.ContainsFunc(a.orders, func(o Order) bool { return o.Kind == Raise && o.Key == key }) {
		return
	}
	a.order(Order{Kind: Raise, Key: key, Severity: s, Why: fmt.Sprintf(format, args...)})
}

func (a *agenda) node(name string) (Node, bool) {
	i := slices.IndexFunc(a.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return a.Nodes[i], true
}

// running tells whether a job of a kind runs, at a location if one is given.
func (a *agenda) running(kind JobKind, location string) bool {
	return slices.ContainsFunc(a.Jobs, func(j Job) bool {
		return j.State == JobRunning && j.Kind == kind && (location == "" || slices.Contains(j.Locations, location))
	})
}

// graceToStop is how long a job may take to stop after it was told to.
const graceToStop = 10 * time.Minute

// watch looks after the jobs that run.
func (a *agenda) watch() {
	for _, j := range a.Jobs {
		if j.State != JobRunning {
			continue
		}
		n, known := a.node(j.Node)
		over := a.Now.Sub(j.Began) - a.Policy.Limits[j.Kind]
		limited := a.Policy.Limits[j.Kind] > 0
		switch {
		case !known:
			a.order(Order{Kind: Lose, ID: j.ID, Node: j.Node, Why: fmt.Sprintf("%s is no node of the group any more", j.Node)})
			continue
		case !n.Alive && a.Now.Sub(n.Heard) >= a.Policy.LostAfter:
			a.order(Order{Kind: Lose, ID: j.ID, Node: j.Node, Why: fmt.Sprintf("%s has not been heard for %s", j.Node, a.Now.Sub(n.Heard).Round(time.Second))})
			continue
		case limited && over >= graceToStop:
			a.order(Order{Kind: Lose, ID: j.ID, Node: j.Node, Why: fmt.Sprintf("the %s did not stop when its time limit of %s was over", j.Kind, a.Policy.Limits[j.Kind])})
		case limited && over >= 0:
			a.order(Order{Kind: Cancel, ID: j.ID, Node: j.Node, Why: fmt.Sprintf("the %s has reached its time limit of %s", j.Kind, a.Policy.Limits[j.Kind])})
		}
		a.overrun(j)
	}
}

// schedule is that of a kind of job; zero when it has none.
func (a *agenda) schedule(kind JobKind) Schedule {
	switch kind {
	case JobFull:
		return a.Policy.Schedule
	case JobDrill:
		return a.Policy.Drill
	case JobPrune:
		return a.Policy.Prune
	}
	return Schedule{}
}

// tooMany is the number of overruns in a row that are an error.
const tooMany = 3

// overrun warns of a job that still runs when the next one is due, and counts
// those before it that did.
func (a *agenda) overrun(j Job) {
	s := a.schedule(j.Kind)
	missed := 0
	for at := s.Next(j.Began); !at.IsZero() && !at.After(a.Now) && missed < tooMany; at = s.Next(at) {
		missed++
	}
	if missed == 0 {
		return
	}
	for _, before := range slices.Backward(a.Jobs) {
		if before.Kind != j.Kind || before.State == JobRunning || !before.Began.Before(j.Began) || !sharePlace(before, j) {
			continue
		}
		if next := s.Next(before.Began); next.IsZero() || !next.Before(before.Ended) {
			break
		}
		missed++
	}
	severity := Warning
	if missed >= tooMany {
		severity = Error
	}
	key := "overrun-" + string(j.Kind)
	if j.Kind == JobPrune && len(j.Locations) == 1 {
		key += "-" + j.Locations[0]
	}
	a.raise(key, severity, "the %s that began at %s on %s still runs although the next one was due; overruns in a row: %d",
		j.Kind, j.Began.UTC().Format(time.RFC3339), j.Node, missed)
}

// sharePlace tells whether two jobs are of one series: those of a location
// each have their own, backups have one.
func sharePlace(x, y Job) bool {
	return x.Kind != JobPrune || slices.Equal(x.Locations, y.Locations)
}

// history is what came of the jobs of one series.
type history struct {
	success time.Time // when the last that succeeded began
	fails   int       // in a row, since then
	tried   time.Time // when the last of these began
	ended   time.Time // and ended
	node    string    // where it ran
	stopped bool      // an operator cancelled it
}

// past collects the jobs that pick accepts. Times that are not yet come are
// those of a clock that was wrong, and do not count.
func (a *agenda) past(pick func(Job) bool) (h history) {
	for _, j := range a.Jobs {
		switch {
		case !pick(j) || j.State == JobRunning || j.Began.After(a.Now):
		case j.State == JobDone:
			h = history{success: j.Began}
		default:
			h = history{success: h.success, fails: h.fails, tried: j.Began, ended: j.Ended, node: j.Node, stopped: j.State == JobCancelled}
			if !h.stopped {
				h.fails++
			} else {
				h.fails = max(h.fails, 1)
			}
		}
	}
	return h
}

// ready tells whether a series may be tried again: quickly at first, then at
// the long interval, without end.
func (a *agenda) ready(h history) bool {
	if h.fails == 0 {
		return true
	}
	wait := a.Policy.RetryEvery
	if h.fails <= a.Policy.QuickN && !h.stopped {
		wait = a.Policy.QuickEvery
	}
	since := a.Now.Sub(h.ended)
	return since >= wait || since < 0
}

// complain raises an incident for a series that failed more often than is
// repeated quickly.
func (a *agenda) complain(h history, key, what string) {
	if h.fails > a.Policy.QuickN && !h.stopped {
		a.raise(key, Error, "%s failed %d times in a row; it is tried again every %s", what, h.fails, a.Policy.RetryEvery)
	}
}

// reaches tells whether a node is there and can reach a location.
func (a *agenda) reaches(n Node, l Location) bool {
	return n.Alive && slices.Contains(l.Nodes, n.Name)
}

// rank orders nodes for work that any can do: what disturbs the users least
// comes first.
func rank(n Node) int {
	switch n.Role {
	case Standby:
		return 0
	case Witness:
		return 1
	}
	return 2
}

// pick is the node that fits with the lowest rank, by name among equals; want,
// if it fits, comes before all.
func (a *agenda) pick(want string, rank func(Node) int, fits func(Node) bool) (string, bool) {
	best, found := Node{}, false
	for _, n := range a.Nodes {
		switch {
		case !fits(n):
		case n.Name == want:
			return want, true
		case !found || rank(n) < rank(best):
			best, found = n, true
		}
	}
	return best.Name, found
}

// usable tells whether a location takes and gives objects now.
func (l Location) usable() bool { return l.Enabled && l.Problem == "" }
