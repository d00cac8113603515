package group_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"understudy/test/bench/internal/group"
)

const settled = `{"node":"main","group":{"primary":"main","safe":{"level":"safe","sentence":"Safe."}},"nodes":[
{"name":"main","presence":"self","durable":"0/30","applied":"0/30","link":{"state":""},"wal_voter":true,"ledger_voter":true},
{"name":"backup","presence":"heard","durable":"0/30","applied":"0/30","link":{"state":"streaming"},"wal_voter":true,"ledger_voter":true},
{"name":"witness","presence":"heard","durable":"0/30","applied":"0/0","link":{"state":"streaming"},"wal_voter":true,"ledger_voter":true}]}`

func TestStatus_Settled(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new string
		want     bool
	}{
		{"Whole", "", "", true},
		{"OtherPrimary", `"primary":"main"`, `"primary":"backup"`, false},
		{"Degraded", `"level":"safe"`, `"level":"degraded"`, false},
		{"BackupBehind", `"backup","presence":"heard","durable":"0/30"`, `"backup","presence":"heard","durable":"0/2F"`, false},
		{"BackupNotApplied", `"durable":"0/30","applied":"0/30","link":{"state":"streaming"}`, `"durable":"0/30","applied":"0/2F","link":{"state":"streaming"}`, false},
		{"WitnessBehind", `"durable":"0/30","applied":"0/0"`, `"durable":"0/2F","applied":"0/0"`, false},
		{"WitnessSilent", `"witness","presence":"heard"`, `"witness","presence":"silent"`, false},
		{"CatchingUp", `"streaming"`, `"catching up"`, false},
		{"NoVote", `"wal_voter":true`, `"wal_voter":false`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var st group.Status
			if err := json.Unmarshal([]byte(strings.Replace(settled, c.old, c.new, 1)), &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Settled(); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A process that has the number of a daemon that ended is left alone.
func TestGroup_SignalsItsOwnDaemonsOnly(t *testing.T) {
	g := &group.Group{Dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(g.Dir, "main"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.Dir, "main", "daemon.pid"), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Signal("main", syscall.SIGKILL); err == nil {
		t.Error("a foreign process was killed")
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
}
