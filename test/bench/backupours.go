package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"understudy/test/bench/internal/ours"
	"understudy/test/bench/internal/pg"
)

// helperOurs is a process of this program that does one task: "helper:ours
// JSON" prints an ours.Outcome. One that serves log prints a line when it can
// be asked, and does so until its standard input ends.
const helperOurs = helperPrefix + "ours"

// doOurs is the main program of that process.
func doOurs(text string) error {
	var t ours.Task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	t.Ready = func() { fmt.Println("ready") }
	out, err := ours.Run(ctx, t)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// process is a task under way.
type process struct {
	name string
	s    *backups
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	said strings.Builder // on standard error
}

// startOurs starts a task in a process of the database account.
func (s *backups) startOurs(ctx context.Context, t ours.Task) (*process, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	p := &process{name: "ours: " + string(t.Kind), s: s, cmd: s.tools.Program(ctx, s.self, helperOurs, string(text))}
	p.cmd.Stderr = &p.said
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// ready waits until the process can be asked for log.
func (p *process) ready() error {
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		_, werr := p.stop()
		return fmt.Errorf("the process that serves log said %q: %w", line, errors.Join(err, werr))
	}
	return nil
}

// stop tells the process to end.
func (p *process) stop() (ours.Outcome, error) {
	p.in.Close() // fails when the process has ended, which wait says better
	return p.wait()
}

// wait waits for the outcome and notes the process's memory.
func (p *process) wait() (out ours.Outcome, err error) {
	text, rerr := io.ReadAll(p.out)
	if err := p.cmd.Wait(); err != nil {
		return out, fmt.Errorf("%s: %w: %s", p.name, err, strings.TrimSpace(p.said.String()))
	}
	if err := errors.Join(rerr, json.Unmarshal(text, &out)); err != nil {
		return out, fmt.Errorf("%s: %w", p.name, err)
	}
	p.s.peaks[p.name] = max(p.s.peaks[p.name], out.Peak)
	return out, nil
}

// ours runs a task to its end.
func (s *backups) ours(ctx context.Context, t ours.Task) (ours.Outcome, error) {
	p, err := s.startOurs(ctx, t)
	if err != nil {
		return ours.Outcome{}, err
	}
	return p.wait()
}

// task is one of a kind with everything that any of them needs.
func (s *backups) task(k ours.Kind) ours.Task {
	return ours.Task{
		Kind: k, Place: s.place(), Label: s.label, DSN: fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.main.SocketDir(), s.main.Port),
		SystemID: s.systemID, SegSize: s.segSize(), From: s.from, To: s.to, DataDir: s.oursDir(), WALDir: s.walDir(),
		Socket: s.at("wal.sock"), Hand: s.at("hand"), Scratch: s.at("scratch"), Workers: backupWorkers,
	}
}

// profile repeats each of ours once, unmeasured, to see where the processor
// time goes. The restore is the last one, since its directory is that of the
// delta.
func (s *backups) profile(ctx context.Context) error {
	for _, t := range []struct {
		kind    ours.Kind
		prepare func(context.Context) error
	}{
		{ours.Archive, s.emptyOurLog}, {ours.Set, nothing}, {ours.Delta, nothing}, {ours.Restore, func(context.Context) error { return s.fresh(s.oursDir()) }},
		{ours.Backup, s.emptyOurSets},
	} {
		task := s.task(t.kind)
		task.Profile = s.at("scratch", "cpu."+string(t.kind))
		if err := t.prepare(ctx); err != nil {
			return err
		}
		if _, err := s.ours(ctx, task); err != nil {
			return err
		}
		top, err := pg.Output(exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=20", task.Profile))
		if err != nil {
			return err
		}
		s.profiles = append(s.profiles, fmt.Sprintf("**%s**\n\n```\n%s\n```\n", t.kind, strings.TrimSpace(top)))
	}
	return nil
}

func nothing(context.Context) error { return nil }
