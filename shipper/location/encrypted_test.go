package location_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"filippo.io/age"

	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/locationtest"
)

// place is a location in a folder; in memory where the machine has one, since
// nothing here is about disks and every commit waits for them.
func place(t *testing.T) *local.Location {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "location")
	if err != nil {
		dir = t.TempDir()
	}
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	loc := local.New(dir)
	t.Cleanup(func() {
		if err := errors.Join(loc.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return loc
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func encrypt(t *testing.T, loc location.Location, ids ...*age.X25519Identity) location.Location {
	t.Helper()
	var to []age.Recipient
	var with []age.Identity
	for _, id := range ids {
		to, with = append(to, id.Recipient()), append(with, id)
	}
	e, err := location.Encrypted(loc, to, with)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEncrypted_Suite(t *testing.T) {
	locationtest.Run(t, func(t *testing.T) location.Location {
		return encrypt(t, place(t), identity(t), identity(t))
	}, locationtest.Features{Space: true})
}

// TestEncrypted_Sizes: whatever the recipients, the size of the plaintext
// follows from the size of the file, and stock age reads the file.
func TestEncrypted_Sizes(t *testing.T) {
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	a, b := identity(t), identity(t)
	for name, set := range map[string]struct {
		to   []age.Recipient
		with age.Identity
	}{
		"One":         {[]age.Recipient{a.Recipient()}, a},
		"Two":         {[]age.Recipient{a.Recipient(), b.Recipient()}, b},
		"PostQuantum": {[]age.Recipient{hybrid.Recipient()}, hybrid},
	} {
		t.Run(name, func(t *testing.T) {
			loc := place(t)
			e, err := location.Encrypted(loc, set.to, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{0, 1, 65535, 65536, 65537, 131072, 1<<20 + 1} {
				data := locationtest.Bytes(uint64(n), n)
				locationtest.Put(t, e, "k", data, location.CreateOptions{Size: int64(n)})
				if info, err := e.Stat(t.Context(), "k"); err != nil || info.Size != int64(n) || info.Key != "k" {
					t.Errorf("%d bytes: %+v, %v", n, info, err)
				}
				r, err := age.Decrypt(bytes.NewReader(locationtest.Get(t, loc, "k.age")), set.with)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes: stock age reads %d, %v", n, len(got), err)
				}
			}
		})
	}
}

// TestEncrypted_ReadsStockFiles: a file that was encrypted by hand has a
// shorter header.
func TestEncrypted_ReadsStockFiles(t *testing.T) {
	loc, id := place(t), identity(t)
	for _, n := range []int{0, 5, 65536, 300 << 10} {
		data := locationtest.Bytes(1, n)
		var file bytes.Buffer
		w, err := age.Encrypt(&file, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		locationtest.Put(t, loc, "k.age", file.Bytes(), location.CreateOptions{Size: -1})
		if got := locationtest.Get(t, encrypt(t, loc, id), "k"); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: read %d", n, len(got))
		}
	}
}

func TestEncrypted_WrongIdentity(t *testing.T) {
	loc := place(t)
	locationtest.Put(t, encrypt(t, loc, identity(t)), "k", []byte("secret"), location.CreateOptions{Size: -1})
	if _, err := encrypt(t, loc, identity(t)).Open(t.Context(), "k", 0, -1); !errors.Is(err, location.ErrRefused) {
		t.Errorf("another's identity: %v", err)
	}
	writer, err := location.Encrypted(loc, []age.Recipient{identity(t).Recipient()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Open(t.Context(), "k", 0, -1); !errors.Is(err, location.ErrRefused) {
		t.Errorf("no identity: %v", err)
	}
	reader, err := location.Encrypted(loc, nil, []age.Identity{identity(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Create(t.Context(), "k", location.CreateOptions{}); err == nil {
		t.Error("written without a recipient")
	}
}

func TestEncrypted_RefusedRecipients(t *testing.T) {
	scrypt, err := age.NewScryptRecipient("passphrase")
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	var many []age.Recipient
	for range 60 {
		many = append(many, identity(t).Recipient())
	}
	for name, to := range map[string][]age.Recipient{
		"None": nil, "Passphrase": {scrypt}, "Mixed": {hybrid.Recipient(), identity(t).Recipient()}, "TooMany": many,
	} {
		if _, err := location.Encrypted(place(t), to, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestEncrypted_Damage flips bits all over a file, and cuts it: whatever is
// read is an error or the right bytes.
func TestEncrypted_Damage(t *testing.T) {
	loc, id := place(t), identity(t)
	e := encrypt(t, loc, id)
	data := locationtest.Bytes(1, 200<<10)
	locationtest.Put(t, e, "k", data, location.CreateOptions{Size: -1})
	good := locationtest.Get(t, loc, "k.age")
	try := func(what string, file []byte) {
		t.Helper()
		locationtest.Put(t, loc, "k.age", file, location.CreateOptions{Size: -1})
		r, err := e.Open(t.Context(), "k", 0, -1)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if !errors.Is(err, location.ErrDamaged) && !errors.Is(err, location.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for at := 0; at < len(good); at += 1 + at/5 {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		try("flipped", bad)
	}
	for _, n := range []int{0, 1, 100, 4095, 4096, 4111, 4112, 4113, 65552 + 4096, len(good) - 65552, len(good) - 1} {
		try("cut", good[:n])
	}
	try("longer", append(bytes.Clone(good), 0))
	if err := e.List(t.Context(), "", func(i location.Info) error {
		if i.Key != "k" {
			t.Errorf("listed %+v", i)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// counted counts the calls that cost a round trip.
type counted struct {
	location.Location
	calls *[]string
}

func (c counted) report(call location.Call) { *c.calls = append(*c.calls, string(call.Op)) }

// TestEncrypted_RangesAreCheap: reading a large object in parts asks for its
// ends once.
func TestEncrypted_RangesAreCheap(t *testing.T) {
	var calls []string
	c := counted{calls: &calls}
	e := encrypt(t, location.Observed(place(t), c.report), identity(t))
	data := locationtest.Bytes(1, 40<<20)
	locationtest.Put(t, e, "k", data, location.CreateOptions{Size: int64(len(data))})
	calls = nil
	for off := 3; off < len(data); off += 8 << 20 {
		n := min(8<<20, len(data)-off)
		r, err := e.Open(t.Context(), "k", int64(off), int64(n))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, data[off:off+n]) {
			t.Fatalf("range from %d: %d bytes, %v", off, len(got), err)
		}
	}
	if got, want := strings.Join(calls, " "), "stat get get get"+strings.Repeat(" stat get", 4); got != want {
		t.Errorf("calls were %s, want %s", got, want)
	}
}
