package group_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/pgtest"
)

const ready = `{"node":"backup","group":{"epoch":"1.7","phase":"opened","primary":"backup","ledger_leader":"witness","safe":{"level":"safe"}},"nodes":[
{"name":"main","presence":"heard","durable":"0/30","applied":"0/30","link":{"state":"streaming"},"wal_voter":true,"ledger_voter":true},
{"name":"backup","presence":"self","durable":"0/40","applied":"0/40","link":{"state":""},"wal_voter":true,"ledger_voter":true},
{"name":"witness","presence":"heard","durable":"0/40","applied":"0/0","link":{"state":"streaming"},"wal_voter":true,"ledger_voter":true}]}`

func TestStatus_Ready(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new string
		primary  string
		head     pos.LSN
		want     bool
	}{
		{"Whole", "", "", "backup", 0x30, true},
		{"OtherPrimary", "", "", "main", 0x30, false},
		{"NotApplied", "", "", "backup", 0x31, false},
		{"Promoting", `"opened"`, `"promoting"`, "backup", 0, false},
		{"Degraded", `"level":"safe"`, `"level":"degraded"`, "backup", 0, false},
		{"OldPrimarySilent", `"main","presence":"heard"`, `"main","presence":"silent"`, "backup", 0, false},
		{"OldPrimaryNotStreaming", `"applied":"0/30","link":{"state":"streaming"}`, `"applied":"0/30","link":{"state":"connecting"}`, "backup", 0, false},
		{"NoVote", `"ledger_voter":true`, `"ledger_voter":false`, "backup", 0, false},
		{"NodeLess", `"nodes":[`, `"nodes":[],"x":[`, "backup", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var st group.Status
			if err := json.Unmarshal([]byte(strings.Replace(ready, c.old, c.new, 1)), &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Ready(c.primary, c.head); got != c.want {
				t.Errorf("got %v", got)
			}
			if st.Group.LedgerLeader != "witness" || st.Group.Epoch != (pos.Epoch{Gen: 1, Num: 7}) || st.Of("nobody").Name != "" {
				t.Errorf("got %+v", st.Group)
			}
		})
	}
}

const history = `{"changes":[
{"id":"1.1","epoch":"1.1","kind":"founding","from":"","to":"main","opened":true,"phases":[]},
{"id":"1.2","epoch":"1.2","kind":"switchover","from":"main","to":"backup","opened":true,"timeline":2,"start":"0/5000000",
 "phases":[{"name":"ordered","node":"witness","text":"x","at":"2026-01-02T03:04:05Z","after_ns":0},{"name":"opened","node":"backup","text":"","at":"2026-01-02T03:04:06Z","after_ns":210000000}],
 "proof":{"sentence":"Nothing acknowledged was lost.","lost":null},"return":{"node":"main","method":"follow","why":"","at":"2026-01-02T03:04:07Z","bytes":0}},
{"id":"1.3","epoch":"1.3","kind":"switchover","from":"backup","to":"main","opened":false,"failed":"timeout","phases":[]}]}`

func TestHistory_ChangeTo(t *testing.T) {
	changes, err := group.ParseHistory([]byte(history))
	if err != nil || len(changes) != 3 {
		t.Fatalf("got %v, %v", changes, err)
	}
	got, err := group.ChangeTo(changes, "backup", pos.Epoch{Gen: 1, Num: 1})
	if err != nil || !got.Returned() || got.Return.Method != "follow" || len(got.Phases) != 2 || got.Phases[1].After != 210*time.Millisecond || got.Proof.Sentence == "" {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, after := range map[string]pos.Epoch{"backup": {Gen: 1, Num: 2}, "main": {Gen: 1, Num: 1}, "witness": {}} {
		if got, err := group.ChangeTo(changes, name, after); !errors.Is(err, group.ErrNoChange) {
			t.Errorf("%s after %s: got %+v, %v", name, after, got, err)
		}
	}
	if _, err := group.ParseHistory([]byte("no")); err == nil {
		t.Error("a text that is no history is taken")
	}
}

// What works in the node's data directory ends, also a process that nobody has
// listed, and its neighbour's goes on.
func TestGroup_KillEverything(t *testing.T) {
	g := &group.Group{Dir: t.TempDir()}
	start := func(node string, script string) *exec.Cmd {
		data := filepath.Join(g.Dir, node, "pgdata")
		if err := os.MkdirAll(data, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", script, "sh", filepath.Join(g.Dir, node, "understudy.yaml"))
		cmd.Dir = data
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd
	}
	pidFile := func(cmd *exec.Cmd, path ...string) {
		name := filepath.Join(append([]string{g.Dir}, path...)...)
		if err := os.WriteFile(name, fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	daemon := start("main", "sleep 60 & wait")
	server := start("main", "sleep 60 & wait")
	stray := start("main", "sleep 60 & wait")
	neighbour := start("backup", "exec sleep 60")
	pidFile(daemon, "main", "daemon.pid")
	pidFile(server, "main", "pgdata", "postmaster.pid")
	ended := make(chan *exec.Cmd, 4)
	for _, cmd := range []*exec.Cmd{daemon, server, stray, neighbour} {
		go func() { cmd.Wait(); ended <- cmd }()
	}
	if err := errors.Join(g.KillEverything("main"), g.WaitGone(t.Context(), "main")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if cmd := <-ended; cmd == neighbour {
			t.Error("another node's process was killed")
		}
	}
	if err := g.KillEverything("main"); err == nil {
		t.Error("nothing was killed twice")
	}
	neighbour.Process.Kill()
	<-ended
}

func TestWrapInitDB_MakesTheSegmentsAskedFor(t *testing.T) {
	tools, err := pg.FindTools(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	tools.SegMiB = 2
	dir := pgtest.Dir(t)
	bin, err := group.WrapInitDB(dir, tools)
	if err != nil {
		t.Fatal(err)
	}
	tools.Bin, tools.SegMiB = bin, 0
	c, err := tools.Init(t.Context(), filepath.Join(dir, "c"), pgtest.FreePort(t), false, map[string]string{"fsync": "off", "shared_buffers": "16MB", "max_wal_senders": "2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop() })
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size, err := c.Query(t.Context(), "current_setting('wal_segment_size')"); err != nil || size != "2MB" {
		t.Errorf("segments of %s, %v", size, err)
	}
}
