// Package basebackup is the sending side of a seed: it reads one BASE_BACKUP
// from the local PostgreSQL and streams its files, in chunks, to a node that
// asked for them. Chunks that the asker already holds are named, not sent.
package basebackup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"understudy/shipper/basestream"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// Config says which server is copied and how.
type Config struct {
	// ConnString leads to the local PostgreSQL, as a role with REPLICATION.
	// The replication parameter is added here.
	ConnString string
	// SystemID is the system identifier the server must have; zero accepts
	// any.
	SystemID uint64
	// Major is the server's major version, such as 15; zero accepts any.
	Major int
	// Label goes into backup_label; the default is "understudy seed".
	Label string
	// MaxRate bounds the copy in kB/s, 32 to 1048576; zero is no bound.
	MaxRate int
	// Log receives start and end of a seed; nil discards.
	Log *slog.Logger
}

// Validate checks the values that do not need a server.
func (c Config) Validate() error { return c.stream().Validate() }

// stream is the part of the configuration that concerns PostgreSQL.
func (c Config) stream() basestream.Config {
	return basestream.Config{ConnString: c.ConnString, Application: "understudy seed", Label: c.Label, RateKB: c.MaxRate}
}

// ErrRefused is returned by Serve when the asker was told why it gets no
// seed, or itself said why it wants none. Repeating the ask unchanged cannot
// help.
var ErrRefused = errors.New("seed refused")

// Plan is what the sender says before the first file.
type Plan struct {
	SystemID      uint64       `json:"system_id,string"`
	Major         int          `json:"major"`
	StartLSN      pos.LSN      `json:"start_lsn"`
	Timeline      pos.Timeline `json:"timeline"`
	EstimateBytes uint64       `json:"estimate_bytes"` // PostgreSQL's guess, made before the copy
	Tablespaces   []Tablespace `json:"tablespaces,omitempty"`
}

// Tablespace is one tablespace of the server that is copied.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"` // as the server names it
	InPlace  bool   `json:"in_place"` // a plain directory below pg_tblspc
	// Device and Inode identify the directory on the sender's host; both are
	// zero when it could not be read.
	Device uint64 `json:"device,string"`
	Inode  uint64 `json:"inode,string"`
}

// planOf is the plan of a backup that has begun on src.
func planOf(src *basestream.Stream, p basestream.Plan) Plan {
	out := Plan{SystemID: src.SystemID, Major: src.Major, StartLSN: p.Start, Timeline: p.Timeline, EstimateBytes: p.Estimate}
	for _, t := range p.Spaces {
		out.Tablespaces = append(out.Tablespaces, describe(t))
	}
	return out
}

func describe(s basestream.Space) Tablespace {
	t := Tablespace{OID: s.OID, Location: s.Location, InPlace: s.InPlace}
	if t.InPlace {
		return t
	}
	if fi, err := os.Stat(t.Location); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			t.Device, t.Inode = uint64(st.Dev), st.Ino
		}
	}
	return t
}

// Serve answers one seed ask on conn: it reads the ask and the list of chunks
// the asker holds, runs BASE_BACKUP and streams it. It returns nil when the
// asker has confirmed that every frame arrived; the files need not be durable
// there yet. conn stays open and belongs to the caller, but is of no further
// use. Every wait for the peer is bounded by two minutes; the
// end of ctx ends all of them.
func Serve(ctx context.Context, conn net.Conn, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Label == "" {
		cfg.Label = "understudy seed"
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	s := &session{ctx: ctx, cancel: cancel, conn: conn, cfg: cfg, out: &sender{ctx: ctx, conn: conn, w: frame.NewWriter(conn)}, in: frame.NewReader(conn)}
	err := s.serve()
	if err == nil {
		return nil
	}
	if cause := context.Cause(caller); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	return fmt.Errorf("serve a seed: %w", err)
}
