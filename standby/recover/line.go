package recover

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"hash/maphash"

	"understudy/shipper/backupset"
	"understudy/standby/restore"
)

const (
	maxPath = 1024 // bytes of a path in the data directory
	maxName = 255  // and of one name in it
)

// item is a line of the list of files, as it concerns the data directory.
type item struct {
	backupset.File
	path  string // in the data directory
	space int    // index in Plan.Spaces of one outside the data directory; -1
	skip  bool   // is not restored
	of    string // path of the file that an incremental one changes; else empty
}

// final is the path under which the file is found in the end.
func (it item) final() string {
	if it.of != "" {
		return it.of
	}
	return it.path
}

// item maps a line; it refuses what no set of ours has.
func (p *Plan) item(f backupset.File) (item, error) {
	it, err := p.mapped(f)
	if p.changes && f.Type == backupset.TypeFile && err == nil && !it.skip {
		it.of, _ = backupset.Incremental(it.path)
	}
	return it, err
}

func (p *Plan) mapped(f backupset.File) (item, error) {
	it := item{File: f, path: f.Path, space: -1}
	if f.Archive == backupset.ExtraName {
		it.skip = true
		return it, nil
	}
	bad := func(why string) (item, error) {
		return it, fmt.Errorf("%w: %.200q in %s %s", backupset.ErrDamaged, f.Path, f.Archive, why)
	}
	if err := checkNames(f.Path); err != nil {
		return bad(err.Error())
	}
	if f.Archive != backupset.BaseName {
		oid, _ := backupset.ParseSpace(f.Archive)
		i := slices.IndexFunc(p.Spaces, func(s Space) bool { return s.OID == oid })
		if i < 0 && p.below { // it was dropped before the set above was taken
			it.skip = true
			return it, nil
		}
		if i < 0 {
			return bad("is of a tablespace that the set does not name")
		}
		if top, _, _ := strings.Cut(f.Path, "/"); !isSpaceEntry(top, p.Server.Major) {
			return bad("is not of this version's part of a tablespace")
		}
		it.path = spacePrefix(oid) + "/" + f.Path
		if !p.Spaces[i].InPlace {
			it.space = i
		}
		if f.Type == backupset.TypeLink {
			return bad("is a link")
		}
		return it, nil
	}
	if below, ok := strings.CutPrefix(f.Path, "pg_tblspc/"); ok {
		return p.inBase(it, below)
	}
	it.skip = notRestored(f.Path)
	if f.Type == backupset.TypeLink && !it.skip {
		return bad("is a link")
	}
	return it, nil
}

// inBase maps what the base archive has below pg_tblspc: links to tablespaces,
// whose place the plan decides, and the files of those within the data
// directory, which some versions do not keep apart.
func (p *Plan) inBase(it item, below string) (item, error) {
	oidText, _, deeper := strings.Cut(below, "/")
	oid, err := strconv.ParseUint(oidText, 10, 32)
	i := slices.IndexFunc(p.Spaces, func(s Space) bool { return uint64(s.OID) == oid })
	linked := i >= 0 && !p.Spaces[i].InPlace
	it.skip = !deeper && (linked || p.below && i < 0)
	if err != nil || linked && deeper || it.Type == backupset.TypeLink && !it.skip {
		return it, fmt.Errorf("%w: %.200q in %s is not one of the tablespaces that the set names", backupset.ErrDamaged, it.Path, it.Archive)
	}
	return it, nil
}

func checkNames(p string) error {
	if len(p) > maxPath {
		return fmt.Errorf("is too long")
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxName {
			return fmt.Errorf("has a name that is too long")
		}
	}
	return nil
}

// notRestored are what may lie in a data directory that a backup is taken of
// and is not part of the database: our own files, those of a running server,
// what says that it is a standby, log, and the list of tablespaces, by which
// PostgreSQL would set the links of the original host.
func notRestored(p string) bool {
	switch p {
	case "postmaster.pid", "postmaster.opts", "recovery.signal", "standby.signal", "tablespace_map", "backup_manifest", controlAside:
		return true
	}
	return strings.HasPrefix(p, restore.MarkName) || strings.HasPrefix(p, stateName) || strings.HasPrefix(p, "pg_wal/")
}

// isSpaceEntry tells whether a name in a tablespace's directory is that of a
// server of this major version; others are never touched, as servers of several
// versions may share the directory.
func isSpaceEntry(name string, major int) bool {
	return major != 0 && strings.HasPrefix(name, fmt.Sprintf("PG_%d_", major))
}

func spacePrefix(oid uint32) string { return "pg_tblspc/" + strconv.FormatUint(uint64(oid), 10) }

// checker proves a list of files as a whole.
type checker struct {
	p       *Plan
	archive string
	done    map[string]bool // archives that have ended
	end     int64           // of the last file in the archive
	need    map[string]bool // files without which there is no database
	seed    maphash.Seed
	hashes  []uint64
	room    room
	fileN   int64
	bytes   int64
	inPlace bool
}

// maxHashes bounds the search for files that are listed twice.
const maxHashes = 4 << 20

func newChecker(p *Plan) *checker {
	return &checker{
		p: p, done: map[string]bool{}, need: map[string]bool{"PG_VERSION": true, "backup_label": true, controlPath: true},
		seed: maphash.MakeSeed(), room: room{spaces: make([]int64, len(p.Spaces))},
	}
}

// line takes the next line.
func (c *checker) line(f backupset.File) error {
	it, err := c.p.item(f)
	if err != nil {
		return err
	}
	if f.Archive != c.archive {
		if c.done[f.Archive] {
			return fmt.Errorf("%w: the files of %s do not stand together", backupset.ErrDamaged, f.Archive)
		}
		c.done[c.archive] = true
		c.archive, c.end = f.Archive, 0
	}
	if it.skip {
		return nil
	}
	c.inPlace = c.inPlace || it.space < 0 && strings.HasPrefix(it.path, "pg_tblspc/")
	if f.Type == backupset.TypeFile {
		if err := c.file(it); err != nil {
			return err
		}
	}
	if len(c.hashes) < maxHashes {
		c.hashes = append(c.hashes, maphash.String(c.seed, it.final()))
	}
	return nil
}

func (c *checker) file(it item) error {
	i := slices.IndexFunc(c.p.Archives, func(o backupset.Object) bool { return o.Name == it.Archive })
	switch {
	case i < 0:
		return fmt.Errorf("%w: the set has no archive %s", backupset.ErrDamaged, it.Archive)
	case it.Offset < c.end, it.Size > c.p.Archives[i].RawBytes-it.Offset:
		return fmt.Errorf("%w: %.200q lies at %d to %d of an archive of %d bytes, out of its order", backupset.ErrDamaged, it.Path, it.Offset, it.Offset+it.Size, c.p.Archives[i].RawBytes)
	}
	c.end = it.Offset + it.Size
	delete(c.need, it.path)
	c.fileN++
	c.bytes += it.Size
	c.room.add(it)
	return nil
}

// ended proves what only the whole list shows.
func (c *checker) ended() error {
	for name := range c.need {
		return fmt.Errorf("%w: the set has no %s", backupset.ErrDamaged, name)
	}
	slices.Sort(c.hashes)
	for i := 1; i < len(c.hashes); i++ {
		if c.hashes[i] == c.hashes[i-1] {
			return fmt.Errorf("%w: the list of files names a file twice", backupset.ErrDamaged)
		}
	}
	return nil
}

// parent is the folder of a path; empty for the top.
func parent(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}
