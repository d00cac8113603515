package rescue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"understudy/cmd/internal/logserver"
	"understudy/failover/pgctl"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/standby/recover"
)

// The phases of a run.
const (
	PhaseFiles = "files" // are written
	PhaseLog   = "log"   // is replayed
)

// Progress tells how far a run is.
type Progress struct {
	Phase string
	Step  string // of the files, see recover.Steps
	// Done and Total are bytes; Same of Done were there already.
	Done, Total, Same uint64
	At                pos.LSN       // replayed
	Left              time.Duration // of the whole restore; zero while unknown
}

// RunOptions are those of one Run.
type RunOptions struct {
	Workers int // zero chooses
	// Progress is called by one goroutine at a time; nil for none.
	Progress func(Progress)
	// Step is called before each step of the files; an error ends the run there,
	// as a crash would. Nil for none.
	Step func(step string) error
}

// Outcome is what came out of a restore.
type Outcome struct {
	DataDir  string          `json:"data_dir"`
	Mode     recover.Mode    `json:"mode"`
	Set      string          `json:"set"`
	Target   string          `json:"target"`
	Reached  recover.Reached `json:"reached"`
	Opened   bool            `json:"opened"` // it was open for writing once, and was stopped
	Port     int             `json:"port,omitempty"`
	SystemID uint64          `json:"system_id,string"`
	// FileBytes were written or found as they shall be; SameBytes of them were
	// found, FetchedBytes were read from locations.
	FileBytes    int64             `json:"file_bytes"`
	SameBytes    int64             `json:"same_bytes"`
	FetchedBytes int64             `json:"fetched_bytes"`
	Problems     []recover.Problem `json:"problems,omitempty"` // at locations, got round
	Took         time.Duration     `json:"took_ns"`
	Next         []string          `json:"next"` // what to do now, a sentence each
	Dropped      string            `json:"dropped,omitempty"`
	Extra        *recover.Extra    `json:"extra,omitempty"` // other files of the set
}

// Run carries the plan out: files, log, and what follows. After an error or a
// crash the same request is planned again, which goes on where it was cut.
func (p *Plan) Run(ctx context.Context, o RunOptions) (Outcome, error) {
	if err := reachable(p.DataDir, p.account); err != nil {
		return Outcome{}, err
	}
	d := newRunDir(p.DataDir)
	lock, err := d.take()
	if err != nil {
		return Outcome{}, err
	}
	defer lock.Close() // frees it, whoever removed the file
	r := &run{p: p, o: o, dir: d, began: time.Now()}
	out, err := r.all(ctx)
	if err != nil {
		return out, r.explain(err)
	}
	if p.Extra != nil { // last: the same command again finds the database done
		x, err := p.Extra.Run(ctx)
		if err != nil {
			return out, r.explain(err)
		}
		out.Extra = &x
	}
	out.Took = time.Since(r.began)
	if p.knowledge.Drop != "" {
		if err := emptyDrop(p.knowledge.Drop, p.knowledge.Catalog.SegSize); err != nil {
			p.knowledge.log.Warn("the drop directory was not emptied", "error", err)
		} else {
			out.Dropped = p.knowledge.Drop
		}
	}
	return out, d.remove()
}

// run is a restore under way.
type run struct {
	p     *Plan
	o     RunOptions
	dir   runDir
	began time.Time
	files recover.Result
}

// explain adds what to do, and where the server's own words are.
func (r *run) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted: %w", err)
	}
	if !errors.Is(err, pgctl.ErrTargetMissed) {
		err = fmt.Errorf("%w; the same command goes on where it was cut", err)
	}
	if fi, serr := os.Stat(r.dir.serverLog()); serr == nil && fi.Size() > 0 {
		return fmt.Errorf("%w; the server's log is %s", err, r.dir.serverLog())
	}
	return err
}

func (r *run) all(ctx context.Context) (Outcome, error) {
	p := r.p
	binary, err := r.dir.programFor(p.binary, p.account)
	if err != nil {
		return Outcome{}, err
	}
	if p.retarget {
		if p.Steps, err = recover.Retarget(p.DataDir, p.Steps.Aim); err != nil {
			return Outcome{}, err
		}
	}
	if r.files, err = recover.Execute(ctx, p.Steps, p.root, recover.Options{Workers: r.o.Workers, Progress: r.showFiles, Step: r.o.Step, Log: p.knowledge.log}); err != nil {
		return Outcome{}, err
	}
	p.Steps.RestoreCommand = r.dir.restoreCommand(binary)
	reached, err := r.recover(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if !p.Promotes {
		reached = p.lookBack(reached)
		if err := recover.Tell(p.Steps, reached); err != nil {
			return Outcome{}, err
		}
	}
	return r.outcome(reached), nil
}

// recover runs the server up to the target, with its log at hand.
func (r *run) recover(ctx context.Context) (recover.Reached, error) {
	p := r.p
	own, err := logserver.Hand(r.dir.hand(), p.account)
	if err != nil {
		return recover.Reached{}, err
	}
	f, err := archive.NewFetcher(archive.FetchConfig{
		Hand: r.dir.hand(), Own: own,
		Places: p.places, Drop: p.knowledge.Drop, Root: p.knowledge.Root, SystemID: p.Steps.SystemID, SegSize: p.Steps.Server.SegSize,
		Path: archive.PathFrom(p.choice.Path), Known: p.known(), AllowPartial: true, Dir: r.dir.ahead(), Log: p.knowledge.log,
	})
	if err != nil {
		return recover.Reached{}, err
	}
	defer f.Close() // only frees; the folder goes with it
	stop, err := r.serve(ctx, f)
	if err != nil {
		return recover.Reached{}, err
	}
	defer stop()
	s := &pgctl.Scratch{
		Install: p.install, Account: p.account, DataDir: p.DataDir, SocketDir: r.dir.pgSocket(), Port: 5432, LogFile: r.dir.serverLog(),
		Alive: func() uint64 { return uint64(f.Given()) }, Log: p.knowledge.log,
	}
	return recover.Complete(ctx, p.Steps, r.engine(s), recover.CompleteOptions{To: p.choice.Stop, Progress: r.showLog})
}

// known is up to where the log must exist.
func (p *Plan) known() (to pos.LSN) {
	for _, s := range p.WAL {
		to = max(to, s.To)
	}
	return to
}

// serve answers PostgreSQL's questions for log until the function it returns is
// called.
func (r *run) serve(ctx context.Context, f *archive.Fetcher) (stop func(), err error) {
	end, err := logserver.Serve(ctx, r.dir.socket(), r.p.account, f)
	if err != nil {
		return nil, err
	}
	return func() {
		if err := end(); err != nil {
			r.p.knowledge.log.Warn("the log was not served to the end", "error", err)
		}
	}, nil
}

// engine is the recovering server. A promotion takes a timeline that nobody has
// used.
func (r *run) engine(s *pgctl.Scratch) recover.Engine {
	p := r.p
	srv := &pgctl.Server{Install: p.install, Account: p.account, DataDir: p.DataDir}
	return recover.Engine{
		Recover: func(ctx context.Context, set map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
			free := p.NewLine > p.Timeline && p.Timeline != 0
			if free {
				// One that has a history already is from a promotion of an earlier run.
				if err := srv.BurnTimelines(p.Timeline, p.NewLine); err != nil && !errors.Is(err, pgctl.ErrTimelineTaken) {
					p.knowledge.log.Warn("the new timeline is PostgreSQL's own choice", "error", err)
				}
			}
			got, err := s.Recover(ctx, set, seen)
			if free {
				if uerr := srv.UnburnTimelines(p.Timeline, p.NewLine); uerr != nil {
					p.knowledge.log.Warn("histories that hold timelines free were left", "error", uerr)
				}
			}
			return recover.Reached{LSN: got.LSN, Time: got.Time, Timeline: got.Timeline, Stop: got.Stop}, r.nearest(err)
		},
		Stop:  s.Stop,
		Renew: s.Renew,
	}
}

// nearest says what can be done instead when the log ended before the target.
func (r *run) nearest(err error) error {
	if !errors.Is(err, pgctl.ErrTargetMissed) {
		return err
	}
	for _, iv := range catalog.Reachable(r.p.knowledge.Catalog, "").Intervals {
		if iv.Timeline == r.p.Timeline && iv.From.Before(iv.To) {
			return fmt.Errorf("%w; the last moment on timeline %d that is known to be in the log is before %s; restore over it with --delta and another target", err, iv.Timeline, iv.To.UTC().Format(time.RFC3339Nano))
		}
	}
	return err
}

func (r *run) showFiles(g recover.Progress) {
	if r.o.Progress == nil {
		return
	}
	left := g.Left
	if left > 0 {
		c := r.p.choice
		c.Bytes, c.RawBytes = 0, 0
		left += catalog.Estimate(c, r.p.knowledge.Rates)
	}
	r.o.Progress(Progress{Phase: PhaseFiles, Step: g.Step, Done: uint64(g.DoneBytes), Total: uint64(g.TotalBytes), Same: uint64(g.SameBytes), Left: left})
}

func (r *run) showLog(g recover.RecoveryProgress) {
	if r.o.Progress == nil {
		return
	}
	p := Progress{Phase: PhaseLog, Done: g.At.Sub(g.From), At: g.At, Left: g.Left}
	if g.To > g.From {
		p.Total = g.To.Sub(g.From)
	}
	r.o.Progress(p)
}

// outcome says what came out and what to do next.
func (r *run) outcome(reached recover.Reached) Outcome {
	p := r.p
	out := Outcome{
		DataDir: p.DataDir, Mode: p.Mode, Set: p.Set, Target: p.Target, Reached: reached, Opened: p.Promotes, Port: p.Steps.Port, SystemID: p.Steps.SystemID,
		FileBytes: r.files.Bytes, SameBytes: r.files.SameBytes, FetchedBytes: r.files.FetchedBytes, Problems: r.files.Problems,
	}
	if p.Steps.NewSystemID != 0 {
		out.SystemID = p.Steps.NewSystemID
	}
	out.Next = p.next()
	return out
}

func (p *Plan) next() []string {
	start := fmt.Sprintf("%s -D %s -l %s start", shell(p.install.BinDir+"/pg_ctl"), shell(p.DataDir), shell(p.DataDir+"/server.log"))
	if p.account.Switch {
		start = fmt.Sprintf("runuser -u %s -- %s", p.account.Name, start)
	}
	if !p.Promotes {
		return []string{
			"It does not start by itself as long as it was not opened: repeat the command with --promote to open it here, or with a later --target to go on.",
		}
	}
	next := []string{"Start it with: " + start}
	switch p.Mode {
	case recover.Beside:
		next = append(next, fmt.Sprintf("It listens on port %d, has an identity of its own and archives nothing.", p.Steps.Port))
	default:
		next = append(next, "Look into it before clients do: who may connect is in its pg_hba.conf, the postgresql.hba of a node file is in no backup. Archiving and replication are off in its postgresql.auto.conf; understudy sets them when a group takes it over.",
			"A group is founded on it, stopped, with understudy init --adopt: its directory is postgresql.data_dir of the node file then.")
	}
	return next
}

// shell quotes a word for a shell where that is needed.
func shell(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@=:", r))
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
