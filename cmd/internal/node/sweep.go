package node

import (
	"maps"
	"slices"
	"time"

	"understudy/cmd/internal/jobs"
	"understudy/cmd/internal/worker"
	"understudy/ledger/facts"
)

// sweepers are the jobs that also clear their locations of what interrupted
// ones have left.
func sweepers() []facts.JobKind {
	return []facts.JobKind{facts.JobBackup, facts.JobFill, facts.JobPrune}
}

const (
	// cleanedUp: a worker whose daemon was killed cleans up and ends within that.
	cleanedUp = 2 * time.Minute
	// lostForGood is when a job that was given up has surely ended, whatever
	// became of its node.
	lostForGood = 24 * time.Hour
)

// runsOf are the runs of the daemons that are heard, by node.
func runsOf(v jobs.View) map[string]string {
	out := map[string]string{}
	for _, r := range v.Nodes {
		if r.Boot != "" {
			out[r.Node] = r.Boot
		}
	}
	return out
}

// ended tells whether nothing of a job runs any more anywhere. A daemon says
// that a job is done, failed or cancelled when its process has ended. One that
// was given up is over once its node is heard in another run; until then it may
// go on in a part of the group that this node does not hear of.
func ended(j facts.Job, runs map[string]string, now time.Time) bool {
	if j.State == facts.JobRunning {
		return false
	}
	if j.State != facts.JobLost {
		return true
	}
	since := now.Sub(j.Ended)
	run := runs[j.Node]
	return run != "" && run != j.Lease && since >= cleanedUp || since >= lostForGood
}

// sweepPart is what is known of those who write to the locations of a job.
func sweepPart(st facts.State, j facts.Job, runs map[string]string, now time.Time) []worker.Sweep {
	over, alive := map[string]bool{}, []facts.Job{}
	for _, o := range append(slices.Clone(st.Backups.Finished), slices.Collect(maps.Values(st.Backups.Jobs))...) {
		switch {
		case o.ID == j.ID:
		case !ended(o, runs, now):
			alive = append(alive, o)
		case o.Kind == facts.JobBackup && o.Label != "":
			over[o.Label] = true
		}
	}
	for _, o := range append(alive, j) {
		delete(over, o.Label)
		for _, l := range o.Uses.Labels {
			delete(over, l)
		}
	}
	var out []worker.Sweep
	for _, name := range j.Locations {
		s := worker.Sweep{Location: name, Over: slices.Sorted(maps.Keys(over))}
		for _, o := range alive {
			if slices.Contains(o.Locations, name) && (s.Busy.IsZero() || o.Began.Before(s.Busy)) {
				s.Busy = o.Began
			}
		}
		out = append(out, s)
	}
	return out
}

// begunPart is log whose removal a prune that did not end has begun. Where a
// fill runs, it waits for the next prune: a policy that was changed may have
// the same log brought again.
func begunPart(st facts.State, locations []string) map[string][]facts.WALRange {
	out := map[string][]facts.WALRange{}
	for _, name := range locations {
		if ranges := st.Backups.Pruning[facts.ProfilePostgres][name]; len(ranges) > 0 && !st.Backups.Fills(name) {
			out[name] = ranges
		}
	}
	return out
}
