package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// fetchSegment puts the path's segment that begins at start at path, proven.
func (f *Fetcher) fetchSegment(ctx context.Context, d *Decoder, start pos.LSN, path string) error {
	tli := f.cfg.Path.Holder(start, f.cfg.SegSize)
	want := Seal{SystemID: f.cfg.SystemID, Timeline: tli, Start: start, SegSize: f.cfg.SegSize}
	var doubts []error
	err := f.fromDrop(d, want, path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		f.cfg.Log.Error("a dropped file cannot be used", "error", err)
		doubts = append(doubts, err)
	}
	key := f.cfg.Root.Segment(tli, start, f.cfg.SegSize)
	for _, p := range f.order() {
		err := f.fromPlace(ctx, d, p, key, want, path)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errLocal):
			return err
		case !errors.Is(err, location.ErrNotExist):
			doubts = append(doubts, fmt.Errorf("location %s: %w", p.Name, err))
		}
	}
	if len(doubts) > 0 {
		return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(doubts...))
	}
	return f.notFound(ctx, d, want, path)
}

// errLocal marks errors of the local disk.
var errLocal = errors.New("on this machine")

// fromPlace fetches one stored piece from one place.
func (f *Fetcher) fromPlace(ctx context.Context, d *Decoder, p Place, key string, want Seal, path string) error {
	r, err := p.Location.Open(ctx, key, 0, -1)
	if err == nil {
		defer r.Close()
		_, err = f.decodeTo(d, r, key, want, true, path)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, location.ErrNotExist) && !errors.Is(err, errLocal) {
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign) || errors.Is(err, location.ErrDamaged) {
			f.cfg.Log.Error("a stored segment is damaged", "location", p.Name, "key", key, "error", err)
		} else {
			f.ill(p, err)
		}
	}
	return err
}

// decodeTo decodes a piece into a new file, filled up to a whole segment.
func (f *Fetcher) decodeTo(d *Decoder, r io.Reader, key string, want Seal, whole bool, path string) (Seal, error) {
	w, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return Seal{}, fmt.Errorf("%w: %w", errLocal, err)
	}
	lw := &localWriter{w: w}
	seal, err := d.Decode(lw, r, f.cfg.SegSize)
	if err == nil {
		err = seal.mustBe(key, want, whole)
	}
	if err == nil && !seal.Whole() {
		err = w.Truncate(f.cfg.SegSize) // a file grows by zeros
	}
	if err == nil {
		// PostgreSQL syncs each segment that it is given before it goes on. The disk
		// begins now, so that the redo waits less; only a hint, as some file systems
		// do not have it.
		_ = unix.SyncFileRange(int(w.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if cerr := w.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%w: %w", errLocal, cerr)
	}
	return seal, err
}

// localWriter marks the errors of a file as local ones.
type localWriter struct{ w io.Writer }

func (w *localWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errLocal, err)
	}
	return n, err
}

// notFound says what it means that no place has a segment.
func (f *Fetcher) notFound(ctx context.Context, d *Decoder, want Seal, path string) error {
	if want.Start+pos.LSN(f.cfg.SegSize) <= f.cfg.Known {
		return fmt.Errorf("%w: the log is known to reach to %s and no place has this segment", ErrUnknown, f.cfg.Known)
	}
	if f.cfg.Live {
		return ErrNotYet
	}
	later, err := f.later(ctx, want.Start)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if later != "" {
		return fmt.Errorf("%w: no place has this segment and one has the later %s", ErrUnknown, later)
	}
	if f.cfg.AllowPartial && want.Timeline == f.cfg.Path.Last() {
		return f.fetchPartial(ctx, d, want, path)
	}
	return ErrNotExist
}

var errFound = errors.New("found")

// later is a segment of the path after start that some place has.
func (f *Fetcher) later(ctx context.Context, start pos.LSN) (key string, err error) {
	for _, p := range f.cfg.Places {
		for _, l := range f.cfg.Path {
			if l.Timeline < f.cfg.Path.Holder(start, f.cfg.SegSize) {
				continue
			}
			err := p.Location.List(ctx, f.cfg.Root.Timeline(l.Timeline), func(o location.Info) error {
				w, ok := f.cfg.Root.ParseWAL(o.Key, f.cfg.SegSize)
				if ok && !w.Partial && w.Start > start && f.cfg.Path.Holder(w.Start, f.cfg.SegSize) == w.Timeline {
					key = o.Key
					return errFound
				}
				return nil
			})
			if err != nil && !errors.Is(err, errFound) {
				f.ill(p, err)
				return "", fmt.Errorf("location %s: %w", p.Name, err)
			}
			if key != "" {
				return key, nil
			}
		}
	}
	return f.laterDropped(start), nil
}

// fetchPartial gives the longest beginning of a segment that any place has.
func (f *Fetcher) fetchPartial(ctx context.Context, d *Decoder, want Seal, path string) error {
	key := f.cfg.Root.Partial(want.Timeline, want.Start, f.cfg.SegSize)
	var doubts []error
	longest, err := f.partialFromDrop(d, want, path)
	if err != nil {
		doubts = append(doubts, err)
	}
	for _, p := range f.order() {
		seal, err := ReadSeal(ctx, p.Location, key)
		if errors.Is(err, location.ErrNotExist) || err == nil && seal.Length <= longest {
			continue
		}
		if err == nil {
			err = f.replace(ctx, d, p, key, want, path)
		}
		if err != nil {
			doubts = append(doubts, fmt.Errorf("location %s: %w", p.Name, err))
			continue
		}
		longest = seal.Length
	}
	switch {
	case len(doubts) > 0: // one of them may be the longest
		return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(doubts...))
	case longest == 0:
		return ErrNotExist
	}
	f.cfg.Log.Info("the log ends within this segment", "key", key, "bytes", longest)
	return nil
}

// replace fetches a partial piece.
func (f *Fetcher) replace(ctx context.Context, d *Decoder, p Place, key string, want Seal, path string) error {
	r, err := p.Location.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = f.decodeOver(d, r, key, want, path)
	return err
}

// decodeOver decodes a partial piece beside path, and renames it when it is
// proven.
func (f *Fetcher) decodeOver(d *Decoder, r io.Reader, key string, want Seal, path string) (Seal, error) {
	next := path + "0" // still a name of ours
	seal, err := f.decodeTo(d, r, key, want, false, next)
	if err != nil {
		return seal, errors.Join(err, os.Remove(next))
	}
	return seal, os.Rename(next, path)
}

// partialFromDrop takes a stored partial piece out of the drop folder.
func (f *Fetcher) partialFromDrop(d *Decoder, want Seal, path string) (int64, error) {
	if f.cfg.Drop == "" {
		return 0, nil
	}
	r, err := os.Open(filepath.Join(f.cfg.Drop, pos.SegName(want.Timeline, want.Start, f.cfg.SegSize)+".partial.zst"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer r.Close()
	seal, err := f.decodeOver(d, r, r.Name(), want, path)
	return seal.Length, err
}

// fromDrop takes a segment out of the drop folder: a stored piece, or a file
// as PostgreSQL keeps it. fs.ErrNotExist when there is none.
func (f *Fetcher) fromDrop(d *Decoder, want Seal, path string) error {
	if f.cfg.Drop == "" {
		return fs.ErrNotExist
	}
	name := pos.SegName(want.Timeline, want.Start, f.cfg.SegSize)
	r, err := os.Open(filepath.Join(f.cfg.Drop, name+".zst"))
	if err == nil {
		defer r.Close()
		_, err = f.decodeTo(d, r, r.Name(), want, true, path)
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r, err = os.Open(filepath.Join(f.cfg.Drop, name))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := checkStock(r, want); err != nil {
		return fmt.Errorf("%s: %w", r.Name(), err)
	}
	w, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// checkStock looks at the first page of a segment file: whether it is of this
// database and in its place. More cannot be told; PostgreSQL checks every
// record.
func checkStock(r *os.File, want Seal) error {
	fi, err := r.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() != want.SegSize {
		return fmt.Errorf("%w: %d bytes, a segment has %d", ErrDamaged, fi.Size(), want.SegSize)
	}
	page := make([]byte, walfmt.PageSize)
	if _, err := r.ReadAt(page, 0); err != nil {
		return err
	}
	id, err := walfmt.ParseLongHeader(page)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if id.SystemID != want.SystemID || id.SegSize != want.SegSize || id.PageAddr != want.Start || id.Timeline > want.Timeline {
		return fmt.Errorf("%w: it begins with page %s on timeline %d of system %d", ErrForeign, id.PageAddr, id.Timeline, id.SystemID)
	}
	return nil
}

// laterDropped is a dropped segment of the path after start.
func (f *Fetcher) laterDropped(start pos.LSN) string {
	if f.cfg.Drop == "" {
		return ""
	}
	entries, err := os.ReadDir(f.cfg.Drop)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		t, at, err := pos.ParseSegName(strings.TrimSuffix(e.Name(), ".zst"), f.cfg.SegSize)
		if err == nil && at > start && f.cfg.Path.Holder(at, f.cfg.SegSize) == t {
			return e.Name()
		}
	}
	return ""
}
