package probe_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/failover/probe"
	"understudy/test/pgtest"
)

func FuzzParseStatus(f *testing.F) {
	f.Add("Name:\tpostgres\nState:\tT (stopped)\nvoluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t3\n")
	f.Add("Name:\tState:\tT\nState:\tS (sleeping)\n")
	f.Add("State:\t\n")
	f.Add("State:\tR\nvoluntary_ctxt_switches:\t-1\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := probe.ParseStatus(text)
		if err == nil && !strings.Contains(text, "State:") {
			t.Errorf("state %q out of nothing", p.State)
		}
		if err != nil && p != (probe.Process{}) {
			t.Errorf("%v with %+v", err, p)
		}
	})
}

func TestParseStatus_NameIsNoState(t *testing.T) {
	p, err := probe.ParseStatus("Name:\tState:\tT\nState:\tS (sleeping)\nvoluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t3\n")
	if err != nil || p != (probe.Process{State: 'S', Switches: 7}) {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestReadProcess_StoppedAndGone(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer cmd.Wait()
	defer cmd.Process.Kill()
	state := func(want byte) func() bool {
		return func() bool {
			p, err := probe.ReadProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			return p.State == want
		}
	}
	pgtest.Eventually(t, 5*time.Second, "it sleeps", state('S'))
	syscall.Kill(pid, syscall.SIGSTOP)
	pgtest.Eventually(t, 5*time.Second, "it is stopped", state('T'))
	syscall.Kill(pid, syscall.SIGKILL)
	pgtest.Eventually(t, 5*time.Second, "it has ended", state('Z'))
	cmd.Wait()
	if p, err := probe.ReadProcess(pid); err != nil || !p.Gone() {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestStillness(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name  string
		looks []probe.Process // one a second
		kind  probe.Kind
		lasts time.Duration
	}{
		{"Runs", []probe.Process{{'S', 1}, {'S', 1}, {'S', 1}}, "", 0},
		{"JustStopped", []probe.Process{{'S', 1}, {'T', 1}}, probe.ServerFrozen, 0},
		{"Stopped", []probe.Process{{'S', 1}, {'T', 2}, {'T', 2}, {'T', 2}}, probe.ServerFrozen, 2 * s},
		{"Traced", []probe.Process{{'t', 2}, {'t', 2}}, probe.ServerFrozen, s},
		{"RanBetween", []probe.Process{{'t', 2}, {'t', 3}, {'t', 4}}, probe.ServerFrozen, 0},
		{"WaitsForDisk", []probe.Process{{'D', 2}, {'D', 2}}, probe.ServerHung, s},
		{"UsesDisk", []probe.Process{{'D', 2}, {'D', 3}}, probe.ServerHung, 0},
		{"Continued", []probe.Process{{'T', 2}, {'T', 2}, {'R', 2}}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var still probe.Stillness
			var got []probe.Finding
			for i, p := range c.looks {
				still, got = still.Next(7, p, time.Duration(i)*s)
			}
			if len(got) != 0 != (c.kind != "") || len(got) == 1 && (got[0].Kind != c.kind || got[0].For != c.lasts) {
				t.Errorf("got %+v", got)
			}
		})
	}
}
