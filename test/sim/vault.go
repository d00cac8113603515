package sim

import (
	"slices"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// vault is the one location of backups: a set of the beginning, and the log of
// every timeline as far as it was stored, each with all that is before it.
type vault struct {
	w    *world
	logs map[pos.Timeline]wal
	busy time.Duration // until when it takes nothing
}

// The names of the location and of its set.
const (
	vaultName = "vault"
	vaultSet  = "first"
	vaultFrom = pos.LSN(100) // where the set is consistent
)

// store takes what the open primary calls committed.
func (v *vault) store(n *node, r *run) {
	if v.w.now < v.busy || r.stopped {
		return
	}
	had, log := v.logs[n.dir.tli], n.dir.wal.cut(min(r.told, n.dir.flushed))
	if had.end >= log.end {
		return
	}
	if had.end != 0 && had.mark(had.end) != log.mark(had.end) {
		v.w.check.fail("%s stores log of timeline %d that does not go on from what is stored up to %s", n.name, n.dir.tli, had.end)
	}
	v.logs[n.dir.tli] = log
}

// holds tells whether a record can be had back.
func (v *vault) holds(r rec) bool {
	for _, log := range v.logs {
		if log.holds(r) {
			return true
		}
	}
	return false
}

// lacks tells whether the location lacks log of the present history up to a
// byte.
func (v *vault) lacks(st facts.State, upto pos.LSN) bool {
	return v.logs[st.Lineage.Last().Timeline].end < upto
}

// catalog is what the ledger would know of the location.
func (v *vault) catalog(st facts.State) catalog.Catalog {
	c, _ := st.Catalog(facts.ProfilePostgres)
	c.Sets = map[string]catalog.Set{vaultSet: {Label: vaultSet, State: catalog.SetComplete, Timeline: 1, Start: 1, End: vaultFrom,
		Copies: map[string]catalog.Copy{vaultName: {State: catalog.CopyComplete}}}}
	var spans []catalog.Span
	for _, t := range c.Known() {
		if log, ok := v.logs[t]; ok {
			spans = append(spans, catalog.Span{Timeline: t, From: max(c.Timelines[t].Fork, 1), To: log.end})
		}
	}
	c.Places = map[string]catalog.Place{vaultName: {WAL: spans}}
	return c
}

// recovered is the log along a path that a recovery to a target has replayed:
// it stops before the first record that begins at or after it. There must be
// one.
func (v *vault) recovered(path []catalog.Step, target pos.LSN) (wal, bool) {
	var log wal
	for i, s := range path {
		if i > 0 {
			log = log.cut(path[i-1].To)
		}
		if l, ok := v.logs[s.Timeline]; ok {
			log = l
		}
	}
	if i := slices.IndexFunc(log.recs, func(r rec) bool { return r.start >= target && r.end <= log.end }); i >= 0 {
		return log.cut(log.recs[i].start), true
	}
	return wal{}, false
}
