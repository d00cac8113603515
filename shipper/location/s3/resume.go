package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"understudy/shipper/location"
)

// uploadsDir holds, below the prefix, a small object for each multipart upload
// that is under way.
const uploadsDir = ".uploads"

// maxMark bounds what is read of a mark.
const maxMark = 4 << 10

// mark says where the parts of an upload are. Not every server lists its
// multipart uploads below a prefix, and none keeps our token with them.
type mark struct {
	Key string `json:"key"` // with the prefix
	ID  string `json:"id"`
}

// start begins the multipart upload and leaves its mark.
func (u *upload) start() error {
	l := u.l
	name := l.object(u.key)
	var id string
	err := l.again(u.ctx, func() (err error) {
		id, err = l.core.NewMultipartUpload(u.ctx, l.cfg.Bucket, name, minio.PutObjectOptions{
			StorageClass: l.cfg.StorageClass, UserMetadata: map[string]string{algorithmHeader: algorithm},
		})
		return err
	})
	if err != nil {
		return err
	}
	if err := l.putMark(u.ctx, u.mark, mark{name, id}); err != nil {
		ctx, cancel := u.lastContext()
		defer cancel()
		l.abort(ctx, name, id)
		return err
	}
	u.id = id
	return nil
}

func (l *Location) putMark(ctx context.Context, name string, m mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return l.again(ctx, func() error {
		_, err := l.core.PutObject(ctx, l.cfg.Bucket, name, bytes.NewReader(b), int64(len(b)), "", "", minio.PutObjectOptions{ContentType: "application/json"})
		return err
	})
}

// readMark is the mark of that name; ErrNotExist also for what is none.
func (l *Location) readMark(ctx context.Context, name string) (mark, error) {
	var b []byte
	err := l.again(ctx, func() error {
		body, _, _, err := l.core.GetObject(ctx, l.cfg.Bucket, name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		b, err = io.ReadAll(io.LimitReader(body, maxMark))
		return err
	})
	if err != nil {
		return mark{}, err
	}
	m, ok := parseMark(b, l.prefix)
	if !ok {
		return mark{}, location.ErrNotExist
	}
	return m, nil
}

// parseMark reads a mark; false for what is none of ours.
func parseMark(b []byte, prefix string) (mark, bool) {
	var m mark
	if json.Unmarshal(b, &m) != nil || m.ID == "" {
		return mark{}, false
	}
	key, ours := strings.CutPrefix(m.Key, prefix)
	return m, ours && location.CheckKey(key) == nil
}

// takeUp goes on with the parts that an earlier upload of the same bytes left.
func (u *upload) takeUp(ctx context.Context) error {
	m, err := u.l.readMark(ctx, u.mark)
	if errors.Is(err, location.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an earlier upload: %w", err)
	}
	if m.Key != u.l.object(u.key) {
		return nil
	}
	parts, err := u.l.listParts(ctx, m)
	if isNoUpload(err) {
		return nil // it was completed or aborted; the mark will be ours
	}
	if err != nil {
		return fmt.Errorf("look for an earlier upload: %w", err)
	}
	done, list := usable(parts, u.o.Size)
	u.id = m.ID
	for _, p := range list {
		u.parts[p.PartNumber] = p
	}
	u.begin, u.done, u.number = done, done, len(list)+1
	return nil
}

// usable are the parts that a new upload can build on: without a gap from the
// first on, of a size that a part may have, with the server's own checksum
// where it keeps one, and not more than there is to send. A last part may be
// too small to be built on and is sent again.
func usable(parts []minio.ObjectPart, total int64) (done int64, list []minio.CompletePart) {
	for i, p := range parts {
		next := done + p.Size
		if p.PartNumber != i+1 || p.Size < minPart || p.ETag == "" || total >= 0 && next > total || i+1 >= maxParts ||
			partSize(i+2, next, total) == 0 {
			break
		}
		done = next
		list = append(list, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag, ChecksumCRC32C: p.ChecksumCRC32C})
	}
	return done, list
}

// listParts are all parts of an upload.
func (l *Location) listParts(ctx context.Context, m mark) ([]minio.ObjectPart, error) {
	var all []minio.ObjectPart
	for from := 0; ; {
		var page minio.ListObjectPartsResult
		err := l.again(ctx, func() (err error) {
			page, err = l.core.ListObjectParts(ctx, l.cfg.Bucket, m.Key, m.ID, from, 1000)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, page.ObjectParts...)
		if !page.IsTruncated || page.NextPartNumberMarker <= from {
			return all, nil
		}
		from = page.NextPartNumberMarker
	}
}

// isNoUpload tells whether the server knows no such multipart upload.
func isNoUpload(err error) bool {
	var answer minio.ErrorResponse
	return errors.As(err, &answer) && answer.Code == "NoSuchUpload"
}

// abort ends a multipart upload; one that is not there is success.
func (l *Location) abort(ctx context.Context, name, id string) error {
	err := l.again(ctx, func() error { return l.core.AbortMultipartUpload(ctx, l.cfg.Bucket, name, id) })
	if isNoUpload(err) {
		return nil
	}
	return err
}

// sweepMarked removes old uploads that have a mark.
func (l *Location) sweepMarked(ctx context.Context, before time.Time) (n int, err error) {
	err = l.list(ctx, l.prefix+uploadsDir+"/", func(o minio.ObjectInfo) error {
		if !o.LastModified.Before(before) {
			return nil
		}
		m, err := l.readMark(ctx, o.Key)
		if errors.Is(err, location.ErrNotExist) {
			return l.removeName(ctx, o.Key)
		}
		if err != nil {
			return err
		}
		gone, err := l.sweepUpload(ctx, m, before)
		if err != nil {
			return err
		}
		if gone != kept {
			err = l.removeName(ctx, o.Key)
		}
		if gone == swept {
			n++
		}
		return err
	})
	return n, err
}

// fate is what became of an upload in a sweep. The zero value is none.
type fate int

const (
	kept    fate = iota + 1 // it was written to since
	swept                   // it is gone now
	missing                 // there was none
)

// sweepUpload aborts an upload whose parts are all old.
func (l *Location) sweepUpload(ctx context.Context, m mark, before time.Time) (fate, error) {
	parts, err := l.listParts(ctx, m)
	if isNoUpload(err) {
		return missing, nil
	}
	if err != nil {
		return 0, err
	}
	for _, p := range parts {
		if !p.LastModified.Before(before) {
			return kept, nil
		}
	}
	if err := l.abort(ctx, m.Key, m.ID); err != nil {
		return 0, err
	}
	return swept, nil
}

// sweepListed removes old uploads that the server lists below our prefix: those
// that were cut off before they had a mark.
func (l *Location) sweepListed(ctx context.Context, before time.Time) (n int, err error) {
	keyMarker, idMarker := "", ""
	for {
		var page minio.ListMultipartUploadsResult
		err := l.again(ctx, func() (err error) {
			page, err = l.core.ListMultipartUploads(ctx, l.cfg.Bucket, l.prefix, keyMarker, idMarker, "", 1000)
			return err
		})
		if err != nil {
			return n, err
		}
		for _, x := range page.Uploads {
			key, ours := strings.CutPrefix(x.Key, l.prefix)
			if !ours || location.CheckKey(key) != nil || !x.Initiated.Before(before) {
				continue
			}
			gone, err := l.sweepUpload(ctx, mark{x.Key, x.UploadID}, before)
			if err != nil {
				return n, err
			}
			if gone == swept {
				n++
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker {
			return n, nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
