package recover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/standby/recover"
)

const page = 8192

// segPages makes segments small, so that block numbers at their end occur.
const segPages = 64

// isRelation tells the files of which a server sends blocks.
func isRelation(name string) bool {
	return (strings.HasPrefix(name, "base/5/1") || strings.HasPrefix(name, "pg_tblspc/")) && !strings.HasSuffix(name, "VERSION")
}

// smallFiles are those of a database of a few pages.
func smallFiles(r *rand.Rand) map[string][]byte {
	files := fakeFiles(r.Uint64())
	for name := range files {
		if isRelation(name) {
			delete(files, name)
		}
	}
	for i := range 6 + r.IntN(6) {
		files[fmt.Sprintf("base/5/%d", 16400+i)] = pages(r, r.IntN(segPages))
	}
	files["pg_tblspc/16390/PG_15_202209061/5/200"] = pages(r, r.IntN(segPages))
	return files
}

// pages are n of them, some of zeros only.
func pages(r *rand.Rand, n int) []byte {
	b := make([]byte, n*page)
	for i := range n {
		if r.IntN(5) > 0 {
			fill(r, b[i*page:(i+1)*page])
		}
	}
	return b
}

func fill(r *rand.Rand, b []byte) {
	for i := 0; i < len(b); i += 97 {
		b[i] = byte(r.Uint32())
	}
}

// live changes the files of a database: pages, lengths, files that come and go.
func live(r *rand.Rand, files map[string][]byte) map[string][]byte {
	out := maps.Clone(files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !isRelation(name) {
			continue
		}
		b := slices.Clone(files[name])
		switch r.IntN(6) {
		case 0:
			delete(out, name)
			continue
		case 1: // unchanged
		case 2:
			b = b[:len(b)/page/2*page]
		case 3:
			b = append(b[:len(b)/page/3*page], pages(r, r.IntN(segPages/2))...)
		default:
			b = append(b, pages(r, r.IntN(3))...)
			for i := 0; i < len(b); i += page * (1 + r.IntN(8)) {
				fill(r, b[i:i+page])
			}
		}
		out[name] = b[:min(len(b), segPages*page)]
	}
	name := fmt.Sprintf("base/5/%d", 17000+r.IntN(1000))
	out[name] = pages(r, r.IntN(8))
	out["pg_xact/0000"] = pages(r, 1)
	if len(out["pg_tblspc/16390/PG_15_202209061/5/200"]) == 0 {
		out["pg_tblspc/16390/PG_15_202209061/5/200"] = pages(r, 2)
	}
	return out
}

// sent is what a server sends of a file that was in the set below: some blocks,
// and those from a cut on, or now and then the whole file.
func sent(r *rand.Rand, name string, was, is []byte) (string, []byte) {
	if r.IntN(6) == 0 {
		return name, is
	}
	server := backupset.Server{BlockSize: page, SegPages: segPages}
	n, common := len(is)/page, min(len(was), len(is))/page
	m := backupset.BlockMap{Keep: uint32(n)}
	cut := len(was) / page // blocks from here on cannot come from the file below
	if common < n && r.IntN(2) == 0 || r.IntN(4) == 0 {
		cut = r.IntN(common + 1)
		m.Keep = uint32(cut)
	}
	var blocks []byte
	for i := range n {
		b := is[i*page : (i+1)*page]
		below := make([]byte, page)
		if i < cut {
			copy(below, was[i*page:])
		}
		last := i == n-1 && int(m.Keep) < n
		if !bytes.Equal(b, below) || last || r.IntN(10) == 0 {
			m.Blocks = append(m.Blocks, uint32(i))
			blocks = append(blocks, b...)
		}
	}
	if r.IntN(10) == 0 && int(m.Keep) == n && n == segPages {
		m.Keep = 9 * segPages // as a relation of many segments has it that was cut
	}
	dir, base := filepath.Split(name)
	return dir + "INCREMENTAL." + base, append(server.AppendBlockMap(nil, m), blocks...)
}

// newFakeOn stores an incremental set of the database's files at the places.
func newFakeOn(t testing.TB, r *rand.Rand, below *fake, files map[string][]byte, places ...location.Location) *fake {
	t.Helper()
	start := below.set.Start + 0x20
	files["backup_label"] = fmt.Appendf(nil, "START WAL LOCATION: %s (file 000000010000000000000002)\n", start)
	labelled := fmt.Appendf(slices.Clone(files["backup_label"]), "INCREMENTAL FROM LSN: %s\nINCREMENTAL FROM TLI: 1\n", below.set.Start)
	list := map[string][]byte{}
	for name, is := range files {
		was, had := below.files[name]
		if had && isRelation(name) {
			name, is = sent(r, name, was, is)
		}
		list[name] = is
	}
	list["backup_label"] = labelled
	f := storeFake(t, list, func(s *backupset.Set) {
		began, _ := backupset.ParseLabel(below.set.Label)
		s.Version, s.Label, s.Parent = backupset.IncrementalVersion, backupset.NewIncrementalLabel(began.Add(time.Second)), below.set.Label
		s.ParentDigest, s.Server.SegPages = digestOf(t, below.set), segPages
	}, places...)
	f.files = files
	return f
}

func digestOf(t testing.TB, s backupset.Set) string {
	t.Helper()
	b, err := backupset.EncodeSet(s)
	if err != nil {
		t.Fatal(err)
	}
	return backupset.Digest(b)
}

// fakeChain is a full set and n that are built on it, the newest last.
func fakeChain(t testing.TB, r *rand.Rand, n int, places ...location.Location) []*fake {
	t.Helper()
	out := []*fake{newFake(t, smallFiles(r), places...)}
	for range n {
		below := out[len(out)-1]
		out = append(out, newFakeOn(t, r, below, live(r, below.files), places...))
	}
	return out
}

// checkChain is check of an incremental set, which has no manifest of its own.
func (f *fake) checkChain(t testing.TB, p recover.Plan) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(p.DataDir, "backup_manifest")); err == nil {
		t.Error("a manifest that speaks of other files is there")
	}
	if err := os.WriteFile(filepath.Join(p.DataDir, "backup_manifest"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.check(t, p)
}

// Whatever a database lives through between the sets, and wherever a restore is
// cut, in the end its files are those of the newest set.
func TestIncremental_EqualsModel(t *testing.T) {
	for seed := range uint64(9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 7))
			place, _ := newPlace(t)
			chain := fakeChain(t, r, 1+r.IntN(4), place)
			top := chain[len(chain)-1]
			q := top.request(t)
			if seed%3 == 1 { // over what an older set, or the newest, left there
				older := chain[r.IntN(len(chain))]
				first := q
				first.Label = older.set.Label
				mustExecute(t, mustPlan(t, first, sources(place)), sources(place), recover.Options{Volatile: true})
				if err := recover.Forget(q.DataDir); err != nil {
					t.Fatal(err)
				}
				q.Mode, q.TrustTimes = recover.Delta, seed%2 == 0
			}
			p := mustPlan(t, q, sources(place))
			if got := p.Chain(); len(got) != len(chain) || got[0] != chain[0].set.Label {
				t.Fatalf("the chain is %v", got)
			}
			for range 3 {
				n := int64(1 + r.IntN(60))
				var calls atomic.Int64
				_, err := execute(p, sources(place), recover.Options{Volatile: true, Step: func(string) error {
					if calls.Add(1) >= n {
						return errCut
					}
					return nil
				}})
				if err == nil {
					break
				}
				if !errors.Is(err, errCut) {
					t.Fatal(err)
				}
			}
			res := mustExecute(t, p, sources(place), recover.Options{Volatile: true})
			if res.Bytes != 0 && res.Bytes != p.Bytes {
				t.Errorf("%d of %d bytes were done", res.Bytes, p.Bytes)
			}
			top.checkChain(t, p)
		})
	}
}

var errCut = errors.New("cut")

// A set is not restored without everything below it, nor on something else.
func TestIncremental_Refuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir string, chain []*fake)
		want  string
		plan  bool // refused before anything is touched
	}{
		"ParentMissing": {func(t *testing.T, dir string, chain []*fake) { removeSet(t, dir, chain[1]) }, "cannot be read", true},
		"FullMissing":   {func(t *testing.T, dir string, chain []*fake) { removeSet(t, dir, chain[0]) }, "cannot be read", true},
		"ParentChanged": {func(t *testing.T, dir string, chain []*fake) {
			s := chain[1].set
			s.Notes = map[string]string{"other": "one"}
			rewrite(t, dir, s)
		}, "digest", true},
		"ParentDamaged": {func(t *testing.T, dir string, chain []*fake) { flipObject(t, dir, chain[0], backupset.BaseName) }, "damaged", false},
		"ListDamaged":   {func(t *testing.T, dir string, chain []*fake) { flipObject(t, dir, chain[1], backupset.FilesName) }, "list of files cannot be read", true},
		"OtherStart": {func(t *testing.T, dir string, chain []*fake) {
			s := chain[0].set
			s.Start += 8
			rewrite(t, dir, s)
			s1 := chain[1].set
			s1.ParentDigest = digestOf(t, s)
			rewrite(t, dir, s1)
			s2 := chain[2].set
			s2.ParentDigest = digestOf(t, s1)
			rewrite(t, dir, s2)
		}, "was made for a set that begins at", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place, dir := newPlace(t)
			chain := fakeChain(t, rand.New(rand.NewPCG(5, 5)), 2, place)
			tt.spoil(t, dir, chain)
			p, err := recover.MakePlan(context.Background(), chain[2].request(t), sources(place))
			if tt.plan != errors.Is(err, recover.ErrRefused) {
				t.Fatalf("plan: %v", err)
			}
			if !tt.plan {
				_, err = execute(p, sources(place), recover.Options{Volatile: true})
				if startable(p.DataDir) {
					t.Error("PostgreSQL can be started")
				}
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// Blocks of a file that no set below has are not made up.
func TestIncremental_FileWithoutBelow(t *testing.T) {
	place, _ := newPlace(t)
	r := rand.New(rand.NewPCG(6, 6))
	below := newFake(t, smallFiles(r), place)
	lie := *below
	lie.files = maps.Clone(below.files)
	for i := range 20 { // most of them are sent as blocks
		lie.files[fmt.Sprint("base/5/", 19900+i)] = pages(r, 3)
	}
	top := newFakeOn(t, r, &lie, maps.Clone(lie.files), place)
	p := mustPlan(t, top.request(t), sources(place))
	if _, err := execute(p, sources(place), recover.Options{Volatile: true}); !errors.Is(err, recover.ErrDamaged) || !strings.Contains(err.Error(), "base/5/199") {
		t.Errorf("got %v, want %v", err, recover.ErrDamaged)
	}
}

// The sets of a chain may lie at several places.
func TestIncremental_SpreadOverPlaces(t *testing.T) {
	one, dirOne := newPlace(t)
	two, dirTwo := newPlace(t)
	chain := fakeChain(t, rand.New(rand.NewPCG(9, 9)), 2, one, two)
	removeSet(t, dirOne, chain[0])
	removeSet(t, dirTwo, chain[1])
	p := mustPlan(t, chain[2].request(t), sources(one, two))
	mustExecute(t, p, sources(one, two), recover.Options{Volatile: true})
	chain[2].checkChain(t, p)
}

func removeSet(t *testing.T, dir string, f *fake) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, root().SetDir(f.set.Label))); err != nil {
		t.Fatal(err)
	}
}

func flipObject(t *testing.T, dir string, f *fake, name string) {
	t.Helper()
	flip(t, filepath.Join(dir, root().Object(f.set.Label, name)), 200)
}

// rewrite replaces the description of a set.
func rewrite(t *testing.T, dir string, s backupset.Set) {
	t.Helper()
	b, err := backupset.EncodeSet(s)
	if err != nil {
		t.Fatal(err)
	}
	key := root().Object(s.Label, backupset.SetName)
	if err := os.Remove(filepath.Join(dir, key)); err != nil {
		t.Fatal(err)
	}
	put(t, local.New(dir), key, b)
}
