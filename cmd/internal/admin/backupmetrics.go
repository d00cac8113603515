package admin

import (
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
)

// backups adds the metrics of backups. Their labels are names of locations,
// kinds and states, never the id of a set or job: those grow without end.
func (x *exposition) backups(b *view.Backups) {
	if b == nil {
		return
	}
	x.gauge("understudy_backup_protected", "1 if a location has everything up to the last minutes.", flag(b.Protected))
	for _, l := range []view.BackupLevel{view.BackupsWhole, view.BackupsDegraded, view.BackupsBehind, view.BackupsNone, view.BackupsOff} {
		x.gauge("understudy_backup_level", "1 for the present level of the backups.", flag(b.Level == l), "level", string(l))
	}
	x.gauge("understudy_backup_prune_frozen", "1 if nothing may be pruned now.", flag(b.Frozen != ""))
	if f := b.LastFull; f != nil {
		x.gauge("understudy_backup_newest_set_age_seconds", "Age of the newest complete backup.", f.Age)
		x.gauge("understudy_backup_newest_set_bytes", "Size of the newest complete backup as stored.", float64(f.Bytes))
		x.gauge("understudy_backup_newest_set_damaged", "1 if pages of the database were damaged when it was taken.", flag(f.Damaged))
	}
	if d := b.LastDrill; d != nil {
		x.gauge("understudy_backup_last_drill_ok", "1 if the newest restore that was tried out succeeded.", flag(d.OK))
		x.gauge("understudy_backup_last_drill_seconds", "How long it took.", d.Seconds)
		x.gauge("understudy_backup_last_drill_timestamp_seconds", "When it ended.", float64(d.At.Unix()))
	}
	for _, l := range b.Locations {
		x.location(l)
	}
	kinds := []facts.JobKind{facts.JobBackup, facts.JobVerify, facts.JobRestore, facts.JobDrill, facts.JobPrune, facts.JobFill}
	for _, k := range kinds {
		n := 0
		for _, j := range b.Jobs {
			if j.Kind == k {
				n++
			}
		}
		x.gauge("understudy_backup_jobs_running", "Jobs that run now.", float64(n), "kind", string(k))
	}
	for _, j := range b.Ended {
		for _, s := range []facts.JobState{facts.JobDone, facts.JobFailed, facts.JobCancelled, facts.JobLost} {
			x.gauge("understudy_backup_last_job", "1 for how the newest job of the kind ended.", flag(j.State == s), "kind", string(j.Kind), "state", string(s))
		}
		x.gauge("understudy_backup_last_job_timestamp_seconds", "When the newest job of the kind ended.", float64(j.Ended.Unix()), "kind", string(j.Kind))
	}
}

func (x *exposition) location(l view.BackupPlace) {
	x.gauge("understudy_backup_location_enabled", "1 if the location is written to.", flag(l.Enabled), "location", l.Name)
	x.gauge("understudy_backup_location_ok", "1 if nothing is wrong with the location.", flag(l.State == view.PlaceOK), "location", l.Name)
	x.gauge("understudy_backup_location_sets", "Full backups that can be restored from the location alone.", float64(l.Sets), "location", l.Name)
	x.gauge("understudy_backup_location_archived_lsn", "Position up to which the location has the log, in bytes.", float64(l.Archived), "location", l.Name)
	x.gauge("understudy_backup_location_lag_bytes", "Committed log that the location does not have.", float64(l.LagBytes), "location", l.Name)
	if l.LagSeconds != nil {
		x.gauge("understudy_backup_location_lag_seconds", "Age of the newest commit at the location, 0 when it has all.", *l.LagSeconds, "location", l.Name)
	}
}
