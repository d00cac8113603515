// Package restore is the receiving side of a seed: it fills an empty data
// directory with a base backup that another node sends, so that an interrupted
// seed goes on where it was cut, and so that PostgreSQL cannot start on a half
// one. DESIGN.md lists the steps and what a crash at each leaves behind.
package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// Config says where the base goes and what it must be.
type Config struct {
	// DataDir is the data directory; it is made when missing. It may be a
	// symbolic link to a directory.
	DataDir string
	// Major is the major version of the PostgreSQL that will run on it, such
	// as 15; zero accepts any.
	Major int
	// SystemID is the system identifier the base must have; zero accepts any.
	SystemID uint64
	// Node is the name this node gives itself in the ask; for the sender's log.
	Node string
	// TablespaceMap says where an out-of-place tablespace goes on this host,
	// as an absolute path; nil means the same path as on the sender.
	TablespaceMap func(oid uint32, location string) (string, error)
	// Owner gets every file and directory; nil leaves them to the account of
	// this process.
	Owner *Owner
	// Progress is called about once per 16 MiB and at each step, from the
	// goroutine of Seed; nil for none.
	Progress func(Progress)
	// Step is called with the name of each step before it is done; an error
	// ends the seed there, as a cut would. Nil for none.
	Step func(step string) error
	// Log receives the outcome; nil discards.
	Log *slog.Logger
}

// Owner is a numeric account.
type Owner struct{ UID, GID int }

// Progress tells how far a seed is. SameBytes is the part of DoneBytes that
// was there already; TotalBytes is PostgreSQL's estimate, so DoneBytes may
// pass it.
type Progress struct {
	Step                             string
	DoneBytes, TotalBytes, SameBytes uint64
}

// Result describes a finished seed. Recovery of the base begins at StartLSN
// and is consistent at EndLSN, both on Timeline; the WAL between them is not
// part of the base.
type Result struct {
	StartLSN, EndLSN pos.LSN
	Timeline         pos.Timeline
	Bytes, SameBytes uint64
}

// Errors a caller acts on. All but ErrBase need a person, or another directory
// or node; every other error of Seed may pass when it is called again.
var (
	// ErrForeignDir is returned when the data directory holds something that
	// no interrupted seed left there. Nothing was changed.
	ErrForeignDir = errors.New("data directory is not empty")
	// ErrRefused is returned when the sender said that it will not seed this
	// node.
	ErrRefused = errors.New("seed refused by the sending node")
	// ErrMismatch is returned when the sender's database is another one than
	// expected, or of another major version. Nothing was changed.
	ErrMismatch = errors.New("the sending node has another database")
	// ErrTablespace is returned when a tablespace has no safe place here.
	ErrTablespace = errors.New("tablespace cannot be placed")
	// ErrProtocol is returned when the sender sent what no sender may send.
	ErrProtocol = errors.New("the sending node broke the seed protocol")
	// ErrBase is returned when the base that arrived does not match its own
	// manifest. A further Seed sends again what differs.
	ErrBase = errors.New("the base is damaged")
)

// The steps of a seed, in order, as Config.Step and Progress name them.
const (
	StepAsk       = "ask"       // the sides introduce themselves
	StepHave      = "have"      // what is already here is listed
	StepMark      = "mark"      // the directory is marked as being seeded
	StepClear     = "clear"     // pg_control and tablespace links are taken away
	StepFiles     = "files"     // files arrive; called for each file
	StepVerify    = "verify"    // what arrived is compared with the manifest
	StepStale     = "stale"     // what is not in the base is removed
	StepLayout    = "layout"    // directories, links, owners
	StepSync      = "sync"      // everything is made durable
	StepControl   = "control"   // pg_control gets its name
	StepUnmarkOut = "unmarkout" // marks of tablespaces go
	StepUnmark    = "unmark"    // the mark goes; the directory is a cluster
)

// Steps lists the steps in order.
func Steps() []string {
	return []string{StepAsk, StepHave, StepMark, StepClear, StepFiles, StepVerify, StepStale, StepLayout, StepSync, StepControl, StepUnmarkOut, StepUnmark}
}

// idleTimeout bounds the wait for one frame from or to the sender.
const idleTimeout = 2 * time.Minute

// Seed asks the node at the other end of conn for a base and stores it. When
// it returns without an error every byte is durable and the directory is a
// cluster that PostgreSQL can start on once it gets its WAL from StartLSN on.
// After an error it is called again, on a new connection, until it succeeds:
// chunks that are already here are not sent again. conn belongs to the caller
// and is of no further use. Only one Seed may run on a directory.
func Seed(ctx context.Context, conn net.Conn, cfg Config) (Result, error) {
	res, err := seed(ctx, conn, cfg)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return Result{}, fmt.Errorf("seed %s: %w", cfg.DataDir, err)
	}
	return res, nil
}

func seed(ctx context.Context, conn net.Conn, cfg Config) (Result, error) {
	s, err := newSeeding(ctx, conn, cfg)
	if err != nil {
		return Result{}, err
	}
	defer s.tree.close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.receive(); err != nil {
		s.tellWhy(err)
		return Result{}, err
	}
	if err := s.finish(); err != nil {
		return Result{}, err
	}
	r := Result{StartLSN: s.end.StartLSN, EndLSN: s.end.EndLSN, Timeline: s.end.Timeline, Bytes: s.done, SameBytes: s.same}
	s.cfg.Log.Info("seed finished", "bytes", r.Bytes, "same_bytes", r.SameBytes, "start_lsn", r.StartLSN.String(), "end_lsn", r.EndLSN.String(), "timeline", uint32(r.Timeline))
	return r, nil
}

// seeding is one call of Seed.
type seeding struct {
	ctx  context.Context
	conn net.Conn
	cfg  Config
	in   *frame.Reader
	out  *frame.Writer
	mark Mark
	tree *tree

	sameHost      bool // the sender runs on this host
	plan          plan
	end           end
	dirty         bool // something was here before this call
	oldMajor      int  // major version of what was here; zero when unknown
	list          *listing
	group         bool   // the base grants its group access
	done          uint64 // bytes of files dealt with
	same          uint64 // part of done that was here
	shown         uint64 // done at the last progress report
	fileN         uint64
	manifestBytes int64 // bytes of manifest received
}

func newSeeding(ctx context.Context, conn net.Conn, cfg Config) (*seeding, error) {
	if cfg.DataDir == "" || !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("the data directory %q is not an absolute path", cfg.DataDir)
	}
	cfg.DataDir = filepath.Clean(cfg.DataDir)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	state, err := Inspect(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	s := &seeding{ctx: ctx, conn: conn, cfg: cfg, in: frame.NewReader(conn), out: frame.NewWriter(conn), tree: &tree{base: cfg.DataDir, owner: cfg.Owner}}
	switch state {
	case Empty:
		s.mark = Mark{DataDir: cfg.DataDir}
	case Partial:
		s.dirty = true
		if s.mark, err = ReadMark(cfg.DataDir); err != nil {
			return nil, err
		}
		if s.mark.SystemID != 0 && cfg.SystemID != 0 && s.mark.SystemID != cfg.SystemID {
			// Another database was being seeded here: the chunks are of no
			// use, but the place is ours.
			cfg.Log.Warn("directory was being seeded with another database", "system_id", s.mark.SystemID)
		}
		s.mark.DataDir, s.oldMajor = cfg.DataDir, s.mark.Major
	case Cluster:
		return nil, fmt.Errorf("%w: %s holds a PostgreSQL cluster, which a seed does not overwrite unless it was claimed for that", ErrForeignDir, cfg.DataDir)
	default:
		return nil, fmt.Errorf("%w: %s holds files that no seed left there; empty it or set another data directory", ErrForeignDir, cfg.DataDir)
	}
	return s, nil
}

// step announces a step and asks whether to go on.
func (s *seeding) step(name string) error {
	if err := s.ctx.Err(); err != nil {
		return context.Cause(s.ctx)
	}
	if s.cfg.Step != nil {
		if err := s.cfg.Step(name); err != nil {
			return fmt.Errorf("step %s: %w", name, err)
		}
	}
	if name != StepFiles {
		s.report(name)
	}
	return nil
}

func (s *seeding) report(step string) {
	s.shown = s.done
	if s.cfg.Progress != nil {
		s.cfg.Progress(Progress{Step: step, DoneBytes: s.done, TotalBytes: s.plan.EstimateBytes, SameBytes: s.same})
	}
}
