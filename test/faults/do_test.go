package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"understudy/test/cluster"
	"understudy/test/netlab"
)

// flapEvery is how long a flapping way is cut, and whole. Other faults of the
// network end with its first cut.
const (
	flapEvery = 300 * time.Millisecond
	flapFor   = 3 * time.Second
)

// injector does the faults of a round and undoes them.
type injector struct {
	t    *testing.T
	g    *cluster.Group
	lab  *netlab.Lab
	rand *rand.Rand
	role map[who]*cluster.Node // when the round began
	note func(format string, args ...any)

	stopped []int // process ids
	full    map[*cluster.Node]cluster.Disk
	flap    context.CancelFunc
	orders  []*order
	wg      sync.WaitGroup
}

// do does one fault.
func (i *injector) do(f fault) {
	i.note("%s", f)
	n := i.role[f.on]
	switch f.do {
	case "kill", "stop":
		if f.on != all {
			i.signal(f, n)
			return
		}
		i.signal(f, i.g.Nodes()...)
	case "start":
		n.Start(i.t)
	case "fill":
		n.Fill(i.t, f.disk)
		i.full[n] = f.disk
	case "corrupt":
		i.signal(fault{do: "kill", on: f.on, proc: cluster.Host}, n)
		i.corrupt(n)
	case "switchover":
		i.order(i.g.Witness, "switchover", "--to", i.role[standby].Name)
	case "failover":
		i.order(i.g.Witness, "failover", "--to", n.Name)
	case "flap":
		i.startFlap(f)
	case "slow":
		i.must(i.lab.Slow(n.Name, "4mbit"))
	default:
		i.must(i.network(f))
	}
}

func (i *injector) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

// name is a host of the lab.
func (i *injector) name(w who) string {
	if w == outside {
		return netlab.Clients
	}
	return i.role[w].Name
}

// network does a fault of the network.
func (i *injector) network(f fault) error {
	each := func(do func(a, b string) error) error {
		on, to := []who{f.on}, []who{f.to}
		if f.on == peers {
			on = []who{standby, witness}
		}
		if f.to == peers {
			to = []who{standby, witness}
		}
		var errs []error
		for _, a := range on {
			for _, b := range to {
				errs = append(errs, do(i.name(a), i.name(b)))
			}
		}
		return errors.Join(errs...)
	}
	switch f.do {
	case "isolate":
		return i.lab.Isolate(i.name(f.on))
	case "isolate-peers":
		return i.lab.IsolatePeers(i.name(f.on))
	case "cut", "flap":
		return each(i.lab.Cut)
	case "one-way":
		return each(i.lab.CutOneWay)
	case "reject":
		return each(i.lab.Reject)
	}
	return fmt.Errorf("no fault is called %q", f.do)
}

// startFlap cuts and heals for three seconds, or until the round heals.
func (i *injector) startFlap(f fault) {
	ctx, cancel := context.WithTimeout(context.Background(), flapFor)
	i.flap = cancel
	i.wg.Go(func() {
		for cut := true; ctx.Err() == nil; cut = !cut {
			err := i.lab.Heal()
			if cut {
				err = i.network(f)
			}
			if err != nil {
				i.t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(flapEvery):
			}
		}
	})
}

// signal kills or stops a process of a kind, or all of a node, on each of the
// nodes. That there is none is no failure: an earlier fault may have ended it.
func (i *injector) signal(f fault, nodes ...*cluster.Node) {
	var hit []int
	for _, n := range nodes {
		pids := n.Processes(f.proc)
		if f.proc != cluster.Host && len(pids) > 1 {
			pids = pids[i.rand.IntN(len(pids)):][:1]
		}
		if len(pids) == 0 {
			i.note("%s has no %s", n.Name, f.proc)
		}
		hit = append(hit, pids...)
	}
	sig := syscall.SIGKILL
	if f.do == "stop" {
		sig = syscall.SIGSTOP
		i.stopped = append(i.stopped, hit...)
	}
	for _, pid := range hit {
		syscall.Kill(pid, sig)
	}
	if f.do == "kill" && f.proc == cluster.Host {
		for _, n := range nodes {
			i.finish(n)
		}
	}
}

// finish kills what was being forked meanwhile, and waits until nothing of the
// node runs.
func (i *injector) finish(n *cluster.Node) {
	cluster.Eventually(i.t, 5*time.Second, "the end of all of "+n.Name, func() bool {
		left := n.Processes(cluster.Host)
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
}

// corrupt flips a byte of the log that a node received. Nothing of it runs.
func (i *injector) corrupt(n *cluster.Node) {
	var files []string
	filepath.WalkDir(filepath.Join(n.StateDir(), "spool"), func(path string, d os.DirEntry, err error) error {
		if err == nil && len(d.Name()) == len("000000010000000000000001") && strings.Trim(d.Name(), "0123456789ABCDEF") == "" {
			files = append(files, path)
		}
		return nil
	})
	if len(files) == 0 {
		i.note("%s has no log to corrupt", n.Name)
		return
	}
	slices.Sort(files)
	file := files[len(files)-1-i.rand.IntN(min(2, len(files)))]
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	i.must(err)
	defer f.Close()
	b, err := os.ReadFile(file)
	i.must(err)
	b = bytes.TrimRight(b[:len(b)&^(1<<20-1)], "\x00") // without what follows the segment
	if len(b) == 0 {
		i.note("%s holds nothing", file)
		return
	}
	least := 0
	if n == i.g.Witness || i.rand.IntN(2) == 0 { // what others may still need, and the node tells its position by
		least = max(0, len(b)-256<<10)
	}
	at := least + i.rand.IntN(len(b)-least)
	_, err = f.WriteAt([]byte{b[at] ^ 1<<i.rand.IntN(8)}, int64(at))
	i.must(err)
	i.note("flipped a bit of byte %d of %d of %s", at, len(b), filepath.Base(file))
}

// order is a command of the operator on its way.
type order struct {
	what string
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

// order gives one and does not wait for its end; it may well be refused.
func (i *injector) order(on *cluster.Node, args ...string) {
	if !on.Running() {
		on = i.role[standby]
	}
	o := &order{what: fmt.Sprintf("%s on %s", args, on.Name), cmd: on.Command(args...), done: make(chan struct{})}
	o.cmd.Stdout, o.cmd.Stderr = &o.out, &o.out
	i.must(o.cmd.Start())
	go func() { o.cmd.Wait(); close(o.done) }()
	i.orders = append(i.orders, o)
}

// finishOrders waits for the commands, and ends those that wait on.
func (i *injector) finishOrders(within time.Duration) {
	deadline := time.After(within)
	for _, o := range i.orders {
		select {
		case <-o.done:
		case <-deadline:
			o.cmd.Process.Kill()
			<-o.done
			i.note("%s had to be ended", o.what)
		}
		i.note("%s ended with %d: %s", o.what, o.cmd.ProcessState.ExitCode(), bytes.TrimSpace(o.out.Bytes()))
	}
	i.orders = nil
}

// heal undoes every fault and starts the daemons that do not run, as a system's
// supervisor would.
func (i *injector) heal() {
	if i.flap != nil {
		i.flap()
		i.wg.Wait()
	}
	for n, d := range i.full {
		n.Free(i.t, d)
	}
	clear(i.full)
	if err := i.lab.Heal(); err != nil {
		i.t.Error(err)
	}
	for _, pid := range i.stopped {
		syscall.Kill(pid, syscall.SIGCONT)
	}
	i.stopped = nil
	for _, n := range i.g.Nodes() {
		if !n.Running() {
			i.note("start %s", n.Name)
			n.Start(i.t)
		}
	}
}
