package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/proc"
)

// usage is what a kind of process used during a window.
type usage struct {
	user, sys time.Duration
	switches  uint64
}

// window is one side's profile: what ran in the middle of a run of load.
type window struct {
	took    time.Duration
	commits float64
	kinds   map[string]usage
	machine proc.Machine
}

// profile shows on which processes a commit costs time, on both sides.
func profile(ctx context.Context, b *bench) (string, error) {
	if err := b.fill(ctx); err != nil {
		return "", err
	}
	clients := b.busiest()
	var out strings.Builder
	fmt.Fprintf(&out, "The same load with %s, one run of %d s per side, of which the middle eight tenths are counted. "+
		"100 %% is one processor. Commits are the run's mean rate times the window.\n", plural(clients, "client"), b.seconds)
	for _, side := range []int{sideGroup, sideNative} {
		if err := b.settle(ctx); err != nil {
			return "", err
		}
		w, err := profileRun(ctx, b, side, clients)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "\n**%s**: %.0f commits/s\n\n%s", commitNames[side], w.commits/w.took.Seconds(), w.table())
	}
	if b.perf {
		text, err := perfMain(ctx, b, clients)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "\nHottest functions of main's daemon (share of its own samples):\n\n```\n%s\n```\n", text)
	}
	return out.String(), nil
}

func profileRun(ctx context.Context, b *bench, side, clients int) (window, error) {
	type result struct {
		pg.Result
		err error
	}
	server := b.group.Main()
	if side == sideNative {
		server = b.native.main.Server
	}
	done := make(chan result, 1)
	go func() {
		r, err := b.tools.Bench(ctx, server, pg.Load{Clients: clients, For: b.length()})
		done <- result{r, err}
	}()
	w, err := watch(ctx, b, side)
	res := <-done
	if res.err != nil {
		return w, res.err
	}
	w.commits = res.TPS * w.took.Seconds()
	return w, err
}

// watch counts from a tenth of a run to nine tenths of it.
func watch(ctx context.Context, b *bench, side int) (window, error) {
	tenth := b.length() / 10
	if err := rest(ctx, tenth); err != nil {
		return window{}, err
	}
	began := time.Now()
	kindOf := sideProcesses(b, side)
	before, err := snapshot(kindOf)
	if err != nil {
		return window{}, err
	}
	m0, err := proc.ReadMachine()
	if err != nil {
		return window{}, err
	}
	if err := rest(ctx, 8*tenth); err != nil {
		return window{}, err
	}
	after, err := snapshot(kindOf)
	if err != nil {
		return window{}, err
	}
	m1, err := proc.ReadMachine()
	if err != nil {
		return window{}, err
	}
	w := window{took: time.Since(began), kinds: map[string]usage{}}
	w.machine = proc.Machine{Busy: m1.Busy - m0.Busy, Idle: m1.Idle - m0.Idle, Wait: m1.Wait - m0.Wait}
	for pid, a := range after {
		z := before[pid] // zero for a process that began meanwhile
		u := w.kinds[a.kind]
		u.user += a.User - z.User
		u.sys += a.Sys - z.Sys
		u.switches += a.Switches - min(z.Switches, a.Switches)
		w.kinds[a.kind] = u
	}
	return w, nil
}

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sideProcesses are the roots of a side's processes and what they are called.
func sideProcesses(b *bench, side int) map[int]string {
	out := map[int]string{}
	if side == sideNative {
		out[b.native.main.PID()] = "primary"
		out[b.native.standby.PID()] = "standby"
	} else {
		for _, n := range group.Nodes {
			out[b.group.PID(n)] = n + ": daemon"
		}
		for _, n := range group.Nodes[:2] {
			pid := b.group.ServerPID(n)
			out[pid] = n
			if u, err := proc.Read(pid); err == nil {
				out[u.PPID] = n + ": guard"
			}
		}
	}
	delete(out, 0)
	return out
}

type counted struct {
	proc.Usage
	kind string
}

// snapshot counts the side's processes and the load generator.
func snapshot(roots map[int]string) (map[int]counted, error) {
	tree, err := proc.Tree(slices.Collect(maps.Keys(roots))...)
	if err != nil {
		return nil, err
	}
	out := map[int]counted{}
	for pid, u := range tree {
		node, isRoot := roots[pid]
		if !isRoot {
			node = roots[u.PPID]
		}
		out[pid] = counted{u, kindOf(node, u.Title)}
	}
	own, err := proc.Tree(os.Getpid())
	if err != nil {
		return nil, err
	}
	for pid, u := range own {
		if _, counts := out[pid]; !counts && strings.Contains(u.Title, "pgbench") {
			out[pid] = counted{u, "load: pgbench"}
		}
	}
	return out, nil
}

// kindOf names a process of a node by its title as ps shows it.
func kindOf(node, title string) string {
	rest, backend := strings.CutPrefix(title, "postgres: ")
	if !backend {
		if strings.Contains(node, ":") {
			return node // a daemon or a guard
		}
		return node + ": postmaster"
	}
	if _, after, named := strings.Cut(rest, ": "); named {
		rest = after // the cluster's name
	}
	for _, k := range []string{"walsender", "walreceiver", "startup", "checkpointer", "walwriter"} {
		if strings.HasPrefix(rest, k) {
			return node + ": " + k
		}
	}
	if f := strings.Fields(rest); len(f) > 2 && (strings.Contains(f[2], "(") || f[2] == "[local]") {
		return node + ": client backends"
	}
	return node + ": other"
}

func (w window) table() string {
	t := doc.Table{Head: []string{"process", "processor", "of it system", "µs per commit", "switches per commit"}}
	names := slices.SortedFunc(maps.Keys(w.kinds), func(a, b string) int {
		ua, ub := w.kinds[a], w.kinds[b]
		return cmp.Or(cmp.Compare(ub.user+ub.sys, ua.user+ua.sys), cmp.Compare(a, b))
	})
	row := func(name string, user, sys time.Duration, switches uint64) {
		all := user + sys
		t.Rows = append(t.Rows, []string{
			name, percent(all, w.took), percent(sys, w.took),
			fmt.Sprintf("%.0f", float64(all.Microseconds())/w.commits), fmt.Sprintf("%.2f", float64(switches)/w.commits),
		})
	}
	var sum usage
	for _, n := range names {
		u := w.kinds[n]
		if u.user+u.sys > 0 {
			row(n, u.user, u.sys, u.switches)
		}
		sum = usage{sum.user + u.user, sum.sys + u.sys, sum.switches + u.switches}
	}
	row("all of these", sum.user, sum.sys, sum.switches)
	t.Rows = append(t.Rows, []string{"machine: busy", percent(w.machine.Busy, w.took)},
		[]string{"machine: idle", percent(w.machine.Idle, w.took)}, []string{"machine: waiting for disks", percent(w.machine.Wait, w.took)})
	return t.String()
}

func percent(part, whole time.Duration) string {
	return fmt.Sprintf("%.1f %%", 100*part.Seconds()/whole.Seconds())
}

// perfMain samples main's daemon in a run of its own, since that slows it.
func perfMain(ctx context.Context, b *bench, clients int) (string, error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return "", fmt.Errorf("-perf: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.tools.Bench(ctx, b.group.Main(), pg.Load{Clients: clients, For: b.length()})
		done <- err
	}()
	data := filepath.Join(b.dir, "perf.data")
	out, perr := exec.CommandContext(ctx, perf, "record", "-q", "-o", data, "-F", "499", "-p", strconv.Itoa(b.group.PID("main")),
		"--", "sleep", strconv.FormatFloat(b.length().Seconds()*0.8, 'f', 1, 64)).CombinedOutput()
	if err := <-done; err != nil {
		return "", err
	}
	if perr != nil {
		return "", fmt.Errorf("perf record: %w: %s", perr, out)
	}
	text, err := exec.CommandContext(ctx, perf, "report", "-q", "-i", data, "--stdio", "--sort", "symbol", "--percent-limit", "1").Output()
	if err != nil {
		return "", fmt.Errorf("perf report: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(strings.TrimRight(line, "- \n"), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n"), nil
}
