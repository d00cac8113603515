package recover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Layer is a set below the one that is restored: the full one first, then each
// incremental one that is built on the one before.
type Layer struct {
	Label     string             `json:"label"`
	SetDigest string             `json:"set_digest"`
	Start     pos.LSN            `json:"start"`
	Ended     time.Time          `json:"ended"`
	Archives  []backupset.Object `json:"archives"`
	Files     backupset.Object   `json:"files"`
	Manifest  backupset.Object   `json:"manifest"`
	FileN     int64              `json:"file_n"`
	Bytes     int64              `json:"bytes"`
}

// Chain are the labels of the sets that are put together, the full one first.
func (p Plan) Chain() []string {
	var out []string
	for _, l := range p.Below {
		out = append(out, l.Label)
	}
	return append(out, p.Label)
}

// layers are plans of the same restore, each of one set of the chain.
func (p *Plan) layers() []*Plan {
	var out []*Plan
	for i, l := range p.Below {
		v := *p
		v.Label, v.SetDigest, v.Start, v.Ended = l.Label, l.SetDigest, l.Start, l.Ended
		v.Archives, v.Files, v.Manifest, v.FileN = l.Archives, l.Files, l.Manifest, l.FileN
		v.below, v.changes = true, i > 0
		out = append(out, &v)
	}
	top := *p
	top.changes = len(p.Below) > 0
	out = append(out, &top)
	for _, v := range out[1:] {
		v.TrustTimes = false // what is there is of the set below
	}
	return out
}

// chain reads the descriptions of the sets that an incremental one is built on,
// the full one first.
func (s Sources) chain(ctx context.Context, top backupset.Set) (below []backupset.Set, digests []string, err error) {
	for at := top; at.Parent != ""; {
		if len(below) >= catalog.MaxChain {
			return nil, nil, refused("set %s is built on more than %d others", top.Label, catalog.MaxChain)
		}
		under, digest, err := s.set(ctx, at.Parent, at.ParentDigest)
		if err != nil {
			return nil, nil, fmt.Errorf("set %s is built on %s: %w", at.Label, at.Parent, err)
		}
		if err := follows(at, under); err != nil {
			return nil, nil, err
		}
		below, digests = append([]backupset.Set{under}, below...), append([]string{digest}, digests...)
		at = under
	}
	return below, digests, nil
}

// follows refuses two sets of which one cannot be built on the other.
func follows(set, under backupset.Set) error {
	a, b := set.Server, under.Server
	switch {
	case set.SystemID != under.SystemID || a.Major != b.Major || a.BlockSize != b.BlockSize || a.CatalogVersion != b.CatalogVersion:
		return refused("set %s is built on %s, which is of another database", set.Label, under.Label)
	case set.Start < under.Start:
		return refused("set %s begins at %s, before the set %s on which it is built, at %s", set.Label, set.Start, under.Label, under.Start)
	}
	return nil
}

// apply changes the files of the set below to those of an incremental set whose
// own files lie beside them. It is not repeated on its own: whoever was cut
// begins with the full set again.
func (x *execution) apply(below *Plan) error {
	if err := x.mendLabel(below.Start); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(x.ctx)
	g.SetLimit(min(max(2, runtime.GOMAXPROCS(0)), 4))
	err := x.eachItem(func(it item) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if it.of != "" && !it.skip {
			g.Go(func() error { return x.change(it) })
		}
		return nil
	})
	if failed := g.Wait(); failed != nil {
		return failed
	}
	return err
}

// change applies one incremental file and removes it.
func (x *execution) change(it item) error {
	if err := x.step(StepApply); err != nil {
		return err
	}
	root, name := x.tree.locate(it.path)
	from, err := root.OpenFile(name, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	intoRoot, into := x.tree.locate(it.of)
	to, err := intoRoot.OpenFile(into, os.O_RDWR|noFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: set %s changes %s, which the sets below it do not have", ErrDamaged, x.p.Label, it.of)
	}
	if err != nil {
		return err
	}
	defer to.Close()
	if err := applyBlocks(to, from, it.Size, x.p.Server); err != nil {
		return fmt.Errorf("change %s as set %s has it: %w", it.of, x.p.Label, err)
	}
	return root.Remove(name)
}

// blockFile is a file of a database that blocks are written to.
type blockFile interface {
	io.WriterAt
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// applyBlocks makes of a file what it was when the incremental one, of that
// size, was taken. What is cut off first is never seen again, also where the
// file has grown since: there it has zeros, unless a block was sent.
func applyBlocks(to blockFile, from io.ReaderAt, size int64, server backupset.Server) error {
	m, err := readBlockMap(from, size, server)
	if err != nil {
		return err
	}
	fi, err := to.Stat()
	if err != nil {
		return err
	}
	unit, have := int64(server.BlockSize), fi.Size()
	if keep := int64(m.Keep) * unit; have > keep {
		if err := to.Truncate(keep); err != nil {
			return err
		}
		have = keep
	}
	if want := int64(m.Len()) * unit; have != want {
		if err := to.Truncate(want); err != nil {
			return err
		}
	}
	const most = 1 << 20
	buf := make([]byte, min(most, max(unit, size)))
	at := server.BlocksAt(len(m.Blocks))
	for i := 0; i < len(m.Blocks); {
		// Neighbours go in one call.
		n := 1
		for i+n < len(m.Blocks) && m.Blocks[i+n] == m.Blocks[i]+uint32(n) && int64(n+1)*unit <= int64(len(buf)) {
			n++
		}
		b := buf[:int64(n)*unit]
		if got, err := from.ReadAt(b, at); got < len(b) {
			return fmt.Errorf("read block %d: %w", m.Blocks[i], err)
		}
		if _, err := to.WriteAt(b, int64(m.Blocks[i])*unit); err != nil {
			return err
		}
		at += int64(len(b))
		i += n
	}
	return nil
}

func readBlockMap(from io.ReaderAt, size int64, server backupset.Server) (m backupset.BlockMap, err error) {
	head := make([]byte, min(size, backupset.BlockMapHead))
	if n, err := from.ReadAt(head, 0); n < len(head) {
		return m, fmt.Errorf("read the head: %w", err)
	}
	n, err := server.BlockMapSize(head, size)
	if err != nil {
		return m, err
	}
	head = make([]byte, n)
	if got, err := from.ReadAt(head, 0); got < n {
		return m, fmt.Errorf("read the head: %w", err)
	}
	return server.BlockMap(head, size)
}

// Lines of backup_label that an incremental backup has besides.
const (
	fromLSNLine = "INCREMENTAL FROM LSN: "
	fromTLILine = "INCREMENTAL FROM TLI: "
)

// mendLabel takes out of backup_label what keeps a server from starting on an
// incremental backup, once it is certain that it was made for the set below,
// which begins at start. The manifest, which speaks of the set's own files, goes.
func (x *execution) mendLabel(start pos.LSN) error {
	text, err := x.confText("backup_label")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	var from string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, fromLSNLine); ok {
			from = strings.TrimSpace(rest)
			continue
		}
		if !strings.HasPrefix(line, fromTLILine) {
			out.WriteString(line)
		}
	}
	if lsn, err := pos.ParseLSN(from); err != nil || lsn != start {
		return fmt.Errorf("%w: set %s was made for a set that begins at %q, the one below it begins at %s", ErrDamaged, x.p.Label, from, start)
	}
	if err := x.putConf("backup_label", out.String()); err != nil {
		return err
	}
	if err := x.tree.root.Remove("backup_manifest"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
