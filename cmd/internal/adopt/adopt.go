// Package adopt looks at a database that somebody else made, or that a restore
// brought back, and says whether a group can be founded on it, what would be
// changed, and what would stay.
package adopt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/configs"
	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// ErrRefused is wrapped when a group cannot be founded on what is there. Nothing
// was changed.
var ErrRefused = errors.New("this database cannot found a group")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// Options are what the operator decides.
type Options struct {
	// KeepArchiving lets another tool go on archiving the log of the database.
	KeepArchiving bool
}

// Plan is the founding of a group on an existing database. Nothing was touched
// for it.
type Plan struct {
	Node      string       `json:"node"`
	Group     string       `json:"group"`
	DataDir   string       `json:"data_dir"`
	Version   string       `json:"version"` // of the server programs
	SystemID  uint64       `json:"system_id,string"`
	Timeline  pos.Timeline `json:"timeline"`
	StoppedAt pos.LSN      `json:"stopped_at"` // of the last checkpoint
	SegSize   int64        `json:"segment_size"`
	Checksums bool         `json:"checksums"`
	Bytes     int64        `json:"bytes"`
	FileN     int64        `json:"files"`
	Spaces    []string     `json:"tablespaces,omitempty"` // directories
	Superuser string       `json:"superuser"`
	// Lineage is the database's history before the group, empty for one that was
	// never promoted.
	Lineage pos.Lineage `json:"lineage,omitempty"`
	// Settings is the file that the settings are taken over from, empty when the
	// data directory has its own.
	Settings string `json:"settings,omitempty"`
	// Restored is the set that a restore of ours made the database from.
	Restored string   `json:"restored,omitempty"`
	Changes  []string `json:"changes"`         // a sentence each
	Kept     []string `json:"kept"`            // a sentence each
	Notes    []string `json:"notes,omitempty"` // what the operator should know
}

// Look judges the database of a node's data directory. What must not be done
// wraps ErrRefused and says what to do.
func Look(ctx context.Context, cfg *configs.Node, s *pgctl.Server, o Options) (Plan, error) {
	p := Plan{Node: cfg.Name, Group: cfg.Group, DataDir: s.DataDir, Version: s.Version, Superuser: cfg.PostgreSQL.Superuser}
	l := &look{cfg: cfg, s: s, o: o, p: &p, set: s.OperatorSettings()}
	for _, step := range []func(context.Context) error{l.directory, l.owner, l.running, l.restored, l.standby, l.tree, l.control, l.group, l.log, l.history, l.settings} {
		if err := step(ctx); err != nil {
			return Plan{}, err
		}
	}
	l.describe()
	return p, nil
}

// look is the work of one Look.
type look struct {
	cfg *configs.Node
	s   *pgctl.Server
	o   Options
	p   *Plan
	set map[string]string // the operator's settings
	ctl pgctl.Control
}

// describe completes what the operator is shown.
func (l *look) describe() {
	p, s := l.p, l.s
	change := func(format string, args ...any) { p.Changes = append(p.Changes, fmt.Sprintf(format, args...)) }
	keep := func(format string, args ...any) { p.Kept = append(p.Kept, fmt.Sprintf(format, args...)) }
	if p.Settings != "" {
		change("%s/postgresql.conf is made from %s", s.DataDir, p.Settings)
	}
	change("postgresql.conf ends in an include of what understudy manages, without which no server starts here: from now on only the daemon starts this database")
	if dropped := s.Overruled(); len(dropped) > 0 {
		change("of postgresql.auto.conf is taken out, because understudy decides it: %s", strings.Join(dropped, ", "))
	}
	change("who may connect is in postgresql.hba of %s (%s), and no longer in %s", l.cfg.File(), strings.Join(l.cfg.PostgreSQL.ClientHBA, "; "), orNone(s.AccessFile(), "a pg_hba.conf"))
	change("at its first start %s, who must exist in it as a superuser, makes the role understudy, and a slot understudy_floor is made", p.Superuser)
	if l.ctl.WALLevel == "minimal" {
		change("wal_level minimal becomes replica")
	}
	keep("all databases, roles and settings; the system identifier %d and timeline %d", p.SystemID, p.Timeline)
	for _, name := range l.slots() {
		keep("replication slot %s, which holds log back until its reader comes or it is dropped", name)
	}
	l.note()
}

// note says what does not stop a founding.
func (l *look) note() {
	note := func(format string, args ...any) { l.p.Notes = append(l.p.Notes, fmt.Sprintf(format, args...)) }
	if !l.ctl.DataChecksums {
		note("the database has no data checksums: damage on a disk is not seen by backups; wal_log_hints is turned on for it, so that an old primary can be rewound (pg_checksums --enable on the stopped database changes that)")
	}
	if l.archiving() {
		note("its archive_command goes on beside the group's own backups: %s", l.set["archive_command"])
	}
	if l.p.Restored != "" {
		note("it was restored from set %s: where the old backups lie, a group of the same name goes on with them, and understudy ledger rebuild --from LOCATION makes it know them", l.p.Restored)
	}
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

// archiving tells whether another tool takes the log.
func (l *look) archiving() bool {
	mode := strings.ToLower(l.set["archive_mode"])
	if mode != "on" && mode != "always" && mode != "true" && mode != "yes" && mode != "1" {
		return false
	}
	command := strings.TrimSpace(l.set["archive_command"])
	return l.set["archive_library"] != "" || command != "" && !slices.Contains([]string{"true", "/bin/true", "/usr/bin/true", ":", "(disabled)", "exit 0"}, command)
}
