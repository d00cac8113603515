package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A harness that cannot fail proves nothing: these are the failures it must
// see.

func TestJudge(t *testing.T) {
	a, b := row{0, 1}, row{1, 1}
	for _, c := range []struct {
		name  string
		tried map[row]bool
		have  map[row]int
		want  []string
	}{
		{"AllThere", map[row]bool{a: true, b: true}, map[row]int{a: 1, b: 1}, nil},
		{"UnknownThere", map[row]bool{a: true, b: false}, map[row]int{a: 1, b: 1}, nil},
		{"UnknownNotThere", map[row]bool{a: true, b: false}, map[row]int{a: 1}, nil},
		{"AcknowledgedLost", map[row]bool{a: true, b: true}, map[row]int{b: 1}, []string{"row 0/1 was acknowledged and is not there"}},
		{"Twice", map[row]bool{a: true}, map[row]int{a: 2}, []string{"row 0/1 is there 2 times"}},
		{"UnknownTwice", map[row]bool{a: false}, map[row]int{a: 2}, []string{"row 0/1 is there 2 times"}},
		{"FromNowhere", map[row]bool{a: true}, map[row]int{a: 1, b: 1}, []string{"row 1/1 is there and nobody wrote it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := judge(c.tried, c.have); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLongestGap(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(secs ...int) (out []time.Time) {
		for _, s := range secs {
			out = append(out, start.Add(time.Duration(s)*time.Second))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		since int
		times []time.Time
		want  time.Duration
	}{
		{"Inside", 0, at(1, 2, 7, 8), 5 * time.Second},
		{"AtTheStart", 0, at(9, 10), 9 * time.Second},
		{"BeforeSince", 7, at(1, 2, 7, 8), time.Second},
		{"Nothing", 0, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := longestGap(at(c.since)[0], c.times); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestCrash(t *testing.T) {
	for log, want := range map[string]string{
		"":                                   "",
		"level=INFO msg=\"panic: quoted\"\n": "",
		"fine\npanic: no\n\ngoroutine 1":     "panic: no\n\ngoroutine 1",
		"WARNING: DATA RACE\nhere":           "WARNING: DATA RACE\nhere",
	} {
		if got := crash(log); got != want {
			t.Errorf("crash(%q) = %q, want %q", log, got, want)
		}
	}
}

func TestReusedTimelines(t *testing.T) {
	const two, three = "LOG:  selected new timeline ID: 2\n", "LOG:  selected new timeline ID: 3\n"
	for _, c := range []struct {
		name, main, backup string
		want               []string
	}{
		{"NeverPromoted", "", "LOG:  ready\n", nil},
		{"ByTurns", two, "LOG:  ready\n" + three, nil},
		{"ByBoth", two, two, []string{"timeline 2 was used by a promotion of main and by one of backup"}},
		{"ByOneAgain", two + three + two, "", []string{"timeline 2 was used by a promotion of main and by one of main"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := func(name, log string) *Node {
				n := &Node{Name: name, Dir: t.TempDir()}
				dir := filepath.Join(n.StateDir(), "postgresql")
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "postgresql.log"), []byte(log), 0o644); err != nil {
					t.Fatal(err)
				}
				return n
			}
			g := &Group{Main: node("main", c.main), Backup: node("backup", c.backup)}
			if got := g.reusedTimelines(); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if p := readProcess(pid); p.ppid != os.Getpid() || !alive(pid) {
		t.Errorf("process %d has parent %d and is alive %v, want %d and true", pid, p.ppid, alive(pid), os.Getpid())
	}
	if d := descendants(os.Getpid()); !slices.Contains(d, pid) {
		t.Errorf("descendants %v, want %d among them", d, pid)
	}
	Kill(t, pid) // a zombie is dead
	cmd.Wait()
	if alive(pid) {
		t.Errorf("process %d still lives", pid)
	}
}
