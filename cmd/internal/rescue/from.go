package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"understudy/cmd/internal/places"
	"understudy/ledger/facts"
	"understudy/shipper/location"
)

// FromSecret is the name of the secret of an address that names none.
const FromSecret = "from"

// ParseFrom reads what --from takes beside a directory:
//
//	sftp://USER@HOST[:PORT]/PATH?host_key=SHA256:…[&secret=NAME]
//	s3://BUCKET[/PREFIX][?endpoint=HOST][&region=REGION][&secret=NAME]
//
// ok is false for anything else, which is a directory.
func ParseFrom(text string) (p facts.LocationPolicy, ok bool, err error) {
	scheme, _, found := strings.Cut(text, "://")
	if !found || scheme != "sftp" && scheme != "s3" {
		return p, false, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return p, true, badSource("%.200q is no address", text)
	}
	q := u.Query()
	take := func(name string) string { v := q.Get(name); q.Del(name); return v }
	p = facts.DefaultLocation()
	if p.Secret = take("secret"); p.Secret == "" {
		p.Secret = FromSecret
	}
	if _, has := u.User.Password(); has {
		return p, true, badSource("an address has no password in it: everybody on this host could read it; put the key into a file and name that with --secret %s=FILE", p.Secret)
	}
	if scheme == "sftp" {
		p.Kind, p.Address, p.User, p.Path, p.HostKey = facts.LocationSFTP, u.Host, u.User.Username(), u.Path, take("host_key")
	} else {
		p.Kind, p.Bucket, p.Prefix = facts.LocationS3, u.Host, strings.Trim(u.Path, "/")
		p.Endpoint, p.Region = take("endpoint"), take("region")
	}
	for name := range q {
		return p, true, badSource("%.40q says nothing in an address of %s", name, scheme)
	}
	policy := facts.DefaultPolicy().WithLocation(FromSecret, p)
	if err := policy.Validate(); err != nil {
		var wrong *facts.KeyError
		if errors.As(err, &wrong) {
			_, key, _ := strings.Cut(strings.TrimPrefix(wrong.Key, "location."), ".")
			return p, true, badSource("%.200s: %s: %s", text, key, wrong.Text)
		}
		return p, true, badSource("%.200s: %w", text, err)
	}
	return p, true, nil
}

// openFrom opens what --from names, for reading only.
func (c Config) openFrom(text string) (Place, error) {
	place := Place{Name: text, Where: text}
	p, remote, err := ParseFrom(text)
	if err != nil {
		return place, err
	}
	if remote {
		u, _, _ := strings.Cut(text, "?")
		place.Name, place.Where = u, u
		place.Location, err = places.Opener{Secret: c.secret}.Open(FromSecret, p)
	} else {
		place.dir, err = filepath.Abs(text)
		place.Name, place.Where = place.dir, place.dir
		if err == nil {
			place.Location, err = openDir(place.dir)
		}
	}
	if err != nil {
		return place, badSource("%w", err)
	}
	if c.IdentityFile == "" {
		return place, nil
	}
	ids, err := readIdentities(c.IdentityFile)
	if err == nil {
		var plain location.Location
		if plain, err = location.Encrypted(place.Location, nil, ids); err == nil {
			place.Location = plain
			return place, nil
		}
	}
	return place, errors.Join(badSource("%w", err), place.Location.Close())
}

func readIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids, err := age.ParseIdentities(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("%s is no age identity: %w", path, err)
	}
	return ids, nil
}

// directory is a directory with the objects of a location, for reading. Unlike
// a location of a node it needs no marker and is not written to: it may be a
// copy, or a disk that is mounted read-only.
type directory struct {
	root *os.Root
	path string
}

func openDir(path string) (location.Location, error) {
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &directory{root: r, path: path}, nil
}

func (d *directory) fail(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = location.ErrNotExist
	} else if !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", location.ErrUnreachable, err)
	}
	return fmt.Errorf("%s in %s: %w", key, d.path, err)
}

// Create is refused.
func (d *directory) Create(context.Context, string, location.CreateOptions) (location.Upload, error) {
	return nil, location.ErrReadOnly
}

// Remove is refused.
func (d *directory) Remove(context.Context, string) error { return location.ErrReadOnly }

// Sweep is refused.
func (d *directory) Sweep(context.Context, time.Time) (int, error) { return 0, location.ErrReadOnly }

// Space is not looked for.
func (d *directory) Space(context.Context) (location.Space, error) {
	return location.Space{}, location.ErrUnsupported
}

// Close frees the directory.
func (d *directory) Close() error { return d.root.Close() }

// Open implements location.Location.
func (d *directory) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := d.root.Open(key)
	if err != nil {
		return nil, d.fail(key, err)
	}
	fi, err := f.Stat()
	switch {
	case err == nil && !fi.Mode().IsRegular():
		err = fs.ErrNotExist
	case err == nil && off > fi.Size():
		err = fmt.Errorf("it has %d bytes, none at %d", fi.Size(), off)
	}
	if err != nil {
		return nil, errors.Join(d.fail(key, err), f.Close())
	}
	if n < 0 {
		n = fi.Size() - off
	}
	return &part{io.NewSectionReader(f, off, n), f, n}, nil
}

// part is a stretch of a file that must not end early.
type part struct {
	*io.SectionReader
	f    *os.File
	left int64
}

// Read reads on.
func (p *part) Read(b []byte) (int, error) {
	n, err := p.SectionReader.Read(b)
	p.left -= int64(n)
	if errors.Is(err, io.EOF) && p.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close closes the file.
func (p *part) Close() error { return p.f.Close() }

// Stat implements location.Location.
func (d *directory) Stat(_ context.Context, key string) (location.Info, error) {
	if err := location.CheckKey(key); err != nil {
		return location.Info{}, err
	}
	fi, err := d.root.Stat(key)
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return location.Info{}, d.fail(key, err)
	}
	return location.Info{Key: key, Size: fi.Size(), At: fi.ModTime()}, nil
}

// List implements location.Location. What is no key is passed over.
func (d *directory) List(ctx context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	top := "."
	if prefix != "" {
		top = strings.TrimSuffix(prefix, "/")
	}
	return fs.WalkDir(d.root.FS(), top, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return d.fail(path, err)
		case e.IsDir() && path != "." && strings.HasPrefix(e.Name(), "."):
			return fs.SkipDir // unfinished uploads
		case !e.Type().IsRegular() || location.CheckKey(path) != nil:
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return d.fail(path, err)
		}
		return each(location.Info{Key: path, Size: fi.Size(), At: fi.ModTime()})
	})
}
