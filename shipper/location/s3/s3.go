// Package s3 keeps objects in a bucket of an S3 server. An object appears in
// one step by the nature of such a server; long ones are sent in parts, several
// at once, each with checksums that the server compares. See DESIGN.md.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"understudy/shipper/location"
)

// Location is one prefix of one bucket.
type Location struct {
	cfg       Config
	prefix    string
	core      *minio.Core
	transport *http.Transport
	blocks    blocks
	closed    atomic.Bool
	// pauses are the waits before a request that failed without harm is repeated.
	pauses []time.Duration
}

var _ location.Location = (*Location)(nil)

// Close implements location.Location.
func (l *Location) Close() error {
	l.closed.Store(true)
	l.transport.CloseIdleConnections()
	return nil
}

// check begins every call.
func (l *Location) check(ctx context.Context, key string) error {
	if err := location.CheckKey(key); err != nil {
		return err
	}
	return l.ready(ctx)
}

func (l *Location) ready(ctx context.Context) error {
	if l.closed.Load() {
		return location.ErrClosed
	}
	return context.Cause(ctx)
}

func (l *Location) object(key string) string { return l.prefix + key }

// Stat implements location.Location.
func (l *Location) Stat(ctx context.Context, key string) (location.Info, error) {
	err := l.check(ctx, key)
	var i location.Info
	if err == nil {
		i, _, err = l.stat(ctx, key)
	}
	if err != nil {
		return location.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return i, nil
}

// stat describes an object, with the server's tag of it.
func (l *Location) stat(ctx context.Context, key string) (location.Info, string, error) {
	var o minio.ObjectInfo
	err := l.again(ctx, func() (err error) {
		o, err = l.core.StatObject(ctx, l.cfg.Bucket, l.object(key), minio.StatObjectOptions{})
		return err
	})
	if err != nil {
		return location.Info{}, "", l.explainMissing(ctx, err)
	}
	return location.Info{Key: key, Size: o.Size, At: o.LastModified}, o.ETag, nil
}

// explainMissing tells a missing bucket from a missing object: the answer to a
// HEAD request has no room for the difference.
func (l *Location) explainMissing(ctx context.Context, err error) error {
	if !errors.Is(err, location.ErrNotExist) {
		return err
	}
	if ok, e := l.core.BucketExists(ctx, l.cfg.Bucket); e == nil && !ok {
		return l.noBucket()
	}
	return err
}

func (l *Location) noBucket() error {
	return fmt.Errorf("%w: there is no bucket %s: make it, or correct its name", location.ErrRefused, l.cfg.Bucket)
}

// List implements location.Location.
func (l *Location) List(ctx context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	return l.list(ctx, l.prefix+prefix, func(o minio.ObjectInfo) error {
		key := strings.TrimPrefix(o.Key, l.prefix)
		if location.CheckKey(key) != nil {
			return nil // not ours, or about uploads
		}
		return each(location.Info{Key: key, Size: o.Size, At: o.LastModified})
	})
}

// list calls each for every object whose name begins with prefix.
func (l *Location) list(ctx context.Context, prefix string, each func(minio.ObjectInfo) error) error {
	if err := l.ready(ctx); err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	last := ""
	var stop error // of each
	err := l.again(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx) // ends the listing when each does
		defer cancel()
		for o := range l.core.ListObjectsIter(ctx, l.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: last}) {
			if o.Err != nil {
				return o.Err
			}
			last = o.Key
			if stop = each(o); stop != nil {
				return nil
			}
		}
		return nil
	})
	switch {
	case stop != nil:
		return stop
	case err != nil:
		return fmt.Errorf("list %s: %w", prefix, err)
	case ctx.Err() != nil:
		return fmt.Errorf("list %s: %w", prefix, context.Cause(ctx))
	}
	return nil
}

// Remove implements location.Location.
func (l *Location) Remove(ctx context.Context, key string) error {
	if err := l.check(ctx, key); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	if err := l.removeName(ctx, l.object(key)); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

func (l *Location) removeName(ctx context.Context, name string) error {
	err := l.again(ctx, func() error {
		return l.core.RemoveObject(ctx, l.cfg.Bucket, name, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, location.ErrNotExist) {
		return nil
	}
	return err
}

// Space implements location.Location.
func (l *Location) Space(context.Context) (location.Space, error) {
	return location.Space{}, location.ErrUnsupported
}

// Open implements location.Location.
func (l *Location) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := l.check(ctx, key); err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	r, err := l.open(ctx, key, off, n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return r, nil
}

func (l *Location) open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("offset %d is negative", off)
	}
	r := &reader{l: l, key: key, at: off}
	r.ctx, r.cancel = context.WithCancel(ctx)
	var err error
	if n != 0 {
		err = r.get(n)
	}
	if n == 0 || errors.Is(err, errRange) {
		// A server refuses a range that begins at the end, and cannot be asked for
		// none.
		i, _, statErr := l.stat(ctx, key)
		switch {
		case statErr != nil:
			err = statErr
		case off > i.Size:
			err = fmt.Errorf("offset %d is beyond the end, %d", off, i.Size)
		case n > 0:
			r.end, r.short, err = off, true, nil
		default:
			r.end, err = off, nil
		}
	}
	if err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// reader reads an object, going on with a new request where one breaks off.
type reader struct {
	l       *Location
	key     string
	ctx     context.Context
	cancel  context.CancelFunc
	body    io.ReadCloser
	etag    string
	at, end int64
	short   bool // the object ends before what was demanded
	broken  int  // requests since bytes came
}

// get asks for n bytes from r.at on, all when n is negative. After the first
// time only the same object will do.
func (r *reader) get(n int64) error {
	var o minio.GetObjectOptions
	switch {
	case n > 0:
		o.SetRange(r.at, r.at+n-1)
	case r.at > 0:
		o.SetRange(r.at, 0)
	}
	if r.etag != "" {
		o.SetMatchETag(r.etag)
	}
	return r.l.again(r.ctx, func() error {
		body, info, _, err := r.l.core.GetObject(r.ctx, r.l.cfg.Bucket, r.l.object(r.key), o)
		if err != nil {
			return err
		}
		r.body = body
		if r.etag == "" {
			r.etag, r.end = info.ETag, r.at+info.Size
			r.short = n > 0 && info.Size < n
		}
		return nil
	})
}

// maxBroken bounds how often in a row a read is taken up again.
const maxBroken = 3

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := context.Cause(r.ctx); err != nil {
			return 0, fmt.Errorf("read %s: %w", r.key, err)
		}
		if r.at >= r.end {
			if r.short {
				return 0, fmt.Errorf("read %s: the object ends at %d: %w", r.key, r.end, io.ErrUnexpectedEOF)
			}
			return 0, io.EOF
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.at)])
		r.at += int64(n)
		if n > 0 || len(p) == 0 {
			r.broken = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if ctxErr := context.Cause(r.ctx); ctxErr != nil {
			return 0, fmt.Errorf("read %s: %w", r.key, ctxErr)
		}
		r.body.Close()
		if r.broken++; r.broken > maxBroken || isSilence(err) {
			return 0, fmt.Errorf("read %s: %w: %w", r.key, location.ErrUnreachable, err)
		}
		if err := r.get(r.end - r.at); err != nil {
			return 0, fmt.Errorf("read %s: %w", r.key, err)
		}
	}
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.cancel()
	if r.body != nil {
		r.body.Close()
	}
	r.at, r.end, r.short = 0, 0, false
	return nil
}

// Sweep implements location.Location.
func (l *Location) Sweep(ctx context.Context, before time.Time) (int, error) {
	n, err := l.sweepMarked(ctx, before)
	if err != nil {
		return n, fmt.Errorf("sweep: %w", err)
	}
	k, err := l.sweepListed(ctx, before)
	if err != nil {
		return n + k, fmt.Errorf("sweep: %w", err)
	}
	return n + k, nil
}
