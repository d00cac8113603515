// Package verify proves what lies at one location: that a set's objects are
// there and hold the bytes that were written, and that the log is whole,
// continuous, and under the right names.
//
// What is wrong is told apart from what could not be read now: the first is a
// Finding, the second an error and no verdict. A wrong byte counts as damage
// only when a second reading finds it, too.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// Options are those of one verification.
type Options struct {
	// Deep also decompresses: the files of a set are compared with the digests
	// in its list and with PostgreSQL's manifest, segments with their digests
	// and the identity in their first page. Without it every stored byte is
	// proven all the same; a deep one finds what was written wrongly, too.
	Deep bool
	// Workers is how many pieces are read, and decompressed, at a time; zero
	// chooses. Each takes up to 4 MiB of memory, with Deep about 20 MiB.
	Workers int
	// Retry says how often a failed read is repeated; without a number of
	// attempts it is a few times within some seconds.
	Retry location.Policy
	// Progress is called a few times a second, by one goroutine at a time; nil
	// for none.
	Progress func(Progress)
}

// Progress is how far a verification is, in stored bytes.
type Progress struct {
	Object      string // key
	Done, Total int64
}

const (
	maxWorkers = 8
	pieceSize  = 4 << 20
)

// defaultRetry bridges a short fault of the network. A longer one is for the
// next verification.
func defaultRetry() location.Policy {
	return location.Policy{Quick: 2, Pause: 200 * time.Millisecond, Min: time.Second, Max: 5 * time.Second, Attempts: 5}
}

// prover is one verification.
type prover struct {
	loc    location.Location
	o      Options
	report Report
	mu     sync.Mutex // guards report and what follows
	total  int64
	done   int64
	shown  time.Time
}

func newProver(loc location.Location, o Options) *prover {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 4)
	}
	o.Workers = min(o.Workers, maxWorkers)
	if o.Retry.Attempts <= 0 {
		o.Retry = defaultRetry()
	}
	return &prover{loc: loc, o: o}
}

// Set proves one set at one location. wantDigest is that of its set.json as
// the ledger has it; empty takes what is there. The WAL that the set needs is
// not looked at.
//
// A set that is damaged is no error: Report.Damaged tells. An error means that
// something could not be read now, and there is no verdict unless what could be
// read is damaged.
func Set(ctx context.Context, loc location.Location, root backupset.Root, label, wantDigest string, o Options) (Report, error) {
	p := newProver(loc, o)
	err := p.set(ctx, root, label, wantDigest)
	return p.result(ctx, "verify set "+label, err)
}

// result completes a report. Things that could not be read make an error.
func (p *prover) result(ctx context.Context, what string, err error) (Report, error) {
	if err == nil && len(p.report.Unread) > 0 {
		err = fmt.Errorf("%d objects could not be read, the first: %w", len(p.report.Unread), p.report.Unread[0].err)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return p.report, fmt.Errorf("%s: %w", what, err)
	}
	return p.report, nil
}

// set proves set.json first, as it says what everything else must be.
func (p *prover) set(ctx context.Context, root backupset.Root, label, wantDigest string) error {
	if _, err := backupset.ParseLabel(label); err != nil {
		return err
	}
	set, ok, err := p.description(ctx, root.Object(label, backupset.SetName), label, wantDigest)
	if err != nil || !ok {
		return err
	}
	there, err := p.listSet(ctx, root.SetDir(label), set)
	if err != nil {
		return err
	}
	p.total = set.StoredBytes()
	sound := map[string]bool{}
	for _, o := range inOrder(set, p.o.Deep) {
		key := root.Object(label, o.Name)
		if !there[o.Name] {
			continue
		}
		if sound[o.Name], err = p.object(ctx, key, o); err != nil {
			return err
		}
	}
	if !p.o.Deep {
		return nil
	}
	d := &deeper{p: p, root: root, set: set, there: there, useList: sound[backupset.FilesName], useManifest: sound[backupset.ManifestName]}
	return d.run(ctx)
}

// inOrder are the objects to be proven by their stored bytes alone, small ones
// first; a deep verification proves the archives itself.
func inOrder(set backupset.Set, deep bool) []backupset.Object {
	all := slices.Clone(set.Objects)
	if deep {
		archives := set.Archives()
		all = slices.DeleteFunc(all, func(o backupset.Object) bool { return slices.Contains(archives, o.Name) })
	}
	slices.SortStableFunc(all, func(a, b backupset.Object) int { return cmp.Compare(a.Bytes, b.Bytes) })
	return all
}

// description reads set.json; ok is false when it tells nothing.
func (p *prover) description(ctx context.Context, key, label, wantDigest string) (set backupset.Set, ok bool, err error) {
	var why error
	for range 2 {
		b, err := p.readSmall(ctx, key, backupset.MaxSetBytes)
		switch {
		case errors.Is(err, location.ErrNotExist):
			p.find(Finding{Object: key, Kind: Missing, What: "there is none, so there is no set", At: -1})
			return set, false, nil
		case err != nil && !wrong(err):
			return set, false, err
		case err != nil:
			why = err
			continue
		}
		if set, why = judge(b, label, wantDigest); why == nil {
			p.report.Objects++
			p.report.Bytes += int64(len(b))
			return set, true, nil
		}
		if errors.Is(why, backupset.ErrVersion) {
			return set, false, why
		}
	}
	kind := Damaged
	if errors.Is(why, errForeign) {
		kind = Foreign
	}
	p.find(Finding{Object: key, Kind: kind, What: why.Error(), At: -1})
	return set, false, nil
}

var errForeign = errors.New("it is another one")

// judge compares set.json with what is known of it.
func judge(b []byte, label, wantDigest string) (backupset.Set, error) {
	set, err := backupset.DecodeSet(b)
	switch {
	case err != nil:
		return set, err
	case set.Label != label:
		return set, fmt.Errorf("%w: it describes set %s", errForeign, set.Label)
	case wantDigest != "" && backupset.Digest(b) != wantDigest:
		return set, fmt.Errorf("%w: it has the digest %s, the ledger knows %s", errForeign, backupset.Digest(b), wantDigest)
	}
	return set, nil
}

// readSmall reads a whole object of at most limit bytes.
func (p *prover) readSmall(ctx context.Context, key string, limit int64) (b []byte, err error) {
	err = p.retry(ctx, func(ctx context.Context) error {
		r, err := p.loc.Open(ctx, key, 0, -1)
		if err != nil {
			return err
		}
		b, err = io.ReadAll(io.LimitReader(r, limit+1))
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		return nil
	})
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: it has more than %d bytes", backupset.ErrDamaged, limit)
	}
	return b, err
}

// listSet finds which objects of the set are there in full length, and what
// else is.
func (p *prover) listSet(ctx context.Context, dir string, set backupset.Set) (map[string]bool, error) {
	sizes := map[string]int64{}
	n := 0
	err := p.retry(ctx, func(ctx context.Context) error {
		clear(sizes)
		n = 0
		return p.loc.List(ctx, dir, func(i location.Info) error {
			if n++; n > maxStrange+len(set.Objects) {
				return fmt.Errorf("more than %d objects in %s", n-1, dir)
			}
			sizes[i.Key[len(dir):]] = i.Size
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, o := range set.Objects {
		if there[o.Name], err = p.inFull(ctx, dir+o.Name, o, sizes); err != nil {
			return nil, err
		}
		delete(sizes, o.Name)
	}
	delete(sizes, backupset.SetName)
	for name := range sizes {
		p.find(Finding{Object: dir + name, Kind: Unknown, What: "is no object of this set", At: -1})
	}
	return there, nil
}

// maxStrange bounds the listing of a set's folder.
const maxStrange = 10_000

// inFull tells whether an object is there with its size. What the listing
// says against it is asked once more.
func (p *prover) inFull(ctx context.Context, key string, want backupset.Object, sizes map[string]int64) (bool, error) {
	if n, ok := sizes[want.Name]; ok && n == want.Bytes {
		return true, nil
	}
	var i location.Info
	err := p.retry(ctx, func(ctx context.Context) (err error) { i, err = p.loc.Stat(ctx, key); return err })
	switch {
	case errors.Is(err, location.ErrNotExist):
		p.find(Finding{Object: key, Kind: Missing, What: "is missing", At: -1})
	case err != nil && wrong(err):
		p.find(Finding{Object: key, Kind: Damaged, What: err.Error(), At: -1})
	case err != nil && p.lost(ctx, key, err):
		return false, err
	case err == nil && i.Size == want.Bytes:
		return true, nil
	case err == nil:
		p.find(Finding{Object: key, Kind: Short, What: fmt.Sprintf("has %d bytes instead of %d", i.Size, want.Bytes), At: min(max(i.Size, 0), want.Bytes)})
	}
	return false, nil
}
