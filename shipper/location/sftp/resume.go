package sftp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"understudy/shipper/location"
)

// The endings of names in the folder of uploads.
const (
	partEnd = ".part" // the bytes of an upload
	markEnd = ".mark" // how many of them can be trusted
	linkEnd = ".read" // a second name of an object that is being read
)

// markSize is that of a mark: the number, a checksum of it, and a newline.
const markSize = 20 + 1 + 8 + 1

func formatMark(n int64) []byte {
	digits := fmt.Sprintf("%020d", n)
	return fmt.Appendf(nil, "%s %08x\n", digits, crc32.Checksum([]byte(digits), castagnoli))
}

// parseMark reads a mark; false for anything that formatMark did not write.
func parseMark(b []byte) (int64, bool) {
	var n int64
	if len(b) != markSize {
		return 0, false
	}
	if _, err := fmt.Sscanf(string(b[:20]), "%d", &n); err != nil || n < 0 {
		return 0, false
	}
	return n, string(formatMark(n)) == string(b)
}

// resumable is how the names of all uploads of a key with a token begin.
func resumable(key, token string) string {
	h := sha256.Sum256([]byte(key))
	return fmt.Sprintf("%x.%s.", h[:16], token)
}

// leftover is what one upload has in the folder of uploads.
type leftover struct {
	stem       string
	names      []string
	at         time.Time // of the newest of them
	size       int64     // of the part
	part, mark bool
}

// leftovers lists the folder of uploads, sorted.
func (l *Location) leftovers(ctx context.Context) ([]*leftover, error) {
	entries, err := ask(ctx, l, func(c *conn) ([]fs.FileInfo, error) {
		return c.sftp.ReadDirContext(ctx, path.Join(l.cfg.Root, uploadsDir))
	})
	if errors.Is(err, location.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	byStem := map[string]*leftover{}
	for _, fi := range entries {
		ending := path.Ext(fi.Name())
		if !fi.Mode().IsRegular() || !slices.Contains([]string{partEnd, markEnd, linkEnd}, ending) {
			continue
		}
		stem := strings.TrimSuffix(fi.Name(), ending)
		x := byStem[stem]
		if x == nil {
			x = &leftover{stem: stem}
			byStem[stem] = x
		}
		x.names = append(x.names, fi.Name())
		if fi.ModTime().After(x.at) {
			x.at = fi.ModTime()
		}
		if ending == partEnd {
			x.part, x.size = true, fi.Size()
		}
		x.mark = x.mark || ending == markEnd
	}
	return slices.SortedFunc(maps.Values(byStem), func(a, b *leftover) int { return strings.Compare(a.stem, b.stem) }), nil
}

// takeUp claims what an earlier upload of the same bytes left. Renaming the
// file is the claim: of several who try only one succeeds, and an upload that
// lives and loses its file cannot be committed any more.
func (u *upload) takeUp(ctx context.Context) error {
	left, err := u.l.leftovers(ctx)
	if err != nil {
		return err
	}
	for _, x := range left {
		if !strings.HasPrefix(x.stem, resumable(u.key, u.o.Token)) || !x.part || !x.mark {
			continue
		}
		n, err := change(ctx, u.l, func(c *conn) (int64, error) { return u.claim(c, x) })
		if err != nil {
			return fmt.Errorf("take up the earlier upload: %w", err)
		}
		if n > 0 {
			u.begin, u.marked = n, true
			return nil
		}
	}
	return nil
}

// claim returns how many bytes of a leftover are ours now, 0 when none.
func (u *upload) claim(c *conn, x *leftover) (int64, error) {
	old := u.l.temporary(x.stem)
	f, err := c.sftp.Open(old + markEnd)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	b := make([]byte, markSize)
	k, _ := f.ReadAt(b, 0)
	f.Close()
	n, ok := parseMark(b[:k])
	// Where the server cannot flush to its disk a mark promises nothing.
	if !ok || n == 0 || n > x.size || u.o.Size >= 0 && n > u.o.Size || !c.fsync {
		return 0, nil
	}
	// The new mark comes first: without its file it is nothing.
	if err := writeMark(c, u.mark(), n); err != nil {
		return 0, err
	}
	if err := rename(c, old+partEnd, u.part()); err != nil {
		removeFile(c, u.mark())
		return 0, ignoreMissing(err)
	}
	removeFile(c, old+markEnd)
	// What lies beyond the mark may have holes.
	return n, c.sftp.Truncate(u.part(), n)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func writeMark(c *conn, name string, n int64) error {
	f, err := c.sftp.OpenFile(name, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(formatMark(n), 0)
	return err
}

// settle brings what is stored to the disk of a server that can, and proves it
// where that is in doubt. Every connection that carried bytes is asked to: one
// of them that has ended, even unnoticed, may mean that the server came up
// anew and lost what it had acknowledged. idle says that no chunk is under way.
func (u *upload) settle(ctx context.Context, idle bool) error {
	for range len(u.l.pauses) {
		u.mu.Lock()
		from, to := u.synced, u.stored
		u.mu.Unlock()
		lost := u.file.lost()
		if len(lost) > 0 {
			if err := u.prove(ctx, from, to); err != nil {
				return err
			}
		}
		synced, err := u.sync(ctx, idle)
		if errors.Is(err, errLost) && !isSilence(err) {
			continue
		}
		if err != nil {
			return err
		}
		if len(u.file.lost()) > len(lost) {
			continue
		}
		u.file.forget(lost)
		if synced {
			u.mu.Lock()
			u.synced = max(u.synced, to)
			maps.DeleteFunc(u.sums, func(off int64, _ sum) bool { return off < to })
			u.mu.Unlock()
		}
		return nil
	}
	return fmt.Errorf("%w: connections are lost again and again", location.ErrUnreachable)
}

// sync flushes the file on every connection that carried it; false where the
// server cannot.
func (u *upload) sync(ctx context.Context, idle bool) (bool, error) {
	if u.file.empty() { // all of them were lost
		_, err := change(ctx, u.l, func(c *conn) (struct{}, error) {
			_, err := u.file.on(c)
			return struct{}{}, err
		})
		if errors.Is(err, location.ErrNotExist) {
			err = errTaken
		}
		if err != nil {
			return false, err
		}
	}
	synced := make(chan answer[bool], 1)
	u.l.background.Go(func() {
		var cannot atomic.Bool
		err := u.file.each(func(c *conn, f *sftp.File) error {
			if !c.fsync {
				cannot.Store(true)
				return nil
			}
			defer c.beginSync()()
			return u.l.explain(c, syncFile(c, f, idle), true)
		})
		synced <- answer[bool]{!cannot.Load(), err}
	})
	select {
	case a := <-synced:
		return a.value, a.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// syncFile flushes a file. While chunks are under way that is done on an open
// file of its own: the library lets no write pass a flush.
func syncFile(c *conn, f *sftp.File, idle bool) error {
	if idle {
		return f.Sync()
	}
	own, err := c.sftp.OpenFile(f.Name(), os.O_RDWR)
	if err != nil {
		return err
	}
	defer own.Close()
	return own.Sync()
}

// checkpoint settles what is stored and, for an upload that can be taken up
// again, notes how much that is.
func (u *upload) checkpoint(ctx context.Context, idle bool) error {
	if err := u.settle(ctx, idle); err != nil || u.o.Token == "" {
		return err
	}
	u.mu.Lock()
	n := u.synced
	u.mu.Unlock()
	if n == 0 {
		return nil
	}
	_, err := change(ctx, u.l, func(c *conn) (struct{}, error) { return struct{}{}, writeMark(c, u.mark(), n) })
	if err == nil {
		u.mu.Lock()
		u.marked = true
		u.mu.Unlock()
	}
	return err
}

// prove reads the stored chunks between two offsets back and compares them
// with what was sent.
func (u *upload) prove(ctx context.Context, from, to int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listers)
	for off := from; off < to; {
		u.mu.Lock()
		s, ok := u.sums[off]
		u.mu.Unlock()
		if !ok {
			return fmt.Errorf("%w: no checksum of the bytes at %d", location.ErrDamaged, off)
		}
		at := off
		off += int64(s.n)
		g.Go(func() error {
			buf := u.l.chunks.Get().(*[]byte)
			defer u.l.chunks.Put(buf)
			b := (*buf)[:s.n]
			return u.l.persist(ctx, func(c *conn) error {
				f, err := u.file.on(c)
				if err != nil {
					return err
				}
				k, err := f.ReadAt(b, at)
				switch {
				case k < s.n && readEnd(f, err, at+int64(k)):
					return fmt.Errorf("%w: bytes that were acknowledged at %d are gone", location.ErrDamaged, at+int64(k))
				case k < s.n:
					return err
				case crc32.Checksum(b, castagnoli) != s.crc:
					return fmt.Errorf("%w: the bytes at %d are not those that were sent", location.ErrDamaged, at)
				}
				return nil
			})
		})
	}
	return g.Wait()
}
