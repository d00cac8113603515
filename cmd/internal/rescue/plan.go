package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/failover/pgctl"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

// Request is a restore as an operator asks for it.
type Request struct {
	To          string // data directory, absolute
	Set         string // label; empty leaves the choice
	Target      catalog.Target
	Mode        recover.Mode
	Port        int // of a database beside the original
	Tablespaces map[uint32]string
	// Promote opens the database for writing at the target. Without it the
	// database stops there, unless the target is the end of the log, where
	// PostgreSQL always opens.
	Promote     bool
	TrustTimes  bool
	AllowDamage bool
	BinDir      string // of PostgreSQL; empty looks for the right major version
	Account     string // that PostgreSQL runs as, for root
	// Extra is where the set's other files go; empty for nowhere.
	Extra string
	// Binary is this program, which PostgreSQL runs to fetch its log.
	Binary string
	Now    time.Time
}

// Plan is a restore that is possible as far as can be told before. Nothing was
// touched for it.
type Plan struct {
	Source    string            `json:"source"` // where it was learned what exists
	Group     string            `json:"group"`
	DataDir   string            `json:"data_dir"`
	Mode      recover.Mode      `json:"mode"`
	Target    string            `json:"target"`
	Timeline  pos.Timeline      `json:"timeline"` // along which it recovers
	Set       string            `json:"set"`
	SetEnded  time.Time         `json:"set_ended"`
	Locations []string          `json:"locations"` // that have the set, nearest first
	Bytes     int64             `json:"bytes"`     // of the set, as stored
	FileBytes int64             `json:"file_bytes"`
	FileN     int64             `json:"files"`
	WAL       []catalog.Stretch `json:"wal"`
	WALBytes  uint64            `json:"wal_bytes"`
	Spaces    []recover.Space   `json:"tablespaces,omitempty"`
	Port      int               `json:"port,omitempty"`
	Promotes  bool              `json:"promotes"`
	NewLine   pos.Timeline      `json:"new_timeline,omitempty"` // after the promotion
	Estimate  time.Duration     `json:"estimate_ns"`
	Measured  bool              `json:"measured"`          // the estimate comes from a drill
	Resumes   string            `json:"resumes,omitempty"` // what is gone on with
	Overwrite string            `json:"overwrites,omitempty"`
	Notes     []string          `json:"notes,omitempty"`
	// Extra are the other files of the set; nil when they stay where they are.
	Extra *Extra `json:"extra,omitempty"`
	// Steps is what happens to the files.
	Steps recover.Plan `json:"steps"`

	knowledge *Knowledge
	install   pgctl.Install // of the server that recovers
	account   pgctl.Account
	binary    string
	choice    catalog.Choice
	root      recover.Sources // that have the set
	places    []archive.Place // that may have log
	status    *recover.Status // of an earlier run
	retarget  bool            // the database stopped at its target and goes on
}

// MakePlan finds the set, the log and the way, and looks at the destination. A
// target that cannot be reached is a *catalog.Refusal; what must not be done
// wraps ErrRefused, recover.ErrRefused or recover.ErrOccupied.
func (k *Knowledge) MakePlan(ctx context.Context, r Request) (*Plan, error) {
	if !filepath.IsAbs(r.To) || filepath.Clean(r.To) == "/" {
		return nil, refused("the directory to restore to, %q, is not an absolute path below /", r.To)
	}
	r.To = filepath.Clean(r.To)
	if err := k.guard(r.To); err != nil {
		return nil, err
	}
	if err := portFree(r.Port); err != nil {
		return nil, err
	}
	if len(k.Catalog.Sets) == 0 {
		return nil, refused("there is no full backup at %s yet", strings.Join(k.names(), ", "))
	}
	p := &Plan{Source: k.Source, Group: k.Root.Group, DataDir: r.To, Mode: r.Mode, Target: r.Target.String(), Port: r.Port,
		Promotes: r.Promote || r.Target.Kind == catalog.Latest, binary: r.Binary, knowledge: k, Measured: k.Measured}
	p.Notes = append(p.Notes, k.Warnings...)
	earlier, err := earlier(r)
	if err != nil {
		return nil, err
	}
	if earlier != nil {
		p.status, r.Set = earlier, earlier.Plan.Label
		if r.Target.Timeline == 0 {
			r.Target.Timeline = earlier.Plan.Aim.Along
		}
	}
	if err := p.choose(r); err != nil {
		return nil, err
	}
	if err := p.tools(r); err != nil {
		return nil, err
	}
	if err := p.steps(ctx, r); err != nil {
		return nil, err
	}
	if err := p.spares(); err != nil {
		return nil, err
	}
	if r.Extra != "" {
		if overlap(r.Extra, r.To) {
			return nil, refused("the other files cannot go to %s, which overlaps the data directory %s", r.Extra, r.To)
		}
		if p.Extra, err = k.MakeExtra(ctx, p.Set, r.Extra); err != nil {
			return nil, err
		}
	}
	p.describe(r)
	return p, nil
}

func portFree(port int) error {
	if port == 0 {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return refused("port %d is taken on this machine; choose another for the database beside the original", port)
	}
	return l.Close()
}

// choose picks the set and the log.
func (p *Plan) choose(r Request) error {
	k := p.knowledge
	c, err := catalog.Choose(k.Catalog, r.Target, catalog.Options{Locations: k.names(), Set: r.Set})
	if err != nil {
		return err
	}
	set := k.Catalog.Sets[c.Set]
	p.choice, p.Set, p.SetEnded, p.Locations, p.Bytes = c, c.Set, set.Ended, c.Locations, c.Bytes
	p.Timeline, p.WAL, p.WALBytes = c.Timeline(), c.WAL, c.WALBytes()
	p.Notes = append(p.Notes, c.Notes...)
	for _, l := range k.Places {
		p.places = append(p.places, archive.Place{Name: l.Name, Location: l.Location})
		if slices.Contains(c.Locations, l.Name) {
			p.root.Places = append(p.root.Places, recover.Source{Name: l.Name, Location: l.Location})
		}
	}
	p.root.Root = k.Root
	return nil
}

// tools finds the server binaries and the account.
func (p *Plan) tools(r Request) (err error) {
	k := p.knowledge
	bin, name := r.BinDir, r.Account
	if k.node != nil && k.node.PostgreSQL != nil {
		bin, name = cmp.Or(bin, k.node.PostgreSQL.BinDir), cmp.Or(name, k.node.PostgreSQL.Account)
	}
	if p.install, err = findInstall(bin, k.Catalog.Major); err != nil {
		return refused("%w", err)
	}
	if p.account, err = pgctl.ResolveAccount(name); err != nil {
		return refused("%w", err)
	}
	return nil
}

// findInstall finds binaries of a major version.
func findInstall(hint string, major int) (pgctl.Install, error) {
	in, err := pgctl.Find(hint)
	if hint != "" || err != nil || major == 0 || in.Major == major {
		return in, err
	}
	if in, ok := pgctl.FindMajor(major); ok {
		return in, nil
	}
	return pgctl.Install{}, fmt.Errorf("the backups are of PostgreSQL %d, and this machine has %d only: install %d, or name its folder with --bin-dir", major, in.Major, major)
}

// steps makes the plan of the files, or takes that of an earlier run.
func (p *Plan) steps(ctx context.Context, r Request) error {
	action := recover.Shutdown
	if p.Promotes {
		action = recover.Promote
	}
	aim := recover.AimOf(p.choice, action)
	if p.status != nil {
		p.Steps = p.status.Plan
		return p.goOn(aim)
	}
	build, err := p.install.Build(ctx, p.account)
	if err != nil {
		return err
	}
	req := recover.Request{
		Mode: r.Mode, DataDir: r.To, Label: p.Set, Digest: p.knowledge.Catalog.Sets[p.Set].Digest, Aim: aim,
		Local:    recover.Local{Major: build.Major, Version: build.Version, Architecture: build.Architecture, BlockSize: build.BlockSize, CatalogVersion: build.CatalogVersion},
		SystemID: p.knowledge.Catalog.SystemID, Tablespaces: r.Tablespaces, RestoreCommand: newRunDir(r.To).restoreCommand(r.Binary),
		Port: r.Port, TrustTimes: r.TrustTimes, AllowDamage: r.AllowDamage, Now: r.Now,
	}
	if p.account.Switch {
		req.Owner = &restore.Owner{UID: int(p.account.UID), GID: int(p.account.GID)}
	}
	p.Steps, err = recover.MakePlan(ctx, req, p.root)
	if errors.Is(err, recover.ErrOccupied) {
		err = fmt.Errorf("%w; with --delta it is restored over, with another --to it stays", err)
	}
	return err
}

// earlier is an earlier run of the same request in the directory; nil when there
// is none to go on with.
func earlier(r Request) (*recover.Status, error) {
	s, err := recover.Inspect(r.To)
	if errors.Is(err, recover.ErrNoRestore) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	same := s.Plan.Mode == r.Mode && (r.Set == "" || r.Set == s.Plan.Label) && s.Plan.Port == r.Port
	stopped := s.Step == recover.Finished && s.Plan.Aim.Action == recover.Shutdown
	switch {
	case same && stopped:
		return &s, nil // to be opened, or gone on with
	case same && sameTarget(s.Plan.Aim.Target, r.Target):
		return &s, nil
	case r.Mode == recover.Delta:
		return nil, nil // it is restored over
	case s.Step == recover.Finished:
		return nil, refused("%s holds a database that was restored from set %s to %s; restore over it with --delta, or to another directory", r.To, s.Plan.Label, s.Plan.Aim.Target)
	}
	return nil, refused("an interrupted restore (set %s, to %s, mode %s) lies in %s; repeat its command to go on with it, or restore over it with --delta", s.Plan.Label, s.Plan.Aim.Target, s.Plan.Mode, r.To)
}

func sameTarget(a, b catalog.Target) bool {
	return a.Kind == b.Kind && a.Time.Equal(b.Time) && a.LSN == b.LSN && a.XID == b.XID && a.Name == b.Name && a.Inclusive == b.Inclusive && (a.Timeline == b.Timeline || b.Timeline == 0)
}

// goOn sees what is left to do of an earlier run.
func (p *Plan) goOn(aim recover.Aim) error {
	s := p.status
	same := sameTarget(s.Plan.Aim.Target, aim.Target)
	var reached recover.Reached
	if s.Reached != nil {
		reached = p.lookBack(*s.Reached)
	}
	switch {
	case s.Step != recover.Finished:
		p.Resumes = fmt.Sprintf("the restore that was begun at %s and came to the step %s", s.Plan.Made.UTC().Format(time.DateTime+" UTC"), s.Step)
		p.Promotes = s.Plan.Aim.Action != recover.Shutdown
	case s.Plan.Aim.Action != recover.Shutdown:
		p.Resumes = "nothing: this restore is done"
	case same && aim.Action == recover.Shutdown:
		p.Resumes = "nothing: this restore is done, and the database stopped at its target; --promote opens it"
	case !same && before(aim.Target, reached):
		return refused("the database in %s stopped at %s already, and a recovery cannot go back; restore over it with --delta", p.DataDir, reachedText(reached))
	default:
		p.Resumes = "the recovery that stopped at " + reachedText(reached)
		p.retarget, p.Steps.Aim = true, aim
	}
	return nil
}

// before tells that a target lies before what was reached already.
func before(t catalog.Target, r recover.Reached) bool {
	switch t.Kind {
	case catalog.AtTime:
		return t.Time.Before(r.Time)
	case catalog.AtLSN:
		return t.LSN < r.LSN
	case catalog.Immediate:
		return true
	}
	return false
}

func reachedText(r recover.Reached) string {
	text := r.LSN.String()
	if !r.Time.IsZero() {
		text += " (last commit of " + r.Time.UTC().Format("2006-01-02 15:04:05.999999 UTC") + ")"
	}
	return text
}

// describe completes what the operator is shown.
func (p *Plan) describe(r Request) {
	s := p.Steps
	p.FileBytes, p.FileN, p.Spaces, p.Mode = s.Bytes, s.FileN, s.Spaces, s.Mode
	p.Notes = append(p.Notes, s.Notes...)
	p.Estimate = catalog.Estimate(p.choice, p.knowledge.Rates)
	if p.Promotes && p.Mode != recover.Beside {
		p.NewLine = p.newTimeline()
	}
	if p.Mode == recover.Delta && !p.retarget && p.Resumes == "" {
		p.Overwrite = "everything in " + p.DataDir
		for _, sp := range p.Spaces {
			if !sp.InPlace {
				p.Overwrite += ", and of tablespace " + strconv.FormatUint(uint64(sp.OID), 10) + " in " + sp.Dir
			}
		}
	}
	if n := p.knowledge.node; n != nil && n.PostgreSQL != nil && overlap(p.DataDir, n.PostgreSQL.DataDir) {
		p.Notes = append(p.Notes, fmt.Sprintf("%s is the data directory of node %s: its group knows nothing of this restore, and while other nodes of it live they decide what is there; understudy restore --group takes a whole group back", p.DataDir, n.Name))
	}
	if r.Target.Kind == catalog.Latest && !r.Promote && p.Resumes == "" {
		p.Notes = append(p.Notes, "at the end of the log PostgreSQL opens for writing, also without --promote")
	}
}

// newTimeline is an id that nobody has used: what is restored must not be taken
// for a branch of the history that the group has left.
func (p *Plan) newTimeline() pos.Timeline {
	newest := max(p.knowledge.Catalog.Newest(), p.knowledge.LastTimeline, p.Timeline)
	return newest + 1
}
