package proc_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"understudy/test/bench/internal/proc"
)

func TestParseStat_Cases(t *testing.T) {
	line := "77 (a) (b)) S 12 77 77 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 1 2 3"
	u, err := proc.ParseStat(line)
	if err != nil || u.PID != 77 || u.PPID != 12 || u.Title != "a) (b)" || u.User != 2500*time.Millisecond || u.Sys != 500*time.Millisecond {
		t.Errorf("got %+v, %v", u, err)
	}
	for _, bad := range []string{"", "77", "77 (a", "77 )a( S 1", "x (a) S 1 2 3 4 5 6 7 8 9 10 11 12", "77 (a) S 1 2", "7 (a) S p 2 3 4 5 6 7 8 9 10 11 12 13"} {
		if _, err := proc.ParseStat(bad); !errors.Is(err, proc.ErrStat) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestField_ReadsWholeNames(t *testing.T) {
	status := []byte("Name:\tx\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\nVmHWM:\t  12 kB\nOdd:\n")
	for name, want := range map[string]uint64{"voluntary_ctxt_switches": 4, "nonvoluntary_ctxt_switches": 9, "VmHWM": 12, "Odd": 0, "None": 0} {
		if got := proc.Field(status, name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func TestProcess_OfItsOwn(t *testing.T) {
	self := os.Getpid()
	if err := proc.ResetPeak(self); err != nil {
		t.Fatal(err)
	}
	before, err := proc.ReadMemory(self)
	if err != nil || before.Now == 0 {
		t.Fatalf("got %+v, %v", before, err)
	}
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	after, err := proc.ReadMemory(self)
	if err != nil || after.Peak < before.Peak+32<<20 || block[0] != 1 {
		t.Errorf("peak %d after %d, %v", after.Peak, before.Peak, err)
	}
	tree, err := proc.Tree(os.Getppid())
	if err != nil || tree[self].PPID != os.Getppid() || tree[self].Switches == 0 {
		t.Errorf("got %+v, %v", tree[self], err)
	}
	m, err := proc.ReadMachine()
	if err != nil || m.Busy <= 0 || m.Idle <= 0 {
		t.Errorf("got %+v, %v", m, err)
	}
}
