package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/cmd/internal/logserver"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/standby/drill"
	"understudy/standby/drill/digest"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

// drill tries a restore out and records what it showed.
func (w *work) drill(ctx context.Context) (Done, error) {
	d := w.spec.Drill
	if d == nil {
		return Done{}, errNoPart
	}
	w.noteDigests(ctx, d.ConnString) // for the next ones
	snaps := w.digests()
	choice, err := w.drillChoice(d, snaps)
	if err != nil {
		return Done{}, err
	}
	res, err := w.tryOut(ctx, d, choice, snaps)
	rec := facts.Drill{Label: choice.Set, Target: res.Target, Duration: res.Duration, Bytes: res.Bytes, Rows: res.Rows, Compared: res.Compared,
		OK: res.OK && err == nil, Problem: res.Problem}
	if len(choice.Locations) > 0 {
		rec.Location = choice.Locations[0]
	}
	if err == nil {
		err = w.port.Propose(ctx, facts.Command{RecordDrill: &facts.RecordDrill{Job: w.spec.Job, Drill: rec}})
	}
	for _, n := range res.Notes {
		w.log.Info("drill", "note", n)
	}
	if err == nil && !res.OK {
		err = errors.New(res.Problem)
	}
	return Done{Bytes: res.Bytes + res.LogBytes, Result: fmt.Sprintf("%s restored from %s in %s; %d of %d rows compared, all agree",
		res.Target, choice.Set, res.Duration.Round(100*time.Millisecond), res.Compared, res.Rows)}, err
}

// drillChoice is what is to be restored: what the operator said, else a moment
// of which digests are kept, at random, else any reachable one.
func (w *work) drillChoice(d *Drill, snaps []digest.Snapshot) (catalog.Choice, error) {
	o := catalog.Options{Locations: w.enabled()}
	if d.Target != "" {
		t, err := catalog.Parse(d.Target, Zone(d.TimeZone))
		if err != nil {
			return catalog.Choice{}, err
		}
		return catalog.Choose(*w.spec.Catalog, t, o)
	}
	for _, i := range rand.Perm(len(snaps)) {
		// The restore point behind the position has to be archived, too.
		t := catalog.Target{Kind: catalog.AtLSN, LSN: snaps[i].LSN}
		if c, err := catalog.Choose(*w.spec.Catalog, t, o); err == nil && c.Stop > snaps[i].LSN {
			return c, nil
		}
	}
	var moments []time.Time
	for _, i := range catalog.Reachable(*w.spec.Catalog, "").Intervals {
		if length := i.To.Sub(i.From); length > 0 {
			moments = append(moments, i.From.Add(time.Duration(rand.Int64N(int64(length)))))
		}
	}
	if len(moments) == 0 {
		return catalog.Choose(*w.spec.Catalog, catalog.Target{Kind: catalog.Immediate}, o)
	}
	return catalog.Choose(*w.spec.Catalog, catalog.Target{Kind: catalog.AtTime, Time: moments[rand.IntN(len(moments))]}, o)
}

// enabled are the locations that a restore may read now.
func (w *work) enabled() (names []string) {
	for _, n := range w.byOrder() {
		if !w.spec.Locations[n].Disabled {
			names = append(names, n)
		}
	}
	return names
}

// tryOut restores into a scratch directory below the state directory.
func (w *work) tryOut(ctx context.Context, d *Drill, choice catalog.Choice, snaps []digest.Snapshot) (drill.Result, error) {
	inst, err := pgctl.Find(d.BinDir)
	if err != nil {
		return drill.Result{}, err
	}
	account, err := pgctl.ResolveAccount(d.Account)
	if err != nil {
		return drill.Result{}, err
	}
	build, err := inst.Build(ctx, account)
	if err != nil {
		return drill.Result{}, err
	}
	tools, err := w.drillTools(ctx, account, choice)
	if err != nil {
		return drill.Result{}, err
	}
	defer tools.close()
	cfg := drill.Config{
		Dir: filepath.Join(w.cfg.StateDir, "drill"),
		Request: recover.Request{
			Label: choice.Set, Digest: w.spec.Catalog.Sets[choice.Set].Digest, Aim: recover.AimOf(choice, recover.Promote),
			Local:    recover.Local{Major: build.Major, Version: build.Version, Architecture: build.Architecture, BlockSize: build.BlockSize, CatalogVersion: build.CatalogVersion},
			SystemID: w.spec.Group.SystemID, RestoreCommand: tools.command, Now: time.Now(),
		},
		Sources: recover.Sources{Root: w.spec.Root(), Places: tools.sources},
		Spaces:  func(ctx context.Context) ([]uint32, error) { return tablespaces(ctx, d.ConnString) },
		Compare: snaps, Limits: digest.Limits{Time: digestTime}, Log: w.log,
		Server: func(dir string, p recover.Plan) (drill.Server, error) {
			return &scratch{&pgctl.Scratch{
				Install: inst, Account: account, DataDir: p.DataDir, SocketDir: filepath.Join(dir, "s"), Port: 5432,
				LogFile: filepath.Join(w.spec.Dir, "postgresql.log"), Settings: p.Settings(),
				Alive: func() uint64 { return uint64(tools.fetcher.Given()) }, Log: w.log,
			}}, nil
		},
	}
	if account.Switch {
		cfg.Request.Owner = &restore.Owner{UID: int(account.UID), GID: int(account.GID)}
	}
	m := &meter{w: w}
	cfg.Progress = func(p drill.Progress) { m.say(Progress{Step: p.Phase, Done: p.Done, Total: p.Total}) }
	return drill.Run(ctx, cfg)
}

// drillTools are what a drill's recovery gets its log from.
type drillTools struct {
	fetcher *archive.Fetcher
	sources []recover.Source
	command string
	dir     string
	stop    func() error
}

func (w *work) drillTools(ctx context.Context, account pgctl.Account, choice catalog.Choice) (*drillTools, error) {
	t := &drillTools{dir: filepath.Join(w.cfg.StateDir, "drill-log")}
	if err := os.RemoveAll(t.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(t.dir, 0o711); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	binary, err := logserver.ProgramFor(self, filepath.Join(t.dir, "understudy"), account)
	if err != nil {
		return nil, err
	}
	hand := filepath.Join(t.dir, "hand")
	own, err := logserver.Hand(hand, account)
	if err != nil {
		return nil, err
	}
	cfg := archive.FetchConfig{Hand: hand, Own: own, Root: w.spec.Root(), SystemID: w.spec.Group.SystemID, SegSize: w.spec.Group.SegSize,
		Path: archive.PathFrom(choice.Path), AllowPartial: true, Dir: filepath.Join(t.dir, "wal"), Log: w.log}
	for _, s := range choice.WAL {
		cfg.Known = max(cfg.Known, s.To)
	}
	for _, name := range w.enabled() {
		loc, err := w.location(name)
		if err != nil {
			w.log.Warn("open a location", "location", name, "error", err)
			continue
		}
		cfg.Places = append(cfg.Places, archive.Place{Name: name, Location: loc})
		t.sources = append(t.sources, recover.Source{Name: name, Location: loc})
	}
	if t.fetcher, err = archive.NewFetcher(cfg); err != nil {
		return nil, err
	}
	socket := filepath.Join(t.dir, "get.sock")
	t.command = archive.RestoreCommand(binary, socket, hand)
	if t.stop, err = logserver.Serve(ctx, socket, account, t.fetcher); err != nil {
		return nil, errors.Join(err, t.fetcher.Close())
	}
	return t, nil
}

func (t *drillTools) close() {
	_ = t.stop()            // a drill's result says what was not served
	_ = t.fetcher.Close()   // only frees
	_ = os.RemoveAll(t.dir) // the next one does it again
}

// tablespaces are those of the database on this host.
func tablespaces(ctx context.Context, conn string) ([]uint32, error) {
	c, err := pgx.Connect(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, "SELECT oid::bigint FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''")
	if err != nil {
		return nil, err
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	var out []uint32
	for _, o := range oids {
		out = append(out, uint32(o))
	}
	return out, err
}

// scratch is a drill's server.
type scratch struct{ s *pgctl.Scratch }

func (s *scratch) Recover(ctx context.Context, settings map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
	r, err := s.s.Recover(ctx, settings, seen)
	if errors.Is(err, location.ErrUnreachable) || errors.Is(err, archive.ErrUnknown) {
		err = fmt.Errorf("%w: %w", drill.ErrNoVerdict, err)
	}
	return recover.Reached{LSN: r.LSN, Time: r.Time, Timeline: r.Timeline, Stop: r.Stop}, err
}

func (s *scratch) Stop(ctx context.Context) error { return s.s.Stop(ctx) }

func (s *scratch) DSN(database string) string { return s.s.DSN("postgres", database) }
