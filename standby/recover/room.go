package recover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"understudy/shipper/backupset"
)

// block is the unit in which files take room.
const block = 4 << 10

// room is what the files of a set take.
type room struct {
	base   int64
	spaces []int64 // as Plan.Spaces
}

func (r *room) add(it item) {
	n := (it.Size + block - 1) / block * block
	if it.space >= 0 {
		r.spaces[it.space] += n
	} else {
		r.base += n
	}
}

// survey reads the whole list of files, proves it and counts.
func (p *Plan) survey(ctx context.Context, from Sources) (room, error) {
	var all error
	for _, src := range from.Places {
		c := newChecker(p)
		err := p.surveyAt(ctx, from.Root.Object(p.Label, backupset.FilesName), src, c)
		if err == nil {
			p.FileN, p.Bytes, p.InPlace = c.fileN, c.bytes, c.inPlace
			return c.room, nil
		}
		if ctx.Err() != nil {
			return room{}, context.Cause(ctx)
		}
		all = errors.Join(all, fmt.Errorf("location %s: %w", src.Name, err))
	}
	return room{}, refused("the list of files cannot be read: %w", all)
}

func (p *Plan) surveyAt(ctx context.Context, key string, src Source, c *checker) error {
	r, err := src.Location.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	in := newProven(r, p.Files)
	if err := eachFile(in, p.Files.RawBytes, c.line); err != nil {
		return err
	}
	if err := in.verify(); err != nil {
		return err
	}
	return c.ended()
}

// roomFor refuses what does not fit the file systems. What is in the
// destination already counts as room: it is overwritten or goes.
func (p Plan) roomFor(need room) error {
	byDevice := map[uint64]*device{}
	add := func(dir string, n int64, replaced func(name string) bool) error {
		d, err := deviceOf(dir)
		if err != nil {
			return refused("look for room at %s: %w", dir, err)
		}
		if byDevice[d.id] == nil {
			byDevice[d.id] = d
		}
		d = byDevice[d.id]
		d.need += n
		d.room += usage(dir, replaced)
		return nil
	}
	// Recovery keeps a few segments of log.
	if err := add(p.DataDir, need.base+4*p.Server.SegSize, func(string) bool { return true }); err != nil {
		return err
	}
	for i, s := range p.Spaces {
		if s.InPlace {
			continue
		}
		if err := add(s.Dir, need.spaces[i], func(name string) bool { return isSpaceEntry(name, p.Server.Major) }); err != nil {
			return err
		}
	}
	for _, d := range byDevice {
		if d.need > d.room {
			return refused("the files need %d MiB on the file system of %s, where %d MiB are free", d.need>>20, d.dir, d.room>>20)
		}
	}
	return nil
}

// device is a file system.
type device struct {
	id         uint64
	dir        string
	need, room int64
}

// deviceOf finds the file system that dir is or would be on.
func deviceOf(dir string) (*device, error) {
	at := dir
	fi, err := os.Stat(at)
	for errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		fi, err = os.Stat(at)
	}
	if err != nil {
		return nil, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(at, &st); err != nil {
		return nil, err
	}
	sys, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("its file system is unknown")
	}
	return &device{id: uint64(sys.Dev), dir: dir, room: int64(st.Bavail) * st.Frsize}, nil
}

// usage is the room that files take which the restore overwrites or removes:
// all below a data directory, PostgreSQL's own in a tablespace.
func usage(dir string, only func(name string) bool) (n int64) {
	// What cannot be read counts as nothing.
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case p != dir && filepath.Dir(p) == dir && !only(d.Name()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if fi, err := d.Info(); err == nil && d.Type().IsRegular() {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			}
		}
		return nil
	})
	return n
}
