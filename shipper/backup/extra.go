package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"understudy/shipper/backupset"
)

// readExtra stores the files beside the database. What cannot be taken is a
// warning: the database is worth more than the rest.
func (r *run) readExtra(ctx context.Context) error {
	paths := r.extraPaths()
	if len(paths) == 0 {
		return nil
	}
	c := &cutter{ctx: ctx, line: r.line, archive: backupset.ExtraName}
	if err := c.open(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.warn(fmt.Sprintf("%s was not taken: %v", path, err))
				return nil
			}
			if seen[path] {
				return nil
			}
			seen[path] = true
			return r.extraFile(c, path, d)
		})
		if err != nil {
			return err
		}
	}
	if err := c.add(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return c.shut()
}

// extraPaths are the paths that are there, sorted.
func (r *run) extraPaths() []string {
	out := slices.Clone(r.server.config)
	for _, p := range r.cfg.Extra {
		found, err := filepath.Glob(p)
		if err == nil && len(found) == 0 {
			err = fs.ErrNotExist
		}
		if err != nil {
			r.warn(fmt.Sprintf("%s was not taken: %v", p, err))
		}
		out = append(out, found...)
	}
	for i := range out {
		out[i] = filepath.Clean(out[i])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// extraFile adds one file, folder or link. An error is one of the backup.
func (r *run) extraFile(c *cutter, path string, d fs.DirEntry) error {
	fi, err := d.Info()
	if err != nil {
		r.warn(fmt.Sprintf("%s was not taken: %v", path, err))
		return nil
	}
	rel := strings.TrimPrefix(path, "/")
	if rel == "" {
		return nil
	}
	f := &file{File: backupset.File{Archive: c.archive, Path: rel, Mode: uint32(fi.Mode().Perm()), At: fi.ModTime().UTC()}}
	data := io.ReadCloser(io.NopCloser(bytes.NewReader(nil)))
	switch mode := fi.Mode(); {
	case !utf8.ValidString(path):
		err = errors.New("its name is not UTF-8")
	case mode.IsDir():
		f.Type = backupset.TypeFolder
	case mode&fs.ModeSymlink != 0:
		f.Type = backupset.TypeLink
		f.Link, err = os.Readlink(path)
	case mode.IsRegular():
		data, fi, err = openRegular(path)
	default:
		err = fmt.Errorf("it is neither a file nor a folder nor a link but %s", mode.Type())
	}
	if err == nil && f.Type == backupset.TypeFile {
		f.Size = fi.Size()
	}
	if err == nil {
		err = f.listable()
	}
	var head []byte
	if err == nil {
		head, err = tarHead(fi, f.File)
	}
	if err != nil {
		if data != nil {
			data.Close()
		}
		r.warn(fmt.Sprintf("%s was not taken: %v", path, err))
		return nil
	}
	defer data.Close()
	return r.extraData(c, f, head, data)
}

// extraData adds the file once nothing is left to object to.
func (r *run) extraData(c *cutter, f *file, head []byte, data io.Reader) error {
	in := &noted{r: data}
	n, err := c.file(f, head, in)
	if err == nil && n < f.Size {
		r.warn(fmt.Sprintf("/%s ended after %d of %d bytes while it was read; zeros follow (%v)", f.Path, n, f.Size, in.err))
	}
	return err
}

// noted turns every error of reading into an end, and keeps it: a file that
// cannot be read to its end must not end the backup.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil {
		n.err, err = err, io.EOF
	}
	return k, err
}

// listable tells what the list of files would refuse, before the archive has
// it.
func (f *file) listable() error {
	probe := f.File
	probe.Digests = make([]byte, backupset.ChunkN(f.Size)*backupset.DigestSize)
	return probe.Validate()
}

// openRegular opens a file that is still none of the special ones.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it became something else while it was looked at")
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// tarHead is what stands before a file in the archive.
func tarHead(fi fs.FileInfo, f backupset.File) ([]byte, error) {
	h, err := tar.FileInfoHeader(fi, f.Link)
	if err != nil {
		return nil, err
	}
	h.Name = f.Path
	if f.Type == backupset.TypeFolder {
		h.Name += "/"
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
