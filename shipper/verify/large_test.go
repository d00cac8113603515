package verify_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"runtime"
	"syscall"
	"testing"

	"github.com/zeebo/blake3"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/verify"
)

// BenchmarkSet verifies 512 MiB of stored bytes in a local directory that the
// page cache holds. cpu-GB/s is what one processor does: the rate by processor
// time, of the kernel's part too.
func BenchmarkSet(b *testing.B) {
	dir := b.TempDir()
	if err := local.Init(dir); err != nil {
		b.Fatal(err)
	}
	loc := local.New(dir)
	defer loc.Close()
	m := newMem()
	set := store(b, m, smallFiles(), nil).set
	big := make([]byte, 512<<20)
	rand.Read(big)
	sum := blake3.Sum256(big)
	for i, o := range set.Objects {
		if o.Name == backupset.BaseName {
			set.Objects[i].Bytes, set.Objects[i].BLAKE3 = int64(len(big)), hex.EncodeToString(sum[:])
			m.put(root().Object(set.Label, o.Name), big)
		}
	}
	text, err := backupset.EncodeSet(set)
	if err != nil {
		b.Fatal(err)
	}
	m.put(root().Object(set.Label, backupset.SetName), text)
	for key, body := range clone(m) {
		put(b, loc, key, body)
	}
	b.SetBytes(set.StoredBytes())
	before, n := cpu(b), 0
	for b.Loop() {
		n++
		if r, err := verify.Set(context.Background(), loc, root(), set.Label, "", verify.Options{}); err != nil || r.Damaged() {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	b.ReportMetric(float64(set.StoredBytes())*float64(n)/1e9/(cpu(b)-before), "cpu-GB/s")
}

func put(t testing.TB, loc location.Location, key string, b []byte) {
	t.Helper()
	u, err := loc.Create(context.Background(), key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A large object takes no more memory than the buffers of the workers.
func TestSet_BoundedMemory(t *testing.T) {
	dir := t.TempDir()
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	loc := local.New(dir)
	defer loc.Close()
	label := storeLarge(t, loc)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	r, err := verify.Set(context.Background(), loc, root(), label, "", verify.Options{Deep: true, Workers: 4, Progress: func(verify.Progress) {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapInuse-min(now.HeapInuse, before.HeapInuse))
	}})
	if err != nil || r.FindingN > 0 || r.RawBytes < 128<<20 {
		t.Fatalf("%d raw bytes, %+v, %v", r.RawBytes, r.Findings, err)
	}
	if t.Logf("%d MiB above %d", most>>20, before.HeapInuse>>20); most > 160<<20 {
		t.Errorf("%d MiB of memory for a set of %d", most>>20, r.Bytes>>20)
	}
}

// storeLarge leaves nothing of the set in memory.
func storeLarge(t *testing.T, loc location.Location) (label string) {
	t.Helper()
	big := make([]byte, 128<<20)
	rand.Read(big)
	files := smallFiles()
	files[backupset.BaseName]["base/5/1"] = big
	m := newMem()
	label = store(t, m, files, nil).set.Label
	for key, b := range m.objects {
		put(t, loc, key, b)
	}
	return label
}

// cpu is the processor time of this process, in seconds.
func cpu(t testing.TB) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
