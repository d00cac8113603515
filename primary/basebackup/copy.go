package basebackup

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/basestream"
	"understudy/shipper/frame"
)

// chunkBuffers is how many chunks are between PostgreSQL and the peer.
const chunkBuffers = 4

// item is one step of the stream: the head of a file, or a chunk of it.
type item struct {
	head  *fileHeader
	chunk []byte // from copier.free
	index int64  // of the chunk in its file
}

// copier reads the backup in one goroutine and sends it in another.
type copier struct {
	src   *basestream.Stream
	held  *holdings
	out   *sender
	items chan item
	free  chan []byte // chunk buffers not in use

	fileN         uint64
	manifestBytes int64
}

// copy runs the backup and sends everything but the end frame, which it
// returns.
func (s *session) copy(src *basestream.Stream, held *holdings) (end, error) {
	start, err := src.Start()
	if err != nil {
		return end{}, err
	}
	plan := planOf(src, start)
	if err := s.out.now(frame.SeedPlan, plan); err != nil {
		return end{}, fmt.Errorf("send the plan: %w", err)
	}
	c := &copier{src: src, held: held, out: s.out, items: make(chan item, 64), free: make(chan []byte, chunkBuffers)}
	for range chunkBuffers {
		c.free <- make([]byte, ChunkSize)
	}
	last := end{StartLSN: plan.StartLSN}
	g, ctx := errgroup.WithContext(s.ctx)
	stop := context.AfterFunc(ctx, src.Abort)
	g.Go(func() error {
		defer close(c.items)
		if err := c.read(ctx); err != nil {
			return err
		}
		last.EndLSN, last.Timeline, err = src.Finish()
		stop() // the source is at rest; nothing to cut when the group ends
		return err
	})
	g.Go(func() error { return c.send(ctx) })
	if err := g.Wait(); err != nil {
		return end{}, err
	}
	last.FileN, last.ManifestBytes = c.fileN, c.manifestBytes
	return last, nil
}

// read turns the parts of the backup into items.
func (c *copier) read(ctx context.Context) error {
	for {
		part, err := c.src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if part.Manifest {
			c.manifestBytes, err = c.readFile(ctx, c.src, fileHeader{Kind: kindManifest, Path: "backup_manifest", Size: -1, Mode: 0o600})
		} else {
			err = c.readTar(ctx, part)
		}
		if err != nil {
			return err
		}
	}
}

func (c *copier) readTar(ctx context.Context, part basestream.Part) error {
	prefix := ""
	if part.OID != 0 {
		prefix = "pg_tblspc/" + strconv.FormatUint(uint64(part.OID), 10)
	}
	tr := tar.NewReader(c.src)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", basestream.ErrServer, err)
		}
		head := fileHeader{Path: path.Join(prefix, strings.TrimPrefix(h.Name, "./")), Mode: uint32(h.Mode & 0o777)}
		switch h.Typeflag {
		case tar.TypeDir:
			if head.Path == "." || head.Path == "" {
				continue
			}
			head.Kind = kindDir
			if err := c.put(ctx, item{head: &head}); err != nil {
				return err
			}
		case tar.TypeReg:
			head.Kind, head.Size = kindFile, h.Size
			c.fileN++
			n, err := c.readFile(ctx, tr, head)
			if err != nil {
				return err
			}
			if n != h.Size {
				return fmt.Errorf("%w: %s has %d bytes instead of %d", basestream.ErrServer, head.Path, n, h.Size)
			}
		case tar.TypeSymlink: // a tablespace; the plan names it
		default:
			return fmt.Errorf("%w: %s is of tar type %q", basestream.ErrServer, head.Path, h.Typeflag)
		}
	}
}

// readFile cuts the content of one file into chunks.
func (c *copier) readFile(ctx context.Context, r io.Reader, head fileHeader) (int64, error) {
	if err := c.put(ctx, item{head: &head}); err != nil {
		return 0, err
	}
	var total int64
	for index := int64(0); total != head.Size; index++ {
		var buf []byte
		select {
		case buf = <-c.free:
		case <-ctx.Done():
			return total, context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf[:ChunkSize])
		total += int64(n)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return total, fmt.Errorf("%w: %w", basestream.ErrServer, err)
		}
		if n == 0 {
			c.free <- buf
			return total, nil
		}
		if err := c.put(ctx, item{chunk: buf[:n], index: index}); err != nil {
			return total, err
		}
		if last {
			break
		}
	}
	return total, nil
}

func (c *copier) put(ctx context.Context, it item) error {
	select {
	case c.items <- it:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send writes the items; a chunk the asker holds becomes its length.
func (c *copier) send(ctx context.Context) error {
	var file heldFile
	for {
		var it item
		var ok bool
		select {
		case it, ok = <-c.items:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !ok {
			return nil
		}
		if it.head != nil {
			file = c.held.files[it.head.Path]
			if it.head.Kind != kindFile {
				file = heldFile{}
			}
			if err := c.out.json(frame.SeedFile, it.head); err != nil {
				return fmt.Errorf("send %s: %w", it.head.Path, err)
			}
			continue
		}
		if err := c.sendChunk(file, it); err != nil {
			return err
		}
	}
}

func (c *copier) sendChunk(file heldFile, it item) error {
	defer func() { c.free <- it.chunk[:ChunkSize] }()
	n := len(it.chunk)
	if file.same(it.index, it.chunk) {
		if err := c.out.chunk(frame.SeedSame, n, binary.LittleEndian.AppendUint32(nil, uint32(n))); err != nil {
			return fmt.Errorf("name a chunk: %w", err)
		}
		return nil
	}
	if err := c.out.chunk(frame.SeedChunk, n, it.chunk); err != nil {
		return fmt.Errorf("send a chunk: %w", err)
	}
	return nil
}
