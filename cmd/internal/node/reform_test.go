package node_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/cmd/internal/node"
	"understudy/configs"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// write makes a file with its directory.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func oldState() facts.State {
	return facts.State{Group: facts.Group{ID: "g", LedgerID: "old"}, Primary: facts.Primaryship{Epoch: pos.Epoch{Gen: 4, Num: 9}}}
}

// ordered is a node with a ledger that holds something, and the order to form
// the group anew.
func ordered(t *testing.T) (*configs.Node, string) {
	t.Helper()
	cfg := config(t)
	sp := open(t, cfg, "")
	store := sp.Store()
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cfg.StateDir, "ledger", "raft.db"), "old log")
	if err := node.OrderReform(cfg, oldState(), "new"); err != nil {
		t.Fatal(err)
	}
	return cfg, store
}

// checkReformed opens the store and looks at what became of the ledger.
func checkReformed(t *testing.T, cfg *configs.Node, store, ledger string) {
	t.Helper()
	if sp := open(t, cfg, ""); sp.Store() != store {
		t.Errorf("the store is %s, was %s", sp.Store(), store)
	} else if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.StateDir, "ledger", "raft.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new ledger begins with the old one's log: %v", err)
	}
	if id, gen, joined, err := node.LedgerName(cfg); err != nil || id != ledger || gen != 5 || !joined {
		t.Errorf("the ledger is named %s of generation %d, %v, %v", id, gen, joined, err)
	}
	kept, _ := filepath.Glob(filepath.Join(cfg.StateDir, "ledger-before-*", "raft.db"))
	if len(kept) != 1 {
		t.Errorf("the old ledger is kept in %v", kept)
	}
}

// Whatever moment a crash interrupts, the next start gets to the same end.
func TestReform_InterruptedAnywhere(t *testing.T) {
	rename := func(t *testing.T, from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, crashed := range map[string]func(t *testing.T, dir string){
		"Before":     func(*testing.T, string) {},
		"HalfOfANew": func(t *testing.T, dir string) { write(t, dir+"/ledger.new/store.tmp", "x") },
		"WrongNew":   func(t *testing.T, dir string) { write(t, dir+"/ledger.new/raft.db", "of another attempt") },
		"PutAside":   func(t *testing.T, dir string) { rename(t, dir+"/ledger", dir+"/ledger-before-x") },
		"AsideAndNew": func(t *testing.T, dir string) {
			write(t, dir+"/ledger.new/store", "x")
			rename(t, dir+"/ledger", dir+"/ledger-before-x")
		},
		"TornOrder": func(t *testing.T, dir string) { write(t, dir+"/reform.json.tmp", `{"state`) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, store := ordered(t)
			crashed(t, cfg.StateDir)
			checkReformed(t, cfg, store, "new")
			checkReformed(t, cfg, store, "new") // until the new ledger has begun, each start does it again
		})
	}
}

func TestReform_Again(t *testing.T) {
	cfg, store := ordered(t)
	checkReformed(t, cfg, store, "new")
	if err := node.OrderReform(cfg, oldState(), "newer"); err != nil {
		t.Fatal(err)
	}
	checkReformed(t, cfg, store, "newer")
}

func TestReform_DamagedOrderIsNotPassedOver(t *testing.T) {
	cfg, _ := ordered(t)
	write(t, filepath.Join(cfg.StateDir, "reform.json"), "{")
	if sp, err := node.OpenStore(cfg, "g", "", slog.New(slog.DiscardHandler)); err == nil {
		sp.Close()
		t.Error("opened")
	}
	if b, _ := os.ReadFile(filepath.Join(cfg.StateDir, "ledger", "raft.db")); string(b) != "old log" {
		t.Errorf("the old ledger is gone: %q", b)
	}
}

// A node that gave way begins with a new store, and knows whose it is.
func TestRenewal_NamesTheLedgerToJoin(t *testing.T) {
	cfg, store := ordered(t)
	if err := os.Remove(filepath.Join(cfg.StateDir, "reform.json")); err != nil {
		t.Fatal(err)
	}
	if err := node.OrderRenewal(cfg, "theirs"); err != nil {
		t.Fatal(err)
	}
	if sp := open(t, cfg, ""); sp.Store() == store {
		t.Error("the old store speaks on")
	}
	if id, gen, joined, err := node.LedgerName(cfg); id != "theirs" || gen != 2 || joined || err != nil {
		t.Errorf("%s, %d, %v, %v", id, gen, joined, err)
	}
	if _, err := os.Stat(filepath.Join(cfg.StateDir, "renew")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the order stands: %v", err)
	}
}

func TestRaftStream_RefusesOtherLedgers(t *testing.T) {
	hello := func(id string) string { return string(byte(len(id))) + id }
	for _, tt := range []struct {
		name, own, sent string
		want            error // nil: what follows is read
	}{
		{"Same", "a", hello("a") + "rest", nil},
		{"Other", "a", hello("b") + "rest", node.ErrOtherLedger},
		{"Longer", "a", hello("ab") + "rest", node.ErrOtherLedger},
		{"NamesNone", "a", hello("") + "rest", node.ErrOtherLedger},
		{"NewNode", "", hello("b") + "rest", nil},
		{"BothNew", "", hello("") + "rest", nil},
		{"HostileLength", "a", "\xff" + strings.Repeat("x", 300), node.ErrOtherLedger},
		{"Cut", "a", "\x10short", io.ErrUnexpectedEOF},
		{"Nothing", "a", "", io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				io.WriteString(far, tt.sent)
				far.Close()
			}()
			c := node.RaftConn(near, tt.own)
			b := make([]byte, 4)
			_, err := io.ReadFull(c, b)
			if tt.want == nil {
				if err != nil || string(b) != "rest" {
					t.Errorf("read %q, %v", b, err)
				}
			} else if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, again := c.Read(b); tt.want != nil && !errors.Is(again, tt.want) {
				t.Errorf("a refused connection is read on: %v", again)
			}
			near.Close()
			<-done
		})
	}
}
