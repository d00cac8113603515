package s3

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"understudy/shipper/location"
)

// inFlight is how many parts of one upload are sent at once.
const inFlight = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errEnded = errors.New("the upload has ended")

var tokens = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// The names of headers with checksums, and the algorithm in them.
const (
	crcHeader       = "x-amz-checksum-crc32c"
	algorithmHeader = "x-amz-checksum-algorithm"
	algorithm       = "CRC32C"
)

// upload is an object on its way. One that ends within its first part is sent
// by one request at Commit; a longer one as a multipart upload.
type upload struct {
	l      *Location
	key    string
	o      location.CreateOptions
	ctx    context.Context
	cancel context.CancelCauseFunc
	mark   string // name of the object that says where the parts are
	id     string // of the multipart upload, once there is one
	begin  int64
	ended  bool

	cur    *part
	number int   // of the part that is being filled
	done   int64 // bytes in the parts before

	road    chan struct{} // one entry for each part that is being sent
	arrived chan struct{} // says that one has been
	wg      sync.WaitGroup

	mu    sync.Mutex
	err   error
	parts map[int]minio.CompletePart
}

// Create implements location.Location.
func (l *Location) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := l.check(ctx, key); err != nil {
		return nil, fmt.Errorf("create %s: %w", key, err)
	}
	if o.Token != "" && !tokens.MatchString(o.Token) {
		return nil, fmt.Errorf("create %s: a token has 1 to 64 letters and digits, not %.70q", key, o.Token)
	}
	u := &upload{l: l, key: key, o: o, number: 1, road: make(chan struct{}, inFlight), arrived: make(chan struct{}, 1), parts: map[int]minio.CompletePart{}}
	u.mark = l.markName(key, o.Token)
	if o.Token != "" {
		if err := u.takeUp(ctx); err != nil {
			return nil, fmt.Errorf("create %s: %w", key, err)
		}
	}
	if o.Size > maxObject || partSize(u.number, u.done, o.Size) == 0 {
		return nil, fmt.Errorf("create %s: %w", key, errTooLarge(o.Size))
	}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	u.cur = &part{from: &l.blocks}
	return u, nil
}

// Offset implements location.Upload.
func (u *upload) Offset() int64 { return u.begin }

// Write implements location.Upload. Full parts are sent in the background.
func (u *upload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, fmt.Errorf("write %s: %w", u.key, errEnded)
	}
	n := 0
	for n < len(p) {
		room := partSize(u.number, u.done, u.o.Size) - u.cur.size
		if room <= 0 {
			// Only now it is known that the full part is not the last one.
			if err := u.send(); err != nil {
				return n, fmt.Errorf("write %s: %w", u.key, err)
			}
			continue
		}
		k, _ := u.cur.Write(p[n:min(n+int(min(room, blockSize)), len(p))])
		n += k
	}
	return n, nil
}

// send hands the current part on, as soon as there is room on the road.
func (u *upload) send() error {
	if err := u.failure(); err != nil {
		return err
	}
	if partSize(u.number+1, 0, -1) == 0 {
		return errTooLarge(u.o.Size)
	}
	if u.id == "" {
		if err := u.start(); err != nil {
			return err
		}
	}
	select {
	case u.road <- struct{}{}:
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
	paid, err := u.pay(len(u.cur.blocks))
	if err != nil {
		<-u.road
		return err
	}
	x, number := u.cur, u.number
	u.cur, u.number, u.done = &part{from: &u.l.blocks}, u.number+1, u.done+x.size
	u.wg.Go(func() {
		u.deliver(x, number)
		x.free()
		for range paid {
			<-u.l.blocks.budget
		}
		<-u.road
		select {
		case u.arrived <- struct{}{}:
		default:
		}
	})
	return nil
}

// pay waits for room in the memory of all uploads. An upload with nothing under
// way does not wait: it would wait for others, which may wait for it.
func (u *upload) pay(n int) (int, error) {
	for paid := 0; ; {
		select {
		case u.l.blocks.budget <- struct{}{}:
			paid++
		default:
			if len(u.road) == 1 { // this part alone
				return paid, nil
			}
			select {
			case u.l.blocks.budget <- struct{}{}:
				paid++
			case <-u.arrived:
			case <-u.ctx.Done():
				for range paid {
					<-u.l.blocks.budget
				}
				return 0, context.Cause(u.ctx)
			}
		}
		if paid == n {
			return n, nil
		}
	}
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

// sums are the checksums of a part: the one of the signature, in hex, and the
// one that is kept beside the part.
func sums(x *part) (sha, crc string) {
	h, c := sha256.New(), crc32.New(castagnoli)
	io.Copy(io.MultiWriter(h, c), x.reader())
	return hex.EncodeToString(h.Sum(nil)), base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, c.Sum32()))
}

// deliver sends a part and notes the outcome.
func (u *upload) deliver(x *part, number int) {
	sha, crc := sums(x)
	var stored minio.ObjectPart
	err := u.l.again(u.ctx, func() (err error) {
		body := x.reader()
		defer body.end()
		stored, err = u.l.core.PutObjectPart(u.ctx, u.l.cfg.Bucket, u.l.object(u.key), u.id, number, body, x.size, minio.PutObjectPartOptions{
			Sha256Hex: sha, DisableContentSha256: true, CustomHeader: http.Header{http.CanonicalHeaderKey(crcHeader): {crc}},
		})
		return err
	})
	if err == nil && stored.ChecksumCRC32C != "" && stored.ChecksumCRC32C != crc {
		err = fmt.Errorf("%w: part %d has the checksum %s, %s was sent", location.ErrDamaged, number, stored.ChecksumCRC32C, crc)
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
	u.parts[number] = minio.CompletePart{PartNumber: number, ETag: stored.ETag, ChecksumCRC32C: stored.ChecksumCRC32C}
}

// Commit implements location.Upload.
func (u *upload) Commit(ctx context.Context) (location.Info, error) {
	if u.ended {
		return location.Info{}, fmt.Errorf("commit %s: %w", u.key, errEnded)
	}
	etag, err := u.commit(ctx)
	if err != nil {
		return location.Info{}, fmt.Errorf("commit %s: %w", u.key, err)
	}
	size := u.done
	u.end()
	i, now, err := u.l.stat(ctx, u.key)
	switch {
	case err != nil:
		return location.Info{}, fmt.Errorf("commit %s: %w", u.key, err)
	case now == etag && i.Size != size:
		return location.Info{}, fmt.Errorf("commit %s: %w: %d bytes are stored, %d were written", u.key, location.ErrDamaged, i.Size, size)
	}
	i.Size = size // also when another upload has replaced it already
	return i, nil
}

// commit returns the server's tag of the object.
func (u *upload) commit(ctx context.Context) (string, error) {
	if err := u.failure(); err != nil {
		return "", err
	}
	if total := u.done + u.cur.size; u.o.Size >= 0 && total != u.o.Size {
		return "", fmt.Errorf("%d bytes were written, %d announced", total, u.o.Size)
	}
	if u.id == "" {
		return u.putWhole(ctx)
	}
	if u.cur.size > 0 {
		if err := u.send(); err != nil {
			return "", err
		}
	}
	if err := u.drain(ctx); err != nil {
		return "", err
	}
	if err := u.failure(); err != nil {
		return "", err
	}
	list := make([]minio.CompletePart, 0, len(u.parts))
	for i := 1; i < u.number; i++ {
		list = append(list, u.parts[i])
	}
	etag, err := u.complete(ctx, list)
	if err == nil {
		u.l.removeName(ctx, u.mark) // or Sweep does
	}
	return etag, err
}

// complete joins the parts. The answer to a first try may have been lost: then
// the parts are gone and the object is there.
func (u *upload) complete(ctx context.Context, list []minio.CompletePart) (etag string, err error) {
	var before error // of the try before
	err = u.l.again(ctx, func() error {
		done, err := u.l.core.CompleteMultipartUpload(ctx, u.l.cfg.Bucket, u.l.object(u.key), u.id, list, minio.PutObjectOptions{})
		if before != nil && isNoUpload(err) {
			if i, _, statErr := u.l.stat(ctx, u.key); statErr == nil && i.Size == u.done {
				return nil
			}
			return before // what has taken the parts away says more
		}
		etag, before = done.ETag, err
		return err
	})
	return etag, err
}

// putWhole sends an object of one part.
func (u *upload) putWhole(ctx context.Context) (etag string, err error) {
	sha, crc := sums(u.cur)
	o := minio.PutObjectOptions{StorageClass: u.l.cfg.StorageClass, DisableContentSha256: true, UserMetadata: map[string]string{crcHeader: crc}}
	err = u.l.again(ctx, func() error {
		body := u.cur.reader()
		defer body.end()
		done, err := u.l.core.PutObject(ctx, u.l.cfg.Bucket, u.l.object(u.key), body, u.cur.size, "", sha, o)
		etag = done.ETag
		return err
	})
	if err == nil {
		u.done += u.cur.size
	}
	return etag, err
}

// drain waits for the parts under way, at most until ctx ends.
func (u *upload) drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { u.cancel(context.Cause(ctx)) })
	defer stop()
	u.wg.Wait() // requests end with u.ctx
	return context.Cause(ctx)
}

// end frees what is held.
func (u *upload) end() {
	u.ended = true
	u.cancel(errEnded)
	u.wg.Wait()
	u.cur.free()
}

// lastTry bounds the tidying after a failure because the server was not
// reached: the caller waits to tell of it, and what stays is swept or taken up.
const lastTry = 3 * time.Second

// lastContext is for what is to be done although the upload's context may have
// ended.
func (u *upload) lastContext() (context.Context, context.CancelFunc) {
	most := 2 * u.l.cfg.Patience
	if errors.Is(u.failure(), location.ErrUnreachable) {
		most = min(most, lastTry)
	}
	return context.WithTimeout(context.WithoutCancel(u.ctx), most)
}

// Suspend implements location.Upload. The bytes of a part that is not full are
// not kept.
func (u *upload) Suspend() error {
	if u.ended {
		return nil
	}
	if u.o.Token != "" && u.cur.size >= minPart {
		u.send() // what fails is not kept
	}
	if u.o.Token == "" || u.id == "" {
		return u.Abort()
	}
	ctx, cancel := u.lastContext()
	defer cancel()
	u.drain(ctx)
	u.end()
	return nil
}

// Abort implements location.Upload.
func (u *upload) Abort() error {
	if u.ended {
		return nil
	}
	u.end()
	if u.id == "" {
		return nil
	}
	ctx, cancel := u.lastContext()
	defer cancel()
	if err := u.l.abort(ctx, u.l.object(u.key), u.id); err != nil {
		return fmt.Errorf("abort %s: %w", u.key, err)
	}
	if err := u.l.removeName(ctx, u.mark); err != nil {
		return fmt.Errorf("abort %s: %w", u.key, err)
	}
	return nil
}

// markName names the mark of an upload: the same for the same key and token, a
// new one without a token.
func (l *Location) markName(key, token string) string {
	if token == "" {
		token = "-" + rand.Text()[:12]
	}
	h := sha256.Sum256([]byte(key))
	return fmt.Sprintf("%s%s/%x.%s", l.prefix, uploadsDir, h[:16], token)
}
