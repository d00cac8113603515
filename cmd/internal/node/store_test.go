package node_test

import (
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/cmd/internal/node"
	"understudy/configs"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

const segSize = 1 << 20

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

func config(t *testing.T) *configs.Node {
	t.Helper()
	return &configs.Node{Name: "w", StateDir: filepath.Join(t.TempDir(), "state")}
}

func open(t *testing.T, cfg *configs.Node, pgWAL string) *spool.Spool {
	t.Helper()
	sp, err := node.OpenStore(cfg, "g", pgWAL, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sp.Close() })
	return sp
}

// records is the first segment of a log, with records up to n bytes.
func records(start pos.LSN, n int) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := make([]byte, 40, segSize)
	binary.LittleEndian.PutUint16(b, 0xD110)
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], 1)
	binary.LittleEndian.PutUint64(b[8:], uint64(start))
	binary.LittleEndian.PutUint64(b[24:], 77)
	binary.LittleEndian.PutUint32(b[32:], segSize)
	binary.LittleEndian.PutUint32(b[36:], 8192)
	prev := pos.LSN(0)
	for len(b) < n && len(b) < 8000 {
		r := make([]byte, 64)
		binary.LittleEndian.PutUint32(r, 64)
		binary.LittleEndian.PutUint64(r[8:], uint64(prev))
		r[17] = 21
		for i := 24; i < 64; i++ {
			r[i] = byte(i + len(b))
		}
		crc := crc32.Update(crc32.Checksum(r[24:], table), table, r[:20])
		binary.LittleEndian.PutUint32(r[20:], crc)
		prev = start + pos.LSN(len(b))
		b = append(b, r...)
	}
	return b
}

const start = pos.LSN(4 * segSize)

// begun gives a store a log of n bytes, of which the first part was fsynced,
// and leaves it as a killed process would: the copy of its directory is what
// the next process finds.
func begun(t *testing.T, cfg *configs.Node, log []byte, fed bool) (store string) {
	t.Helper()
	sp := open(t, cfg, "")
	lin := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: start}}
	if err := sp.Begin(77, segSize, start); err != nil {
		t.Fatal(err)
	}
	if err := sp.Adopt(lin, epoch(1)); err != nil {
		t.Fatal(err)
	}
	if err := sp.Append(epoch(1), start, log); err != nil {
		t.Fatal(err)
	}
	if _, err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
	if fed {
		if err := sp.SetFed(); err != nil {
			t.Fatal(err)
		}
	}
	killed := cfg.StateDir + ".killed"
	if err := os.CopyFS(killed, os.DirFS(cfg.StateDir)); err != nil {
		t.Fatal(err)
	}
	store = sp.Store()
	sp.Close()
	if err := os.RemoveAll(cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(killed, cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	return store
}

// pgWAL is a pg_wal with one segment.
func pgWAL(t *testing.T, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	if b != nil {
		full := make([]byte, segSize)
		copy(full, b)
		if err := os.WriteFile(filepath.Join(dir, pos.SegName(1, start, segSize)), full, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStore_StaysTheSame(t *testing.T) {
	cfg := config(t)
	sp := open(t, cfg, "")
	store := sp.Store()
	if len(store) != 16 {
		t.Errorf("store id %q", store)
	}
	for range 3 {
		if err := sp.Close(); err != nil {
			t.Fatal(err)
		}
		sp = open(t, cfg, "")
		if sp.Store() != store {
			t.Fatalf("store %s became %s", store, sp.Store())
		}
	}
	if aside, _ := filepath.Glob(filepath.Join(cfg.StateDir, "lost-*")); len(aside) != 0 {
		t.Errorf("put aside: %v", aside)
	}
}

// Whatever of a store is missing, damaged or another's: what is left may not
// speak for it any more. It is put aside, not erased.
func TestStore_AmnesiaMakesANewStore(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, dir string){
		"SpoolGone":  func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "spool")) },
		"LedgerGone": func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "ledger")) },
		"IDGone":     func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "ledger", "store")) },
		"IDOfAnother": func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "ledger", "store"), []byte("0123456789abcdef\n"), 0o600)
		},
		"MetaGone": func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "spool", "meta.json")) },
		"MetaDamaged": func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "spool", "meta.json"), []byte("{}"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			store := begun(t, cfg, records(start, 4000), false)
			lose(t, cfg.StateDir)
			sp := open(t, cfg, "")
			if sp.Store() == store {
				t.Fatal("the store speaks on for the lost one")
			}
			if !sp.Fence().IsZero() || sp.Base() != 0 || len(sp.Lineage()) != 0 {
				t.Error("the new store has a past")
			}
			id, err := os.ReadFile(filepath.Join(cfg.StateDir, "ledger", "store"))
			if err != nil || strings.TrimSpace(string(id)) != sp.Store() {
				t.Errorf("id file %q, %v", id, err)
			}
			aside, _ := filepath.Glob(filepath.Join(cfg.StateDir, "lost-*", "*"))
			if len(aside) == 0 {
				t.Error("what was left is gone")
			}
		})
	}
}

// What the local PostgreSQL had flushed, and so was acknowledged, is taken
// from pg_wal after a crash.
func TestStore_TakesTheFedTailFromPgWAL(t *testing.T) {
	cfg := config(t)
	whole := records(start, 6000)
	store := begun(t, cfg, whole[:40+64*20], true)
	sp := open(t, cfg, pgWAL(t, whole))
	if sp.Store() != store || sp.End() < start+pos.LSN(len(whole)) || sp.Durable() != sp.End() {
		t.Errorf("store kept %v, the log ends at %s, durable %s, want %s", sp.Store() == store, sp.End(), sp.Durable(), start+pos.LSN(len(whole)))
	}
}

// A pg_wal that cannot vouch for the fed tail means that acknowledged bytes
// may be lost.
func TestStore_FedTailThatIsGone(t *testing.T) {
	whole := records(start, 6000)
	for name, dir := range map[string]string{
		"no pg_wal":    filepath.Join(t.TempDir(), "none"),
		"empty pg_wal": pgWAL(t, nil),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			store := begun(t, cfg, whole[:40+64*20], true)
			if sp := open(t, cfg, dir); sp.Store() == store {
				t.Error("the store keeps its vote over log that it may have lost")
			}
		})
	}
}

// A witness, and a standby that never fed, need no pg_wal.
func TestStore_NotFedNeedsNoPgWAL(t *testing.T) {
	cfg := config(t)
	store := begun(t, cfg, records(start, 3000), false)
	if sp := open(t, cfg, filepath.Join(t.TempDir(), "none")); sp.Store() != store {
		t.Error("the store was given up")
	}
}
