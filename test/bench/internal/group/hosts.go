package group

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"understudy/test/bench/internal/pg"
)

// Host is a host of its own for one node. It shares files and processes with
// the measurement's, and has another network.
type Host struct {
	IP string
	// Command prepares a program that runs there. Its process id is the
	// program's.
	Command func(ctx context.Context, name string, args ...string) *exec.Cmd
}

// StartOn makes a group in dir, which the database account can enter, whose
// nodes each run on the host of their name, and returns when it is healthy with
// main as its primary. Stop must be called also after an error.
func StartOn(ctx context.Context, program, dir string, port int, t *pg.Tools, hosts map[string]Host) (*Group, error) {
	g := newGroup(program, dir, port)
	g.hosts = hosts
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := copyProgram(program, g.binary()); err != nil {
		return g, err
	}
	if err := g.make(ctx, t); err != nil {
		return g, err
	}
	for _, n := range Nodes {
		if err := g.StartDaemon(ctx, n); err != nil {
			return g, err
		}
	}
	_, err := g.WaitReady(ctx, Data[0], "", nil)
	return g, err
}

// copyProgram puts the program where the database account can execute it.
func copyProgram(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// stopOnHosts ends a group that StartOn made. What does not end in the regular
// way is killed: nobody would find it on its host.
func (g *Group) stopOnHosts(ctx context.Context) error {
	err := g.adopt(ctx)
	if err == nil {
		err = g.demo(ctx, "stop", "--dir", g.Dir)
	}
	if err == nil {
		return nil
	}
	for _, n := range Nodes {
		if g.KillEverything(n) == nil {
			err = errors.Join(err, g.WaitGone(ctx, n))
		}
	}
	return err
}

// adopt starts the daemon of every node whose PostgreSQL has lost its own: it is
// ended through one, and the demo command would start that in its own network.
func (g *Group) adopt(ctx context.Context) error {
	var errs []error
	for _, n := range Nodes {
		if _, err := os.Stat(filepath.Join(g.Dir, n, "run", "guard.sock")); err == nil && g.PID(n) == 0 {
			errs = append(errs, g.StartDaemon(ctx, n))
		}
	}
	return errors.Join(errs...)
}

func (g *Group) binary() string { return filepath.Join(g.Dir, "bin", "understudy") }

func (g *Group) ip(node string) string { return cmp.Or(g.hosts[node].IP, "127.0.0.1") }

// command prepares a program that runs on a node's host.
func (g *Group) command(node, name string, args ...string) *exec.Cmd {
	if h, ok := g.hosts[node]; ok {
		return h.Command(context.Background(), name, args...)
	}
	return exec.Command(name, args...)
}
