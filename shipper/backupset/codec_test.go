package backupset_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"understudy/shipper/backupset"
)

func TestSet_RoundTrip(t *testing.T) {
	b, err := backupset.EncodeSet(example())
	if err != nil {
		t.Fatal(err)
	}
	got, err := backupset.DecodeSet(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(example(), got); d != "" {
		t.Errorf("want, got: %s", d)
	}
	if got, err := backupset.ReadSet(bytes.NewReader(b)); err != nil || got.Label != example().Label {
		t.Errorf("ReadSet: %v", err)
	}
	if got.StoredBytes() != 13 || strings.Join(got.Archives(), " ") != "16400.tar.zst base.tar.zst" {
		t.Errorf("%d bytes in %q", got.StoredBytes(), got.Archives())
	}
}

func TestDecodeSet_EveryFlippedBit(t *testing.T) {
	b, err := backupset.EncodeSet(example())
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, err := backupset.DecodeSet(c); !errors.Is(err, backupset.ErrDamaged) {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
		}
		for _, c := range [][]byte{b[:i], append(bytes.Clone(b[:i]), b[i+1:]...), append(append(bytes.Clone(b[:i]), ' '), b[i:]...)} {
			if _, err := backupset.DecodeSet(c); !errors.Is(err, backupset.ErrDamaged) {
				t.Fatalf("cut, missing or added at %d: %v", i, err)
			}
		}
	}
}

// sealed puts a text into the envelope of set.json.
func sealed(body string) []byte {
	sum := blake3.Sum256([]byte(body))
	return []byte(`{"set":` + body + `,"blake3":"` + hex.EncodeToString(sum[:]) + "\"}\n")
}

func TestDecodeSet_Refuses(t *testing.T) {
	good, err := backupset.EncodeSet(example())
	if err != nil {
		t.Fatal(err)
	}
	body := string(good[len(`{"set":`) : len(good)-len(`,"blake3":""}`)-64-1])
	if _, err := backupset.DecodeSet(sealed(body)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		body string
		want error
	}{
		"NewerVersion": {strings.Replace(body, `"version":1`, `"version":3,"more":1`, 1), backupset.ErrVersion},
		"UnknownField": {strings.Replace(body, `"version":1`, `"version":1,"more":1`, 1), nil},
		"TwoValues":    {body + "{}", nil},
		"NoObject":     {body[:len(body)-1], nil},
		"Empty":        {"{}", nil},
	} {
		if _, err := backupset.DecodeSet(sealed(tt.body)); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestSet_Validate(t *testing.T) {
	for name, spoil := range map[string]func(s *backupset.Set){
		"Version":        func(s *backupset.Set) { s.Version = 0 },
		"Label":          func(s *backupset.Set) { s.Label = "../20260131-233000F" },
		"Timeline":       func(s *backupset.Set) { s.Timeline = 0 },
		"EndBeforeStart": func(s *backupset.Set) { s.End = s.Start - 1 },
		"BlockSize":      func(s *backupset.Set) { s.Server.BlockSize = 8000 },
		"SegSize":        func(s *backupset.Set) { s.Server.SegSize = 3 << 20 },
		"Major":          func(s *backupset.Set) { s.Server.Major = 0 },
		"ObjectName":     func(s *backupset.Set) { s.Objects[0].Name = "../16400.tar.zst" },
		"ObjectSize":     func(s *backupset.Set) { s.Objects[0].Bytes = -1 },
		"ObjectDigest":   func(s *backupset.Set) { s.Objects[0].BLAKE3 = "00" },
		"ObjectOrder":    func(s *backupset.Set) { s.Objects[0], s.Objects[1] = s.Objects[1], s.Objects[0] },
		"ObjectTwice":    func(s *backupset.Set) { s.Objects[1] = s.Objects[0] },
		"NoBase":         func(s *backupset.Set) { s.Objects = append(s.Objects[:2:2], s.Objects[3:]...) },
		"SetInItself":    func(s *backupset.Set) { s.Objects[3].Name = backupset.SetName },
		"Tablespace":     func(s *backupset.Set) { s.Tablespaces[0].OID = 16401 },
		"DamageCount":    func(s *backupset.Set) { s.DamageN = 0 },
		"RawBytes":       func(s *backupset.Set) { s.RawBytes = -1 },
	} {
		s := example()
		spoil(&s)
		if s.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := backupset.EncodeSet(s); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func FuzzDecodeSet(f *testing.F) {
	b, err := backupset.EncodeSet(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add([]byte(`{"version":1}`), true)
	f.Add(b[len(`{"set":`):len(b)-len(`,"blake3":""}`)-65], true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = sealed(string(b))
		}
		s, err := backupset.DecodeSet(b)
		if err != nil {
			return
		}
		again, err := backupset.EncodeSet(s)
		if err != nil {
			t.Fatalf("read, but not written: %v", err)
		}
		if _, err := backupset.DecodeSet(again); err != nil {
			t.Fatal(err)
		}
	})
}
