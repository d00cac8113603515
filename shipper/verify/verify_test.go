package verify_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/verify"
)

func TestSet_SoundIsSound(t *testing.T) {
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	for _, deep := range []bool{false, true} {
		var last verify.Progress
		r, err := verify.Set(context.Background(), m, root(), s.set.Label, s.digest, verify.Options{Deep: deep, Progress: func(p verify.Progress) { last = p }})
		if err != nil || r.Damaged() || r.FindingN != 0 || r.Problem() != "" || r.Objects != len(s.set.Objects)+1 || r.Bytes <= s.set.StoredBytes() || (r.RawBytes > 0) != deep {
			t.Errorf("deep %v: %+v, %v", deep, r, err)
		}
		if last.Done != s.set.StoredBytes() || last.Total != last.Done {
			t.Errorf("progress ended at %+v of %d bytes", last, s.set.StoredBytes())
		}
	}
}

func TestWAL_SoundIsSound(t *testing.T) {
	m := newMem()
	l := storeLog(t, m)
	for _, deep := range []bool{false, true} {
		r := proveLog(t, m, l, deep)
		if r.Damaged() || r.FindingN != 0 || r.Objects != 6 {
			t.Errorf("deep %v: %+v", deep, r)
		}
	}
}

// What a deep verification finds in a set whose bytes are those that were
// written, by a writer with a fault.
func TestSet_DeepFindsWriterFaults(t *testing.T) {
	index := func(w *wrote, path string) int {
		return slices.IndexFunc(w.lines, func(f backupset.File) bool { return f.Path == path })
	}
	for name, row := range map[string]struct {
		change func(*wrote)
		want   string
	}{
		"OtherDigest":     {func(w *wrote) { w.lines[index(w, "base/5/16400")].Digests[3] ^= 1 }, "base/5/16400 from byte 0 on"},
		"OtherOffset":     {func(w *wrote) { w.lines[index(w, "base/5/16400")].Offset += 8 }, "base/5/16400"},
		"BeyondTheEnd":    {func(w *wrote) { w.lines[index(w, "PG_VERSION")].Offset = 1 << 30 }, "is not within base.tar.zst"},
		"OutOfOrder":      {func(w *wrote) { w.lines[index(w, "base/5/16400")].Offset = 512 }, "does not lie in one frame"},
		"LineLost":        {func(w *wrote) { w.lines = slices.Delete(w.lines, index(w, "PG_VERSION"), index(w, "PG_VERSION")+1) }, "lines, set.json says"},
		"ArchiveUnknown":  {func(w *wrote) { w.lines[0].Archive = "7.tar.zst" }, "which the set has not"},
		"ArchiveTwice":    {func(w *wrote) { w.lines = append(w.lines[1:], w.lines[0]) }, "do not stand together"},
		"RawBytes":        {func(w *wrote) { w.set.RawBytes++ }, "set.json says"},
		"FileInNoArchive": {func(w *wrote) { w.mani = strings.Replace(w.mani, "base/5/16401", "base/5/16409", 1) }, "16401 is not in PostgreSQL's manifest"},
		"FileLost":        {func(w *wrote) { w.entries = append(w.entries, w.entries[0]); w.manifest() }, "is in none of its archives"},
		"ManifestSize":    {func(w *wrote) { w.mani = strings.Replace(w.mani, `"Size": 4000`, `"Size": 4001`, 1) }, "has 4000 bytes, PostgreSQL's manifest says 4001"},
		"ManifestSum":     {func(w *wrote) { w.mani = strings.Replace(w.mani, `"Checksum": "`, `"Checksum": "00000000`, 1) }, "another checksum"},
		"ManifestCut":     {func(w *wrote) { w.mani = w.mani[:len(w.mani)/2] }, "cannot be read as a manifest"},
		"ManifestNone":    {func(w *wrote) { w.mani = "[]" }, "cannot be read as a manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMem()
			s := store(t, m, smallFiles(), row.change)
			if r := proveSet(t, m, s, false); r.Damaged() {
				t.Errorf("its stored bytes: %+v", r.Findings)
			}
			r := proveSet(t, m, s, true)
			text := ""
			for _, f := range r.Findings {
				text += f.String() + "\n"
			}
			if !r.Damaged() || !strings.Contains(text, row.want) {
				t.Errorf("findings %q, want %q", text, row.want)
			}
		})
	}
}

// A file of many chunks in many frames, with the order of the archives that a
// server has.
func TestSet_DeepLargeFile(t *testing.T) {
	files := smallFiles()
	big := bytes.Repeat([]byte("0123456789abcdef"), 11<<16)
	files[backupset.BaseName]["base/5/1"] = append(big, 7)
	m := newMem()
	s := store(t, m, files, nil)
	if r := proveSet(t, m, s, true); r.Damaged() || r.RawBytes < 11<<20 {
		t.Errorf("%+v", r)
	}
	s = store(t, m, files, func(w *wrote) {
		i := slices.IndexFunc(w.lines, func(f backupset.File) bool { return f.Path == "base/5/1" })
		w.lines[i].Digests[5*backupset.DigestSize] ^= 1
	})
	if r := proveSet(t, m, s, true); !strings.Contains(r.Problem(), "base/5/1 from byte 5242880 on") {
		t.Errorf("%+v", r)
	}
}

func TestSet_UnknownObjectsDoNoHarm(t *testing.T) {
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	m.put(root().Object(s.set.Label, "99.tar.zst"), []byte("x"))
	r := proveSet(t, m, s, false)
	if r.Damaged() || r.FindingN != 1 || r.Findings[0].Kind != verify.Unknown || r.Problem() != "" {
		t.Errorf("%+v", r)
	}
}

func TestSet_OtherSetIsForeign(t *testing.T) {
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	s.digest = strings.Repeat("0", 64)
	if r := proveSet(t, m, s, false); !r.Damaged() || r.Findings[0].Kind != verify.Foreign {
		t.Errorf("another digest: %+v", r)
	}
	s.digest = ""
	b, _ := m.get(root().Object(s.set.Label, backupset.SetName))
	m.put(root().Object("20261121-000000F", backupset.SetName), b)
	s.set.Label = "20261121-000000F"
	if r := proveSet(t, m, s, false); !r.Damaged() || r.Findings[0].Kind != verify.Foreign {
		t.Errorf("under another label: %+v", r)
	}
}

// A place that cannot be reached gives no verdict; damage that was found before
// stands.
func TestVerify_UnreachableIsNoVerdict(t *testing.T) {
	for _, deep := range []bool{false, true} {
		m := newMem()
		s := store(t, m, smallFiles(), nil)
		l := storeLog(t, m)
		n := 0
		for name, run := range map[string]func() (verify.Report, error){
			"Set": func() (verify.Report, error) {
				return verify.Set(context.Background(), m, root(), s.set.Label, s.digest, verify.Options{Deep: deep, Workers: 1, Retry: once()})
			},
			"WAL": func() (verify.Report, error) {
				return verify.WAL(context.Background(), m, root(), l, verify.Options{Deep: deep, Workers: 1, Retry: once()})
			},
		} {
			m.open, m.reads = func(_ string, _ int64, b []byte) ([]byte, error) { return b, nil }, 0
			if _, err := run(); err != nil {
				t.Fatal(err)
			}
			all := m.reads
			for at := 1; at <= all; at++ {
				n++
				m.reads = 0
				m.open = func(_ string, _ int64, b []byte) ([]byte, error) {
					m.mu.Lock()
					defer m.mu.Unlock()
					if m.reads >= at {
						return nil, location.ErrUnreachable
					}
					return b, nil
				}
				if r, err := run(); !errors.Is(err, location.ErrUnreachable) || r.Damaged() || r.FindingN > 0 {
					t.Fatalf("%s, away from read %d on: %+v, %v", name, at, r, err)
				}
			}
			m.open = nil
		}
		t.Logf("deep %v: away at each of %d reads", deep, n)
	}
}

func TestSet_DamageStandsWhateverElseIsUnread(t *testing.T) {
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	base, list := root().Object(s.set.Label, backupset.BaseName), root().Object(s.set.Label, backupset.FilesName)
	b, _ := m.get(list)
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	m.put(list, b)
	fault := errors.New("input/output error")
	m.open = func(key string, _ int64, b []byte) ([]byte, error) {
		if key == base {
			return nil, fault
		}
		return b, nil
	}
	r, err := verify.Set(context.Background(), m, root(), s.set.Label, s.digest, verify.Options{Retry: once()})
	if !errors.Is(err, fault) || !r.Damaged() || len(r.Unread) != 1 || r.Unread[0].Object != base || r.Objects != len(s.set.Objects)-1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A reading that goes wrong once says nothing about what is stored.
func TestSet_OneWrongReadingIsNoDamage(t *testing.T) {
	for _, deep := range []bool{false, true} {
		m := newMem()
		s := store(t, m, smallFiles(), nil)
		base := root().Object(s.set.Label, backupset.BaseName)
		n, wrong := 0, 1
		if deep {
			wrong = 2 // the first one is for the seek table
		}
		m.open = func(key string, off int64, b []byte) ([]byte, error) {
			if m.mu.Lock(); key == base {
				n++
			}
			if key == base && n == wrong {
				b = bytes.Clone(b)
				b[50] ^= 4
			}
			m.mu.Unlock()
			return b, nil
		}
		r, err := verify.Set(context.Background(), m, root(), s.set.Label, s.digest, verify.Options{Deep: deep, Retry: once()})
		if r.Damaged() || n <= wrong || (err != nil) != deep {
			t.Errorf("deep %v: %+v, %v", deep, r, err)
		}
	}
}

func TestSet_Cancelled(t *testing.T) {
	m := newMem()
	s := store(t, m, smallFiles(), nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	m.open = func(key string, _ int64, b []byte) ([]byte, error) {
		if strings.HasSuffix(key, backupset.BaseName) {
			cancel(enough)
			return nil, context.Cause(ctx)
		}
		return b, nil
	}
	if r, err := verify.Set(ctx, m, root(), s.set.Label, s.digest, verify.Options{Deep: true, Retry: once()}); !errors.Is(err, enough) || r.Damaged() {
		t.Errorf("%+v, %v", r, err)
	}
}

// The log goes on while it is verified: a whole segment takes the place of a
// partial one between the listing and the reading.
func TestWAL_PartialBecomesWhole(t *testing.T) {
	m := newMem()
	l := storeLog(t, m)
	partial, whole := root().Partial(2, 5*segSize, segSize), root().Segment(2, 5*segSize, segSize)
	var b bytes.Buffer
	enc, err := archive.NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, segSize)
	page(raw, 5*segSize)
	if _, err := enc.Encode(&b, bytes.NewReader(raw), archive.Seal{SystemID: systemID, Timeline: 2, Start: 5 * segSize, Length: segSize, SegSize: segSize}); err != nil {
		t.Fatal(err)
	}
	m.open = func(key string, _ int64, c []byte) ([]byte, error) {
		if key == partial {
			m.put(whole, b.Bytes())
			m.put(partial, nil)
			return nil, location.ErrNotExist
		}
		return c, nil
	}
	if r := proveLog(t, m, l, true); r.FindingN > 0 || r.Objects != 6 {
		t.Errorf("%+v", r)
	}
}

func TestWAL_Findings(t *testing.T) {
	for name, row := range map[string]struct {
		change func(m *mem, l *verify.Log)
		want   string
		harm   bool
	}{
		"GapOfTwo": {func(m *mem, l *verify.Log) {
			m.put(root().Segment(1, 2*segSize, segSize), nil)
			m.put(root().Segment(1, 3*segSize, segSize), nil)
		}, "is missing, and with it the log from 0/200000 to 0/400000 of timeline 1", true},
		"ShorterThanRecorded": {func(_ *mem, l *verify.Log) { l.Stretches[1].To += 1000 }, "the log from 0/507530 to 0/507918 of timeline 2", true},
		"NoHistory":           {func(m *mem, _ *verify.Log) { m.put(root().History(2), nil) }, "timeline 2 cannot be followed", true},
		"OtherSystem":         {func(_ *mem, l *verify.Log) { l.SystemID++ }, "another piece of log", true},
		"OtherFork": {func(m *mem, l *verify.Log) {
			m.put(root().History(2), archive.RenderHistory([]archive.Ancestor{{Timeline: 1, End: 4*segSize + 5008, Reason: "promotion in epoch 1.2"}}))
		}, "it was left by 1 at 0/401388", true},
		"OtherReason": {func(m *mem, l *verify.Log) {
			m.put(root().History(2), archive.RenderHistory([]archive.Ancestor{{Timeline: 1, End: 4*segSize + 5000, Reason: "something else"}}))
		}, "another wording", false},
		"Strange": {func(m *mem, _ *verify.Log) { m.put(root().WAL()+"README", []byte("x")) }, "is no piece of this log", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMem()
			l := storeLog(t, m)
			row.change(m, &l)
			r := proveLog(t, m, l, true)
			if len(r.Findings) == 0 || !strings.Contains(r.Findings[0].What, row.want) || r.Damaged() != row.harm {
				t.Errorf("%+v, want %q", r, row.want)
			}
		})
	}
}

// A piece whose log is another one's, well sealed under a right name, is found
// by its first page.
func TestWAL_DeepLooksIntoThePage(t *testing.T) {
	m := newMem()
	l := storeLog(t, m)
	var b bytes.Buffer
	enc, err := archive.NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, segSize)
	page(raw, 9*segSize)
	if _, err := enc.Encode(&b, bytes.NewReader(raw), archive.Seal{SystemID: systemID, Timeline: 1, Start: 3 * segSize, Length: segSize, SegSize: segSize}); err != nil {
		t.Fatal(err)
	}
	m.put(root().Segment(1, 3*segSize, segSize), b.Bytes())
	if r := proveLog(t, m, l, false); r.Damaged() {
		t.Errorf("by its seal: %+v", r)
	}
	if r := proveLog(t, m, l, true); !r.Damaged() || r.Findings[0].Kind != verify.Foreign {
		t.Errorf("deep: %+v", r)
	}
}

func TestLogOf_SkipsTimelinesNeverWrittenOn(t *testing.T) {
	m := newMem()
	l := storeLog(t, m)
	if got := l.Histories[2]; len(got) != 1 || got[0].End != 4*segSize+5000 || got[0].Reason != "promotion in epoch 1.2" {
		t.Errorf("%+v", got)
	}
	if l.SystemID != systemID || len(l.Stretches) != 2 || l.Stretches[0].Range != (pos.Range{From: 2 * segSize, To: 4*segSize + 5000}) {
		t.Errorf("%+v", l)
	}
}
