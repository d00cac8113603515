package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestAccess: who may write, who may acknowledge, and who may start a server.
func TestAccess(t *testing.T) {
	t.Parallel()
	g := healthy(t, cluster.WithHBA("host replication all 127.0.0.1/32 trust"))

	run(t, "SyncNameIsTheEpochs", func(t *testing.T) {
		e := epoch(t, g)
		name := fmt.Sprintf("understudy_%d_%d", e.Gen, e.Num)
		if got, want := g.Main.Query(t, "show synchronous_standby_names"), fmt.Sprintf(`FIRST 1 ("%s")`, name); got != want {
			t.Errorf("synchronous_standby_names is %s, want %s", got, want)
		}
		if got := g.Main.Query(t, "select string_agg(application_name, ' ') from pg_stat_replication where sync_state = 'sync'"); got != name {
			t.Errorf("PostgreSQL counts %q, want %q", got, name)
		}
		if got := g.Backup.Query(t, "show synchronous_standby_names"); got == "" {
			t.Error("synchronous_standby_names is empty on the standby: it would not wait for anybody after a promotion")
		}
	})

	run(t, "ClosedBeforeOpened", func(t *testing.T) {
		g.WaitHealthy(t)
		before := epoch(t, g)
		w := g.Writers(t, 2)
		g.Main.KillPostgres(t)
		locked := probe(t, g, func() bool {
			// The leader of the ledger knows first, a follower a little later.
			for _, n := range g.Nodes() {
				st, err := n.Status(context.Background())
				if err == nil && st.Group.Phase == "opened" && before.Less(st.Group.Epoch) {
					return true
				}
			}
			return false
		})
		t.Logf("%d connections were refused by a server that was not open yet", locked)
		reopened(t, g, before)
		w.CheckNoneLost(t)
	})

	run(t, "ImposterDoesNotAcknowledge", func(t *testing.T) {
		g.WaitHealthy(t)
		e := epoch(t, g)
		w := g.Writers(t, 4)
		receiver := imposter(t, g.Main, fmt.Sprintf("understudy_%d_%d", e.Gen, e.Num-1))
		cluster.Eventually(t, 10*time.Second, "the imposter streaming", func() bool {
			return g.Main.Query(t, "select count(*) from pg_stat_replication where state = 'streaming'") == "2"
		})
		if got := g.Main.Query(t, "select count(*) from pg_stat_replication where sync_state = 'sync'"); got != "1" {
			t.Errorf("PostgreSQL counts %s receivers, want one", got)
		}
		g.Backup.Freeze(t)
		g.Witness.Freeze(t)
		waits(t, w, 800*time.Millisecond)
		g.Backup.Thaw(t)
		g.Witness.Thaw(t)
		w.WaitMore(t, 20, 20*time.Second)
		receiver()
		w.CheckNoneLost(t)
	})

	for _, n := range []*cluster.Node{g.Backup, g.Main} {
		run(t, "PermitOfAnAdoptedServer/"+n.Name, func(t *testing.T) {
			// A daemon that was killed while it started its server leaves no
			// permit for it; without one every reload fails.
			g.WaitHealthy(t)
			before, pid := epoch(t, g), n.PostgresPID()
			permit := filepath.Join(n.RunDir(), "permit.conf")
			n.Term(t)
			if err := os.Remove(permit); err != nil {
				t.Fatal(err)
			}
			n.Start(t)
			cluster.Eventually(t, 10*time.Second, "the permit of the adopted server", func() bool { return exists(permit) })
			n.WaitStatus(t, 20*time.Second, "a server that answers", func(s cluster.Status) bool {
				state := s.Of(n.Name).Server.State
				return s.Of(n.Name).Presence == "self" && (state == "open" || state == "replica")
			})
			if bad := n.Query(t, "select count(*) from pg_file_settings where error is not null and name is null"); bad != "0" {
				t.Errorf("%s files of the configuration cannot be loaded", bad)
			}
			if now := n.PostgresPID(); now != pid {
				t.Errorf("postmaster %d, %d before", now, pid)
			}
			if e := epoch(t, g); e != before {
				t.Errorf("epoch %s, %s before", e, before)
			}
		})
	}

	run(t, "NoStartByHand", func(t *testing.T) {
		g.WaitHealthy(t)
		before := epoch(t, g)
		w := g.Writers(t, 2)
		g.Main.Interrupt(t)
		refusedByHand(t, g.Main)
		g.Main.Start(t)
		reopened(t, g, before)
		w.CheckNoneLost(t)
	})

	run(t, "NoStartByHandAfterTheGuardEndedIt", func(t *testing.T) {
		g.WaitHealthy(t)
		before := epoch(t, g)
		w := g.Writers(t, 2)
		g.Main.Kill(t)
		gone(t, g.Main, 1500*time.Millisecond)
		refusedByHand(t, g.Main)
		g.Main.Start(t)
		reopened(t, g, before)
		w.CheckNoneLost(t)
	})
}

// probe connects to the primary's server again and again until it lets us in,
// checks that it was open by the ledger then, and returns how many attempts
// reached a server that locked them out.
func probe(t *testing.T, g *cluster.Group, open func() bool) (locked int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		c, err := g.Main.Connect(ctx)
		if err == nil {
			c.Close(ctx)
			cancel()
			if !open() {
				t.Fatal("an ordinary client was let in before the ledger recorded the opening")
			}
			return locked
		}
		cancel()
		if code(err) == "28000" {
			locked++
		}
	}
	t.Fatal("main did not open again")
	return 0
}

// imposter runs a pg_receivewal under an application name; the returned
// function ends it.
func imposter(t *testing.T, n *cluster.Node, name string) func() {
	t.Helper()
	cmd := exec.Command(filepath.Join(pgtest.BinDir(t), "pg_receivewal"), "--synchronous", "-D", pgtest.Dir(t),
		"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s", n.Port, name))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pgtest.Credential(t), Pdeathsig: syscall.SIGTERM}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("pg_receivewal: %s", out.String())
		}
	})
	return end
}

// refusedByHand tries to start a node's server as an operator or a service
// manager would.
func refusedByHand(t *testing.T, n *cluster.Node) {
	t.Helper()
	cmd := exec.Command(filepath.Join(pgtest.BinDir(t), "pg_ctl"), "-D", n.DataDir(), "-w", "-t", "10", "-l", filepath.Join(n.StateDir(), "postgresql", "by-hand.log"),
		"-o", fmt.Sprintf("-c unix_socket_directories='' -p %d", n.Port), "start")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pgtest.Credential(t)}
	out, err := cmd.CombinedOutput()
	if err == nil {
		if pid := n.PostgresPID(); pid != 0 {
			cluster.Kill(t, pid)
			gone(t, n, 10*time.Second)
		}
		t.Errorf("the server of %s was started by hand:\n%s", n.Name, out)
	}
}
