package verify_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/shipper/verify"
	"understudy/standby/recover"
)

// change is one way in which a location differs from what was written.
type change struct {
	what string
	key  string
	b    []byte // nil: the object is gone
}

// flips are two changes of the byte at i: one bit, and all of it.
func flips(r *rand.Rand, key string, b []byte, i int) []change {
	bit, all := bytes.Clone(b), bytes.Clone(b)
	bit[i] ^= 1 << r.IntN(8)
	all[i] ^= byte(1 + r.IntN(255))
	return []change{{"flipped bit", key, bit}, {"other byte", key, all}}
}

// lengths are changes of an object's size.
func lengths(key string, b []byte) []change {
	out := []change{{"gone", key, nil}, {"empty", key, []byte{}}, {"twice", key, append(bytes.Clone(b), b...)}, {"zero at its end", key, append(bytes.Clone(b), 0)}}
	for _, n := range []int{1, 4, 9, 40, len(b) / 2, len(b) - 1} {
		if n > 0 && n < len(b) {
			out = append(out, change{"cut short", key, b[:len(b)-n]}, change{"begin lost", key, b[n:]})
		}
	}
	return out
}

// campaign makes each change, lets try look, and undoes it.
func campaign(t *testing.T, m *mem, changes []change, try func(change)) {
	t.Helper()
	for _, c := range changes {
		was, _ := m.get(c.key)
		m.put(c.key, c.b)
		try(c)
		m.put(c.key, was)
		if t.Failed() {
			t.FailNow()
		}
	}
}

func clone(m *mem) map[string][]byte { return maps.Clone(m.objects) }

// Every byte of every object of a small set, the log of one, and what happens
// to whole objects.
func TestSet_FindsEveryChangedByte(t *testing.T) {
	t.Parallel()
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	r := rand.New(rand.NewPCG(1, 2))
	n, byDeep := 0, 0
	try := func(c change) {
		n++
		deep := n%5 == 0
		if deep {
			byDeep++
		}
		if rep := proveSet(t, m, s, deep); !rep.Damaged() || rep.Problem() == "" || !slices.ContainsFunc(rep.Findings, func(f verify.Finding) bool { return f.Object == c.key }) {
			t.Errorf("%s of %s, deep %v: %+v", c.what, c.key, deep, rep)
		}
	}
	all := clone(m)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		for i := range all[key] {
			campaign(t, m, flips(r, key, all[key], i), try)
		}
		campaign(t, m, lengths(key, all[key]), try)
		for _, other := range slices.Sorted(maps.Keys(all)) {
			if other != key {
				campaign(t, m, []change{{"replaced by " + other, key, all[other]}}, try)
			}
		}
	}
	t.Logf("%d changes of %d objects with %d bytes, all found; %d of them by a deep verification", n, len(all), sizes(all), byDeep)
}

func sizes(all map[string][]byte) (n int) {
	for _, b := range all {
		n += len(b)
	}
	return n
}

func TestWAL_FindsEveryChangedByte(t *testing.T) {
	t.Parallel()
	m := newMem()
	l := storeLog(t, m)
	r := rand.New(rand.NewPCG(3, 4))
	dec, err := archive.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	all := clone(m)
	type piece struct {
		seal archive.Seal
		log  []byte
	}
	want := map[string]piece{}
	for key, b := range all {
		if strings.HasSuffix(key, ".zst") {
			var log bytes.Buffer
			seal, err := dec.Decode(&log, bytes.NewReader(b), segSize)
			if err != nil {
				t.Fatal(err)
			}
			want[key] = piece{seal, log.Bytes()}
		}
	}
	n, decoded := 0, 0
	try := func(m *mem, l verify.Log, c change) {
		n++
		history := strings.HasSuffix(c.key, ".history")
		rep := proveLog(t, m, l, n%100 == 0)
		if len(rep.Findings) == 0 || !rep.Damaged() && !history {
			t.Errorf("%s of %s: %+v", c.what, c.key, rep)
		}
		// What a recovery reads is what was written, or an error.
		if c.b != nil && !history && n%20 == 0 {
			decoded++
			var got bytes.Buffer
			seal, err := dec.Decode(&got, bytes.NewReader(c.b), segSize)
			if w := want[c.key]; err == nil && seal.Start == w.seal.Start && seal.Timeline == w.seal.Timeline && !bytes.Equal(got.Bytes(), w.log) {
				t.Errorf("%s of %s was read as the log", c.what, c.key)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		// Bytes are changed where this piece is all there is.
		alone, part := newMem(), l
		alone.put(key, all[key])
		part.Stretches = nil
		if s := want[key].seal; s.Start > 0 {
			part.Stretches = []archive.Stretch{{Timeline: s.Timeline, Range: pos.Range{From: s.Start, To: s.End()}}}
			part.Histories = nil
		}
		for i := range all[key] {
			campaign(t, alone, flips(r, key, all[key], i), func(c change) { try(alone, part, c) })
		}
		whole := func(c change) { try(m, l, c) }
		campaign(t, m, lengths(key, all[key]), whole)
		for _, other := range slices.Sorted(maps.Keys(all)) {
			if other != key && !strings.HasSuffix(key+other, ".history") {
				campaign(t, m, []change{{"replaced by " + other, key, all[other]}}, whole)
			}
		}
	}
	t.Logf("%d changes of %d objects with %d bytes, all found; %d were decoded, too", n, len(all), sizes(all), decoded)
}

// A restore reads from a location in which something is changed: it ends with
// an error, or with the files that were backed up.
func TestRestore_NeverWritesChangedBytes(t *testing.T) {
	t.Parallel()
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	r := rand.New(rand.NewPCG(5, 6))
	restored, refused := 0, 0
	try := func(c change) {
		dir := t.TempDir()
		switch ok, err := restore(s, m, dir); {
		case err != nil:
			refused++
		case !ok:
			t.Errorf("%s of %s was restored", c.what, c.key)
		default:
			restored++
		}
		os.RemoveAll(dir)
	}
	all := clone(m)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		b := all[key]
		for range 12 {
			campaign(t, m, flips(r, key, b, r.IntN(len(b))), try)
		}
		campaign(t, m, lengths(key, b)[:3], try)
	}
	keys := slices.Sorted(maps.Keys(all))
	for i, key := range keys {
		campaign(t, m, []change{{"replaced", key, all[keys[(i+1)%len(keys)]]}}, try)
	}
	if restored == 0 || refused == 0 {
		t.Errorf("%d restored, %d refused", restored, refused)
	}
	t.Logf("%d changed sets: %d restores were refused, %d gave the right files, as the change was where they do not read", restored+refused, refused, restored)
}

// restore restores the set and compares every file; ok is false when one has
// other bytes.
func restore(s *made, m *mem, dir string) (ok bool, err error) {
	ctx := context.Background()
	src := recover.Sources{Root: root(), Places: []recover.Source{{Name: "here", Location: m}}}
	p, err := recover.MakePlan(ctx, recover.Request{
		Mode: recover.Fresh, DataDir: filepath.Join(dir, "data"), Label: s.set.Label, Digest: s.digest, RestoreCommand: "false", Now: time.Now(),
		Aim: recover.Aim{Target: catalog.Target{Kind: catalog.Latest}}, Tablespaces: map[uint32]string{spaceOID: filepath.Join(dir, "space")},
	}, src)
	if err == nil {
		_, err = recover.Execute(ctx, p, src, recover.Options{Workers: 1, Volatile: true})
	}
	if err != nil {
		return false, err
	}
	for archive, files := range s.files {
		at := map[string]string{backupset.BaseName: p.DataDir, backupset.SpaceName(spaceOID): filepath.Join(dir, "space")}[archive]
		for name, want := range files {
			if at == "" || strings.HasSuffix(name, ".conf") {
				continue // a restore leaves out, or mends, these
			}
			got, err := os.ReadFile(filepath.Join(at, name))
			if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "pg_wal/") {
				continue
			}
			if err != nil || !bytes.Equal(got, want) {
				return false, nil
			}
		}
	}
	return true, nil
}
