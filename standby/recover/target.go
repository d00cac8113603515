package recover

import (
	"strconv"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Action is what PostgreSQL does at the target.
type Action string

// The actions. Without one it is promote. At the end of the log, the target
// catalog.Latest, it is always promote.
const (
	Promote  Action = "promote"  // it opens for writing, on a timeline of its own
	Pause    Action = "pause"    // it can be read, and goes on when told
	Shutdown Action = "shutdown" // it stops, and can go on to a later target
)

// Aim is where recovery goes and what happens there.
type Aim struct {
	Target catalog.Target `json:"target"`
	// Along is the timeline to recover along; zero is that of the set.
	Along pos.Timeline `json:"along,omitempty"`
	// Newest follows whatever timelines the archive has, instead of Along.
	Newest bool   `json:"newest,omitempty"`
	Action Action `json:"action,omitempty"`
}

// AimOf is the aim of a choice.
func AimOf(c catalog.Choice, a Action) Aim {
	return Aim{Target: c.Target, Along: c.Timeline(), Action: a}
}

// validate refuses what PostgreSQL would not take.
func (a Aim) validate() error {
	if err := a.Target.Validate(); err != nil {
		return refused("%w", err)
	}
	switch a.Action {
	case "", Promote:
	case Pause, Shutdown:
		if a.Target.Kind == catalog.Latest {
			return refused("PostgreSQL opens for writing at the end of the log; it cannot %s there", a.Action)
		}
	default:
		return refused("unknown action at the target: %.40q", a.Action)
	}
	if a.Along != 0 && a.Newest {
		return refused("the recovery shall go along timeline %d and along the newest one", a.Along)
	}
	return nil
}

// targetNames are PostgreSQL's settings of which at most one may be given, even
// as an empty one.
func targetNames() []string {
	return []string{"recovery_target", "recovery_target_time", "recovery_target_lsn", "recovery_target_xid", "recovery_target_name"}
}

// settings are those of PostgreSQL's recovery.
func (a Aim) settings(ofSet pos.Timeline) map[string]string {
	out := map[string]string{
		"recovery_target_inclusive": "off", "recovery_target_action": string(Promote),
		"recovery_target_timeline": strconv.FormatUint(uint64(ofSet), 10),
	}
	t := a.Target
	if t.Inclusive {
		out["recovery_target_inclusive"] = "on"
	}
	if a.Action != "" {
		out["recovery_target_action"] = string(a.Action)
	}
	switch {
	case a.Newest:
		out["recovery_target_timeline"] = "latest"
	case a.Along != 0:
		out["recovery_target_timeline"] = strconv.FormatUint(uint64(a.Along), 10)
	}
	switch t.Kind {
	case catalog.AtTime:
		// In UTC, so that no zone of the server or its clients is asked; rounded
		// down to what PostgreSQL keeps.
		out["recovery_target_time"] = t.Time.UTC().Truncate(time.Microsecond).Format("2006-01-02 15:04:05.999999+00")
	case catalog.AtLSN:
		out["recovery_target_lsn"] = t.LSN.String()
	case catalog.AtXID:
		out["recovery_target_xid"] = strconv.FormatUint(t.XID, 10)
	case catalog.AtName:
		out["recovery_target_name"] = t.Name
	case catalog.Immediate:
		out["recovery_target"] = "immediate"
	}
	return out
}

// reaches refuses an aim that the set cannot be recovered to: recovery cannot
// stop where the files are not consistent yet.
func (a Aim) reaches(set backupset.Set) error {
	t := a.Target
	switch {
	case t.Kind == catalog.AtTime && t.Time.Before(set.Ended):
		return refused("the target is %s, but the set ended at %s; choose an older set", t, set.Ended.UTC().Format(time.RFC3339Nano))
	case t.Kind == catalog.AtLSN && t.LSN < set.End:
		return refused("the target is at %s, but the set is consistent at %s only; choose an older set", t.LSN, set.End)
	case a.Along != 0 && a.Along < set.Timeline:
		return refused("the recovery shall go along timeline %d, but the set was taken on the later timeline %d; choose an older set", a.Along, set.Timeline)
	}
	return nil
}
