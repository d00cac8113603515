// Package drill tries a restore out: into a scratch directory, with a scratch
// server, up to a moment; it compares what the database holds then with what
// the original held, and leaves nothing behind.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/standby/drill/digest"
	"understudy/standby/recover"
)

var (
	// ErrOccupied is returned when the scratch directory holds what no drill left
	// there.
	ErrOccupied = errors.New("the scratch directory is in use")
	// ErrNoVerdict is what an error of Server.Recover wraps that says nothing
	// about the backup: a location could not be reached, the disk is full.
	ErrNoVerdict = errors.New("this says nothing about the backup")
)

// Server is PostgreSQL on the restored directory. failover/pgctl has one.
type Server interface {
	// Recover starts it with these settings and waits until recovery ended as
	// they say; it then runs on and can be written to. seen is told how far
	// replay has come. An error speaks of the backup unless it wraps
	// ErrNoVerdict.
	Recover(ctx context.Context, settings map[string]string, seen func(pos.LSN)) (recover.Reached, error)
	// Stop ends it; one that does not run is fine.
	Stop(ctx context.Context) error
	// DSN is the connection string for a superuser.
	DSN(database string) string
}

// Config is one drill.
type Config struct {
	// Dir is the scratch directory. It is made, by this drill or one that died,
	// and removed with everything in it. Its parent must exist.
	Dir string
	// Request says what to restore. DataDir, Tablespaces, Mode and
	// the action at the target are the drill's to choose.
	Request recover.Request
	Sources recover.Sources
	// Server makes the server for the plan; its socket and log go into dir. It
	// is called once.
	Server func(dir string, p recover.Plan) (Server, error)
	// Spaces gives the tablespaces, by oid, of the database on this host; none
	// when there is none. Recovery of log in which one of them was created writes
	// into its directory, in which the live database has its files: nothing can
	// lead it elsewhere, so a drill with a set that is older is refused.
	Spaces func(ctx context.Context) ([]uint32, error)
	// Compare are digests of the original. One whose LSN is the target, not
	// inclusive, is compared with; others cannot be.
	Compare []digest.Snapshot
	Limits  digest.Limits
	Workers int
	// Progress is called at each step and a few times a second within; nil for
	// none.
	Progress func(Progress)
	Log      *slog.Logger // nil discards
}

// The phases of a drill.
const (
	PhasePlan    = "plan"
	PhaseFiles   = "files"
	PhaseRecover = "recover"
	PhaseCompare = "compare"
	PhaseRemove  = "remove"
)

// Progress is how far a drill is: bytes of files, or of log.
type Progress struct {
	Phase       string
	Done, Total int64
}

// Result is what a drill showed.
type Result struct {
	Target   string                   // the moment, as catalog.Parse reads it
	Duration time.Duration            // of all phases
	Phases   map[string]time.Duration // those that were entered
	Bytes    int64                    // of files
	LogBytes int64                    // of log that was replayed
	Reached  recover.Reached
	// Tables and Rows were read in the restored database; ComparedTables and
	// Compared, tables and rows of them, agree with the original's digests.
	Tables, ComparedTables int
	Rows, Compared         int64
	// OK: the set was restored and recovered to the target, and nothing differs
	// that could be compared.
	OK bool
	// Problem is why not, or why there is no verdict.
	Problem string
	// Notes are what was not shown, for a person.
	Notes []string
	// Places are faults of locations that others made up for.
	Places []recover.Problem
}

// run is one drill on its way.
type run struct {
	cfg    Config
	res    Result
	phase  string
	since  time.Time
	server Server
	known  map[uint32]bool // tablespaces of the set
	// set when the backup, and not this host or a caller, is at fault
	guilty bool
}

// Run carries out a drill. An error means that it came to no verdict, as when
// it was cancelled or the disk was full; a backup that cannot be restored is no
// error: Result says so. Server and directory are gone in any case, unless the
// disk does not let go of them, which is an error.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	r := &run{cfg: cfg, res: Result{Target: cfg.Request.Aim.Target.String(), Phases: map[string]time.Duration{}}}
	err := r.prepare()
	if err == nil {
		err = r.steps(ctx)
		r.enter(PhaseRemove)
		if rerr := r.remove(); rerr != nil {
			err, r.guilty = errors.Join(err, rerr), false
		}
	}
	r.enter("")
	r.res.Duration = time.Since(began)
	switch {
	case err == nil && r.res.Problem == "":
		r.res.OK = true
	case err != nil:
		if ctx.Err() != nil {
			err, r.guilty = errors.Join(context.Cause(ctx), err), false
		}
		r.res.Problem = err.Error()
	}
	if err == nil || r.guilty {
		return r.res, nil
	}
	return r.res, fmt.Errorf("drill: %w", err)
}

// enter begins a phase and ends the one before.
func (r *run) enter(phase string) {
	now := time.Now()
	if r.phase != "" {
		r.res.Phases[r.phase] += now.Sub(r.since)
	}
	r.phase, r.since = phase, now
	if phase != "" {
		r.progress(0, 0)
	}
}

func (r *run) progress(done, total int64) {
	if r.cfg.Progress != nil {
		r.cfg.Progress(Progress{Phase: r.phase, Done: done, Total: total})
	}
}

// markName is in every scratch directory of ours, as long as anything is in it.
const markName = "understudy.drill"

// prepare makes the scratch directory.
func (r *run) prepare() error {
	dir := r.cfg.Dir
	if r.cfg.Spaces == nil || r.cfg.Server == nil {
		return errors.New("a drill needs to be told of this host's tablespaces and given a server")
	}
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
		return fmt.Errorf("the scratch directory %q is not an absolute path below /", dir)
	}
	if err := Sweep(dir); err != nil {
		return err
	}
	// The server's account goes through it; what it holds is closed to others.
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("make the scratch directory: %w", err)
	}
	err := os.Chmod(dir, 0o711) // whatever the umask
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, markName), nil, 0o600)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "run"), 0o700)
	}
	if o := r.cfg.Request.Owner; err == nil && o != nil {
		err = os.Chown(filepath.Join(dir, "run"), o.UID, o.GID)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make the scratch directory: %w", err), r.remove())
	}
	return nil
}

// Sweep removes the scratch directory of a drill that died; one that is not
// there is fine. A directory that holds what no drill left is ErrOccupied.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep the scratch directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, markName)); err != nil && len(entries) > 0 {
		return fmt.Errorf("%w: %s holds what no drill left there; give another one, or empty it", ErrOccupied, dir)
	}
	if err := removeDir(dir); err != nil {
		return fmt.Errorf("sweep the scratch directory: %w", err)
	}
	return nil
}

// removeDir removes the mark last, so that a removal that is cut goes on at the
// next Sweep.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != markName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// stopTime is how long the scratch server gets for its end. It has nothing to
// keep.
const stopTime = 10 * time.Second

// remove ends the server and removes the directory, whatever ctx says.
func (r *run) remove() error {
	if r.server != nil {
		ctx, cancel := context.WithTimeoutCause(context.Background(), stopTime, errors.New("it took too long"))
		defer cancel()
		if err := r.server.Stop(ctx); err != nil {
			r.cfg.Log.Warn("the scratch server did not end cleanly", "error", err)
		}
	}
	return removeDir(r.cfg.Dir)
}

// steps restores, recovers and compares.
func (r *run) steps(ctx context.Context) error {
	r.enter(PhasePlan)
	p, err := r.plan(ctx)
	if err != nil {
		r.guilty = errors.Is(err, backupset.ErrDamaged) || errors.Is(err, recover.ErrDamaged)
		return err
	}
	r.enter(PhaseFiles)
	done, err := recover.Execute(ctx, p, r.cfg.Sources, recover.Options{Workers: r.cfg.Workers, Volatile: true, Log: r.cfg.Log,
		Progress: func(x recover.Progress) { r.progress(x.DoneBytes, x.TotalBytes) }})
	r.res.Bytes, r.res.Places = done.Bytes, done.Problems
	if err != nil {
		r.guilty = errors.Is(err, recover.ErrDamaged)
		return err
	}
	r.enter(PhaseRecover)
	if err := r.harmless(ctx); err != nil { // once more: some time has passed
		return err
	}
	if r.server, err = r.cfg.Server(filepath.Join(r.cfg.Dir, "run"), p); err != nil {
		return err
	}
	r.res.Reached, err = r.server.Recover(ctx, p.Settings(), func(at pos.LSN) { r.progress(int64(at.Sub(p.Start)), r.toReplay(p)) })
	if err != nil {
		r.guilty = !errors.Is(err, ErrNoVerdict) // the files were whole, and the log did not lead there
		return err
	}
	r.res.LogBytes = int64(r.res.Reached.LSN.Sub(p.Start))
	r.enter(PhaseCompare)
	return r.compare(ctx)
}

// toReplay is how much log the target needs; zero when that is not known.
func (r *run) toReplay(p recover.Plan) int64 {
	if t := r.cfg.Request.Aim.Target; t.Kind == catalog.AtLSN {
		return int64(t.LSN.Sub(p.Start))
	}
	return 0
}

// plan plans a restore in which nothing lies outside the scratch directory.
func (r *run) plan(ctx context.Context) (recover.Plan, error) {
	q := r.cfg.Request
	set, err := r.set(ctx, q.Label, q.Digest)
	if err != nil {
		return recover.Plan{}, err
	}
	q.Mode, q.DataDir, q.Port, q.TrustTimes = recover.Fresh, filepath.Join(r.cfg.Dir, "data"), 0, false
	q.Aim.Action = recover.Promote
	q.Tablespaces = map[uint32]string{}
	known := map[uint32]bool{}
	for _, s := range set.Tablespaces {
		if known[s.OID] = true; !s.InPlace {
			q.Tablespaces[s.OID] = filepath.Join(r.cfg.Dir, "spaces", strconv.FormatUint(uint64(s.OID), 10))
		}
	}
	r.known = known
	if err := r.harmless(ctx); err != nil {
		return recover.Plan{}, err
	}
	if len(q.Tablespaces) > 0 {
		if err := os.Mkdir(filepath.Join(r.cfg.Dir, "spaces"), 0o711); err != nil {
			return recover.Plan{}, err
		}
		if err := os.Chmod(filepath.Join(r.cfg.Dir, "spaces"), 0o711); err != nil {
			return recover.Plan{}, err
		}
	}
	return recover.MakePlan(ctx, q, r.cfg.Sources)
}

// harmless refuses a recovery that would write into a tablespace of this host.
func (r *run) harmless(ctx context.Context) error {
	live, err := r.cfg.Spaces(ctx)
	if err != nil {
		return fmt.Errorf("ask for the tablespaces of this host: %w", err)
	}
	for _, oid := range live {
		if !r.known[oid] {
			return fmt.Errorf("tablespace %d of this host is newer than set %s: recovery could write into its directory; take a new full backup and try that one", oid, r.cfg.Request.Label)
		}
	}
	return nil
}

// set reads set.json from the first place that has it.
func (r *run) set(ctx context.Context, label, want string) (backupset.Set, error) {
	var all error
	for _, p := range r.cfg.Sources.Places {
		set, err := readSet(ctx, p, r.cfg.Sources.Root.Object(label, backupset.SetName))
		if err == nil && (set.digest == want || want == "") && set.Label == label {
			return set.Set, nil
		}
		if err == nil {
			err = fmt.Errorf("%w: another %s than the catalog knows", backupset.ErrDamaged, backupset.SetName)
		}
		all = errors.Join(all, fmt.Errorf("location %s: %w", p.Name, err))
	}
	if all == nil {
		all = errors.New("no location to restore from was given")
	}
	return backupset.Set{}, all
}

// described is a set and the digest of its description.
type described struct {
	backupset.Set
	digest string
}

func readSet(ctx context.Context, p recover.Source, key string) (described, error) {
	in, err := p.Location.Open(ctx, key, 0, -1)
	if err != nil {
		return described{}, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, backupset.MaxSetBytes+1))
	if err != nil {
		return described{}, fmt.Errorf("read %s: %w", key, err)
	}
	set, err := backupset.DecodeSet(b)
	return described{set, backupset.Digest(b)}, err
}

func (r *run) dial(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, r.server.DSN(database))
}
