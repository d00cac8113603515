package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
)

const (
	// takenWithin bounds the wait for the nodes to take up what they were
	// ordered, which is a matter of moments, or of the start of a daemon.
	takenWithin = 8 * time.Second
	// takenLook is how often that is looked at.
	takenLook = 50 * time.Millisecond
)

// takenUp waits until the nodes have taken up the jobs of an order. A daemon
// that was started anew since it was last heard gives up what the run before was
// given, and is told again. It returns the jobs as they stand, and what there
// is to say of them.
func (n *Node) takenUp(ctx context.Context, given []facts.Job) ([]facts.Job, []string) {
	given = slices.Clone(given)
	var steps []string
	ctx, cancel := context.WithTimeout(ctx, takenWithin)
	defer cancel()
	told := make([]int, len(given))
	for {
		waits := -1
		for i, j := range given {
			switch n.stand(j) {
			case jobWaits:
				waits = i
			case jobUnheeded:
				if told[i]++; told[i] > beginTries {
					continue
				}
				again, err := n.tellAgain(ctx, j)
				if err != nil {
					steps = append(steps, fmt.Sprintf("%s was started anew and did not begin it: %v.", j.Node, err))
					told[i] = beginTries
					continue
				}
				given[i], waits = again, i
				steps = append(steps, fmt.Sprintf("%s had just been started anew and is told again: it is job %s.", j.Node, again.ID))
			}
		}
		if waits < 0 {
			return given, steps
		}
		select {
		case <-ctx.Done():
			j := given[waits]
			return given, append(steps, fmt.Sprintf("%s has not begun it yet; look at: understudy jobs %s.", j.Node, j.ID))
		case <-time.After(takenLook):
		}
	}
}

// jobStand is how far an ordered job is.
type jobStand int

const (
	jobWaits    jobStand = iota + 1 // its node does not work on it yet
	jobTaken                        // it does, or did
	jobUnheeded                     // its node was started anew before it did
)

func (n *Node) stand(j facts.Job) jobStand {
	if h, ok := n.reports()[j.Store]; ok && h.Report.Boot == j.Lease &&
		slices.ContainsFunc(h.Report.Work, func(w decide.Work) bool { return w.Job == j.ID }) {
		return jobTaken
	}
	known, ok := n.ledger.State().Job(j.ID)
	switch {
	case !ok || known.State == facts.JobRunning:
		return jobWaits
	case known.State == facts.JobLost:
		return jobUnheeded
	}
	return jobTaken
}

// tellAgain begins a job anew on its node's present run. It was never worked on,
// so that all of it, also the label of its set, is still free.
func (n *Node) tellAgain(ctx context.Context, j facts.Job) (facts.Job, error) {
	old := j.Lease
	for tries := beginTries; ; {
		st := n.newest(ctx)
		if run := n.backupSight(st).boots[j.Node]; run != "" && run != old {
			j.ID, j.Lease = randomID()[:12], run
			_, err := n.beginAll(ctx, st, []facts.Job{j})
			var refused *ledger.RefusedError
			if tries--; tries == 0 || !errors.As(err, &refused) || refused.Code != facts.CodeStaleVersion {
				return j, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return j, errors.New("it is not heard")
		case <-time.After(takenLook):
		}
	}
}
