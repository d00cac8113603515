package recover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// shunFor is how long a place that could not be reached is asked last.
const shunFor = 30 * time.Second

// pool knows the places that hold the set, and what they are worth now.
type pool struct {
	places []*stock
	prefix string // of the set's objects
}

// stock is one place.
type stock struct {
	Source
	mu     sync.Mutex
	shun   time.Time // asked last until then
	tables map[string]*table
}

// table is the seek table of an object at one place, read once.
type table struct {
	once   sync.Once
	frames *backupset.Frames
	err    error
}

func newPool(s Sources, label string) *pool {
	p := &pool{prefix: s.Root.SetDir(label)}
	for _, src := range s.Places {
		p.places = append(p.places, &stock{Source: src, tables: map[string]*table{}})
	}
	return p
}

// order is the places as they should be asked at t.
func (p *pool) order(t time.Time) []*stock {
	out := slices.Clone(p.places)
	slices.SortStableFunc(out, func(a, b *stock) int {
		switch x, y := a.shunned(t), b.shunned(t); {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
	return out
}

func (s *stock) shunned(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.Before(s.shun)
}

// failed notes that the place could not give what it should have.
func (s *stock) failed(err error, t time.Time) {
	if isDamage(err) || errors.Is(err, location.ErrNotExist) {
		return // it answers; another frame may be intact
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shun = t.Add(shunFor)
}

// framesOf reads an object's seek table at the place. A failure that is no
// damage is forgotten, so that a later call asks again.
func (s *stock) framesOf(ctx context.Context, key string, o backupset.Object) (*backupset.Frames, error) {
	s.mu.Lock()
	t := s.tables[o.Name]
	if t == nil {
		t = &table{}
		s.tables[o.Name] = t
	}
	s.mu.Unlock()
	t.once.Do(func() { t.frames, t.err = s.readFrames(ctx, key, o) })
	if t.err != nil && !isDamage(t.err) {
		s.mu.Lock()
		if s.tables[o.Name] == t {
			delete(s.tables, o.Name)
		}
		s.mu.Unlock()
	}
	return t.frames, t.err
}

func (s *stock) readFrames(ctx context.Context, key string, o backupset.Object) (*backupset.Frames, error) {
	f, err := backupset.ReadFrames(o.Bytes, func(p []byte, off int64) error { return s.readAt(ctx, key, p, off) })
	if err != nil {
		return nil, err
	}
	if f.RawBytes() != o.RawBytes {
		return nil, fmt.Errorf("%w: the seek table of %s speaks of %d bytes, the set of %d", backupset.ErrDamaged, o.Name, f.RawBytes(), o.RawBytes)
	}
	return f, nil
}

// readAt fills p with an object's bytes from off on.
func (s *stock) readAt(ctx context.Context, key string, p []byte, off int64) error {
	r, err := s.Location.Open(ctx, key, off, int64(len(p)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, p)
	if err = errors.Join(err, r.Close()); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it ends too early: %w", location.ErrDamaged, err)
		}
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

// isDamage tells that stored bytes are wrong, whichever package found it.
func isDamage(err error) bool {
	return errors.Is(err, backupset.ErrDamaged) || errors.Is(err, location.ErrDamaged) || errors.Is(err, errDecode)
}
