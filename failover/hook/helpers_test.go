package hook_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"understudy/failover/hook"
	"understudy/shipper/pos"
)

// folder is a scratch folder that passes as one for hooks and that every
// account may enter. (t.TempDir of root is closed to others, and its mode
// depends on the umask.)
func folder(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "hook")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

// script writes a shell script; $D in it is its folder.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte("#!/bin/sh\nD="+dir+"\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// me is the account of the test itself.
func me(t *testing.T) hook.Account {
	t.Helper()
	a, err := hook.ResolveAccount("", "root")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ended is one call of Config.Done.
type ended struct {
	ev  hook.Event
	r   hook.Result
	err error
}

// journal collects the calls of Config.Done.
type journal struct {
	mu   sync.Mutex
	list []ended
}

func (j *journal) add(ev hook.Event, r hook.Result, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list = append(j.list, ended{ev, r, err})
}

func (j *journal) all() []ended {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]ended(nil), j.list...)
}

// runner starts a runner that the test ends, with what it reports.
func runner(t *testing.T, cfg hook.Config) (*hook.Runner, *journal) {
	t.Helper()
	j := new(journal)
	cfg.Group, cfg.Node, cfg.Done = "shop", "main", j.add
	if cfg.Account.Name == "" {
		cfg.Account = me(t)
	}
	r, err := hook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(r) })
	return r, j
}

func closeNow(r *hook.Runner) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Close(ctx)
}

func event(n hook.Name) hook.Event {
	return hook.Event{Hook: n, Epoch: pos.Epoch{Gen: 1, Num: 7}, Timeline: 4, From: "backup", To: "main", Cause: "the host backup is down"}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
