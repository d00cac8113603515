package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path"
	"regexp"
	"sync"
	"time"

	"understudy/shipper/location"
)

const (
	// syncEvery is how many bytes are stored between two flushes to the server's
	// disk: what a broken connection can cost, and what is left to flush at the
	// end.
	syncEvery = 256 << 20
	// roomFrom is the known size from which the room is looked at first.
	roomFrom = 64 << 20
	// renames bounds how often a folder that vanishes is made again.
	renames = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errEnded = errors.New("the upload has ended")
	errTaken = errors.New("the upload was taken up by another, or swept")
)

var tokens = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// upload is an object on its way: a file in the folder of uploads, to which
// chunks are written in any order.
type upload struct {
	l      *Location
	key    string
	o      location.CreateOptions
	stem   string // name of the temporary file and its mark, without the ending
	begin  int64  // where it was taken up
	file   *files
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Of the goroutine that writes.
	buf   *[]byte
	fill  int
	next  int64 // offset of buf in the object
	ended bool

	wg sync.WaitGroup // chunks and flushes under way

	mu   sync.Mutex
	err  error         // the first failure of a chunk
	done map[int64]int // chunks that are stored, beyond stored
	// stored is how many bytes from the beginning the server has acknowledged,
	// synced how many of them are on its disk for sure.
	stored, synced int64
	// sums are the checksums of the chunks from synced on. They are compared
	// with what is stored when a connection was lost since: the server may have
	// lost acknowledged bytes together with it.
	sums    map[int64]sum
	syncing bool
	marked  bool // there is a mark
}

type sum struct {
	n   int
	crc uint32
}

// Create implements location.Location.
func (l *Location) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	if o.Token != "" && !tokens.MatchString(o.Token) {
		return nil, fmt.Errorf("create %s: a token has 1 to 64 letters and digits, not %.70q", key, o.Token)
	}
	u := &upload{l: l, key: key, o: o, stem: newStem(key, o.Token), done: map[int64]int{}, sums: map[int64]sum{}}
	if err := u.take(ctx); err != nil {
		return nil, fmt.Errorf("create %s: %w", key, err)
	}
	if err := u.checkRoom(ctx); err != nil {
		u.file.close()
		u.remove(ctx)
		return nil, fmt.Errorf("create %s: %w", key, err)
	}
	u.next, u.stored, u.synced = u.begin, u.begin, u.begin
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u, nil
}

func (u *upload) part() string { return u.l.temporary(u.stem + partEnd) }
func (u *upload) mark() string { return u.l.temporary(u.stem + markEnd) }

// take opens the temporary file: that of an earlier upload of the same bytes,
// or a new one.
func (u *upload) take(ctx context.Context) error {
	if u.o.Token != "" {
		if err := u.takeUp(ctx); err != nil {
			return err
		}
	}
	flags := os.O_RDWR | os.O_CREATE
	if u.begin > 0 {
		flags = os.O_RDWR
	}
	f, err := request(ctx, u.l, true, func(c *conn) (found, error) {
		f, err := c.sftp.OpenFile(u.part(), flags)
		if errors.Is(err, fs.ErrNotExist) && u.begin == 0 {
			if err := u.l.makeUploads(c); err != nil {
				return found{}, err
			}
			f, err = c.sftp.OpenFile(u.part(), flags)
		}
		return found{c: c, file: f, name: u.stem + partEnd}, err
	}, u.l.abandon)
	if err != nil {
		return err
	}
	u.file = newFiles(u.part(), os.O_RDWR)
	u.file.put(f.c, f.file)
	return nil
}

// makeUploads makes the folder of uploads. The root must be there.
func (l *Location) makeUploads(c *conn) error {
	fi, err := c.sftp.Stat(l.cfg.Root)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !fi.IsDir():
		return l.noRoot()
	case err != nil:
		return err
	}
	return makeFolder(c, path.Join(l.cfg.Root, uploadsDir))
}

// makeFolder makes a folder for nobody but us; one that is there is success.
func makeFolder(c *conn, dir string) error {
	err := c.sftp.Mkdir(dir)
	if err == nil {
		return c.sftp.Chmod(dir, 0o700)
	}
	if fi, statErr := c.sftp.Stat(dir); statErr == nil && fi.IsDir() {
		return nil
	}
	return err
}

// makeFolders makes the folders above a key.
func (l *Location) makeFolders(c *conn, dir string) error {
	if dir == "." {
		return nil
	}
	if fi, err := c.sftp.Stat(l.object(dir)); err == nil && fi.IsDir() {
		return nil
	}
	if err := l.makeFolders(c, path.Dir(dir)); err != nil {
		return err
	}
	return makeFolder(c, l.object(dir))
}

// checkRoom fails early when a large object cannot fit.
func (u *upload) checkRoom(ctx context.Context) error {
	if u.o.Size-u.begin < roomFrom {
		return nil
	}
	s, err := u.l.Space(ctx)
	if err != nil {
		return nil // it may fit
	}
	if s.Free < u.o.Size-u.begin {
		return fmt.Errorf("%w: %d bytes free, %d needed", location.ErrNoSpace, s.Free, u.o.Size-u.begin)
	}
	return nil
}

// Offset implements location.Upload.
func (u *upload) Offset() int64 { return u.begin }

// Write implements location.Upload. Full chunks are sent in the background.
func (u *upload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, fmt.Errorf("write %s: %w", u.key, errEnded)
	}
	n := 0
	for n < len(p) {
		if u.buf == nil {
			u.buf, u.fill = u.l.chunks.Get().(*[]byte), 0
		}
		k := copy((*u.buf)[u.fill:], p[n:])
		u.fill, n = u.fill+k, n+k
		if u.fill == chunkSize {
			if err := u.send(); err != nil {
				return n, fmt.Errorf("write %s: %w", u.key, err)
			}
		}
	}
	return n, nil
}

// send hands the buffered chunk on, as soon as there is room on the road.
func (u *upload) send() error {
	if err := u.failure(); err != nil {
		return err
	}
	select {
	case u.l.sends <- struct{}{}:
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
	buf, n, off := u.buf, u.fill, u.next
	u.buf, u.next = nil, u.next+int64(u.fill)
	u.wg.Go(func() {
		defer func() {
			u.l.chunks.Put(buf)
			<-u.l.sends
		}()
		u.store((*buf)[:n], off)
	})
	return nil
}

// failure is why the upload cannot go on, if it cannot.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return u.err
	}
	return context.Cause(u.ctx)
}

// store writes a chunk and notes the outcome.
func (u *upload) store(b []byte, off int64) {
	crc := crc32.Checksum(b, castagnoli)
	err := u.l.persist(u.ctx, func(c *conn) error {
		f, err := u.file.on(c)
		if err == nil {
			_, err = f.WriteAt(b, off)
		}
		return err
	})
	if errors.Is(err, location.ErrNotExist) {
		err = errTaken
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		if u.err == nil {
			u.err = err
			u.cancel(err)
		}
		return
	}
	u.sums[off] = sum{len(b), crc}
	u.done[off] = len(b)
	for n, ok := u.done[u.stored]; ok; n, ok = u.done[u.stored] {
		delete(u.done, u.stored)
		u.stored += int64(n)
	}
	if u.stored-u.synced >= syncEvery && !u.syncing {
		u.syncing = true
		u.wg.Go(u.flush)
	}
}

// persist does something on a connection, and again on another one when that
// was lost.
func (l *Location) persist(ctx context.Context, f func(*conn) error) error {
	var err error
	for _, pause := range l.pauses {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var c *conn
		if c, err = l.pool.take(ctx); err == nil {
			end := c.begin()
			err = l.explain(c, f(c), true)
			end()
			l.pool.release(c)
		}
		if err == nil || !errors.Is(err, location.ErrUnreachable) || isSilence(err) {
			return err
		}
	}
	return err
}

// flush brings what is stored to the server's disk, between chunks. Its
// failure is no failure of the upload: the last flush decides.
func (u *upload) flush() {
	u.checkpoint(u.ctx, false)
	u.mu.Lock()
	u.syncing = false
	u.mu.Unlock()
}

// drain waits for the chunks under way, at most until ctx ends.
func (u *upload) drain(ctx context.Context) error {
	done := make(chan struct{})
	u.l.background.Go(func() {
		u.wg.Wait()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Commit implements location.Upload.
func (u *upload) Commit(ctx context.Context) (location.Info, error) {
	if u.ended {
		return location.Info{}, fmt.Errorf("commit %s: %w", u.key, errEnded)
	}
	i, err := u.commit(ctx)
	if err != nil {
		return location.Info{}, fmt.Errorf("commit %s: %w", u.key, err)
	}
	u.end()
	return i, nil
}

func (u *upload) commit(ctx context.Context) (location.Info, error) {
	var none location.Info
	if u.fill > 0 && u.buf != nil {
		if err := u.send(); err != nil {
			return none, err
		}
	}
	if u.o.Size >= 0 && u.next != u.o.Size {
		return none, fmt.Errorf("%d bytes were written, %d announced", u.next, u.o.Size)
	}
	if err := u.drain(ctx); err != nil {
		return none, err
	}
	if err := u.failure(); err != nil {
		return none, err
	}
	if err := u.settle(ctx, true); err != nil {
		return none, err
	}
	fi, err := ask(ctx, u.l, func(c *conn) (fs.FileInfo, error) { return c.sftp.Stat(u.part()) })
	switch {
	case errors.Is(err, location.ErrNotExist):
		return none, errTaken
	case err != nil:
		return none, err
	case fi.Size() != u.next:
		return none, fmt.Errorf("%w: %d bytes are stored, %d were written", location.ErrDamaged, fi.Size(), u.next)
	}
	// Some systems do not rename an open file. What its closing says counts where
	// nothing else told that the bytes are safe.
	if err := u.file.close(); err != nil {
		return none, err
	}
	if err := u.publish(ctx, fi); err != nil {
		return none, err
	}
	if u.marked {
		change(ctx, u.l, func(c *conn) (struct{}, error) { return struct{}{}, removeFile(c, u.mark()) })
	}
	return info(u.key, fi), nil
}

// publish gives the file its name.
func (u *upload) publish(ctx context.Context, fi fs.FileInfo) error {
	tried := false
	_, err := change(ctx, u.l, func(c *conn) (struct{}, error) {
		again := tried
		tried = true
		for range renames {
			err := rename(c, u.part(), u.l.object(u.key))
			if !errors.Is(err, fs.ErrNotExist) {
				return struct{}{}, err
			}
			if _, err := c.sftp.Stat(u.part()); errors.Is(err, fs.ErrNotExist) {
				now, err := c.sftp.Stat(u.l.object(u.key))
				if again && err == nil && now.Size() == fi.Size() && now.ModTime().Equal(fi.ModTime()) {
					return struct{}{}, nil // the answer to the first try was lost
				}
				return struct{}{}, errTaken
			}
			if err := u.l.makeFolders(c, path.Dir(u.key)); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, errors.New("its folder is removed again and again")
	})
	return err
}

// rename puts a file in the place of another. A server without the means for
// that in one step only gets new objects.
func rename(c *conn, from, to string) error {
	if c.posixRename {
		return c.sftp.PosixRename(from, to)
	}
	err := c.sftp.Rename(from, to)
	if isFailure(err) {
		if _, statErr := c.sftp.Stat(to); statErr == nil {
			return fmt.Errorf("%w: it cannot replace an object in one step (no posix-rename@openssh.com)", location.ErrRefused)
		}
	}
	return err
}

// end stops everything and frees what is held.
func (u *upload) end() {
	u.ended = true
	u.cancel(errEnded)
	if u.buf != nil {
		u.l.chunks.Put(u.buf)
		u.buf = nil
	}
	u.l.tidying.Go(func() {
		u.wg.Wait()
		u.file.close()
	})
}

// lastTry bounds the tidying after a failure because the server was not
// reached: the caller waits to tell of it, and what stays is swept or taken up.
const lastTry = 3 * time.Second

// lastContext is for what is to be done although the upload's context may have
// ended.
func (u *upload) lastContext() (context.Context, context.CancelFunc) {
	most := 2 * u.l.cfg.patience()
	if errors.Is(u.failure(), location.ErrUnreachable) {
		most = min(most, lastTry)
	}
	return context.WithTimeout(context.WithoutCancel(u.ctx), most)
}

// Suspend implements location.Upload.
func (u *upload) Suspend() error {
	if u.ended {
		return nil
	}
	if u.o.Token == "" {
		return u.Abort()
	}
	ctx, cancel := u.lastContext()
	defer cancel()
	var err error
	if u.fill > 0 && u.buf != nil && u.failure() == nil {
		err = u.send()
	}
	if err == nil {
		err = u.drain(ctx)
	}
	if err == nil {
		err = u.checkpoint(ctx, true)
	}
	u.end()
	if err == nil && !u.marked {
		err = u.remove(ctx) // nothing of it can be trusted
	}
	if err != nil {
		return fmt.Errorf("suspend %s: %w", u.key, err)
	}
	return nil
}

// Abort implements location.Upload.
func (u *upload) Abort() error {
	if u.ended {
		return nil
	}
	ctx, cancel := u.lastContext()
	defer cancel()
	u.cancel(errEnded)
	u.drain(ctx)
	u.file.close()
	err := u.remove(ctx)
	u.end()
	if err != nil {
		return fmt.Errorf("abort %s: %w", u.key, err)
	}
	return nil
}

// remove deletes the temporary file and its mark.
func (u *upload) remove(ctx context.Context) error {
	_, err := change(ctx, u.l, func(c *conn) (struct{}, error) {
		err := removeFile(c, u.part())
		if u.o.Token != "" {
			err = errors.Join(err, removeFile(c, u.mark()))
		}
		return struct{}{}, err
	})
	return err
}

// newStem names the temporary file of a new upload. Two uploads never have the
// same, also when they are of the same bytes.
func newStem(key, token string) string {
	if token == "" {
		token = "-"
	}
	return resumable(key, token) + rand.Text()[:12]
}
