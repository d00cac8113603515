package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"

	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
	"understudy/shipper/location"
)

// ErrNotIncremental is returned when no incremental backup can be taken now: the
// set below it cannot be read, or the server does not offer one, or refuses. A
// full backup may still succeed. The error says why in one sentence.
var ErrNotIncremental = errors.New("no incremental backup is possible")

// Parent is the set that an incremental backup is based on.
type Parent struct {
	Label string
	// Digest is that of its set.json; empty accepts any.
	Digest string
	// From are the locations that have it, the preferred one first.
	From []Dest
}

func notIncremental(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrNotIncremental, fmt.Errorf(format, args...))
}

// parent is a Parent once it was read.
type parent struct {
	set      backupset.Set
	digest   string
	manifest *os.File // has no name
}

// openParent reads what the server has to know of the set below, from the first
// location that has it intact.
func openParent(ctx context.Context, cfg Config) (*parent, error) {
	f, err := scratchFile(cfg.Scratch, "understudy-manifest-*")
	if err != nil {
		return nil, fmt.Errorf("keep the manifest of %s: %w", cfg.Parent.Label, err)
	}
	p := &parent{manifest: f}
	var all error
	for _, from := range cfg.Parent.From {
		err := p.read(ctx, cfg, from.Location)
		if err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			f.Close()
			return nil, context.Cause(ctx)
		}
		all = errors.Join(all, fmt.Errorf("location %s: %w", from.Name, err))
	}
	f.Close()
	if all == nil {
		all = errors.New("no location has it")
	}
	return nil, notIncremental("the manifest of set %s cannot be read: %w", cfg.Parent.Label, all)
}

func (p *parent) close() {
	if p != nil {
		p.manifest.Close()
	}
}

func (p *parent) read(ctx context.Context, cfg Config, loc location.Location) error {
	r, err := loc.Open(ctx, cfg.Root.Object(cfg.Parent.Label, backupset.SetName), 0, -1)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r, backupset.MaxSetBytes+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	p.digest = backupset.Digest(b)
	if cfg.Parent.Digest != "" && p.digest != cfg.Parent.Digest {
		return fmt.Errorf("%w: its %s is not the one that was stored", backupset.ErrDamaged, backupset.SetName)
	}
	if p.set, err = backupset.DecodeSet(b); err != nil {
		return err
	}
	if p.set.Label != cfg.Parent.Label {
		return fmt.Errorf("%w: it describes set %s", backupset.ErrDamaged, p.set.Label)
	}
	return p.fetch(ctx, cfg, loc)
}

// fetch stores and proves the manifest.
func (p *parent) fetch(ctx context.Context, cfg Config, loc location.Location) error {
	want, ok := p.set.Object(backupset.ManifestName)
	if !ok {
		return fmt.Errorf("%w: it has no manifest", backupset.ErrDamaged)
	}
	if _, err := p.manifest.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := p.manifest.Truncate(0); err != nil {
		return err
	}
	r, err := loc.Open(ctx, cfg.Root.Object(cfg.Parent.Label, want.Name), 0, -1)
	if err != nil {
		return err
	}
	sum := blake3.New()
	n, err := io.Copy(io.MultiWriter(p.manifest, sum), io.LimitReader(r, want.Bytes+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if n != want.Bytes || hex.EncodeToString(sum.Sum(nil)) != want.BLAKE3 {
		return fmt.Errorf("%w: its manifest is not the one that was stored", backupset.ErrDamaged)
	}
	_, err = p.manifest.Seek(0, io.SeekStart)
	return err
}

// admit refuses a server that cannot take an incremental backup of the parent,
// before anything is asked of it.
func (p *parent) admit(server facts, src *basestream.Stream) error {
	switch {
	case !src.TakesIncremental():
		return notIncremental("the server is PostgreSQL %d, and only %d and newer take them", src.Major, basestream.MinIncremental)
	case !server.summarizes:
		return notIncremental("the server does not summarize its log; set summarize_wal = on and reload it")
	case p.set.SystemID != src.SystemID:
		return notIncremental("set %s is of another database", p.set.Label)
	case p.set.Server.Major != src.Major:
		return notIncremental("set %s is of PostgreSQL %d, the server is of %d", p.set.Label, p.set.Server.Major, src.Major)
	}
	return nil
}

// refusal turns what the server said into ErrNotIncremental; other errors stay.
func (p *parent) refusal(err error) error {
	if why := basestream.Refusal(err); p != nil && why != "" {
		return fmt.Errorf("%w: PostgreSQL says: %s", ErrNotIncremental, why)
	}
	return err
}

// scratchFile is a file that is gone when it is closed.
func scratchFile(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
