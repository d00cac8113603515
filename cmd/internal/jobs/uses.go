package jobs

import (
	"maps"
	"slices"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// maxUses is how many sets the ledger guards for one job.
const maxUses = 256

// DrillUses is what a drill may choose to restore from some locations: nothing
// of it is deleted while it runs. Of very many sets it is the newest.
func DrillUses(c catalog.Catalog, locations []string) (u facts.Uses) {
	for _, label := range slices.Backward(slices.Sorted(maps.Keys(c.Sets))) {
		set := c.Sets[label]
		here := slices.ContainsFunc(locations, func(l string) bool { return set.Copies[l].State == catalog.CopyComplete })
		if set.State != catalog.SetComplete || !here || len(u.Labels) == maxUses {
			continue
		}
		u.Labels = append(u.Labels, label)
		if u.Floor == 0 || set.Start < u.Floor {
			u.Floor = set.Start
		}
	}
	slices.Sort(u.Labels)
	return u
}

// LogUsed is where the log at some locations begins: who proves it takes what
// is deleted meanwhile for lost, and brings it again.
func LogUsed(c catalog.Catalog, locations []string) (from pos.LSN) {
	for _, l := range locations {
		for _, s := range c.Places[l].WAL {
			if from == 0 || s.From < from {
				from = s.From
			}
		}
	}
	return from
}
