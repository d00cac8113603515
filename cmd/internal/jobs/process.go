// Package jobs has the work on backups done: on every node it runs the jobs
// that the ledger gives to it, each in a worker process, and on the ledger's
// leader it decides what is due.
package jobs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/cmd/internal/worker"
)

const (
	// grace is how long a worker may take to clean up once its input has ended.
	grace = 3 * time.Second
	// niceness keeps workers behind PostgreSQL and the daemon.
	niceness = 5
	// maxMessage bounds a line from a worker, in bytes.
	maxMessage = 64 << 20
)

// errNoEnd is returned for a worker that ended without a last word.
var errNoEnd = errors.New("the worker ended without a result")

// process is one running worker.
type process struct {
	mu  sync.Mutex
	in  io.WriteCloser
	enc *json.Encoder
}

// tell writes one line to the worker. A worker that is gone is noticed by its
// end, so the error says nothing new.
func (p *process) tell(v any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.Encode(v)
}

// runWorker starts the program as a worker, gives it spec, and hands on its
// messages, one at a time, until it ends. When ctx ends the worker is told to
// clean up, and killed if it takes too long. The last message is returned.
func runWorker(ctx context.Context, binary string, spec worker.Spec, logFile *os.File, started func(*process), each func(worker.Message)) (worker.Done, error) {
	if ctx.Err() != nil {
		return worker.Done{}, context.Cause(ctx)
	}
	cmd := exec.Command(binary, "worker")
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8") // secrets may be in it
	cmd.Stderr = logFile
	// Ctrl-C at the daemon's terminal is the daemon's to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return worker.Done{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return worker.Done{}, err
	}
	if err := cmd.Start(); err != nil {
		return worker.Done{}, fmt.Errorf("start a worker: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, niceness); err != nil {
		slog.Debug("lower a worker's priority", "error", err)
	}
	p := &process{in: in, enc: json.NewEncoder(in)}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		in.Close() // a worker whose input has ended cleans up
		select {
		case <-ended:
		case <-time.After(grace):
			_ = cmd.Process.Kill() // gone already, then
		}
	}()
	var done *worker.Done
	err = p.tell(spec)
	if err == nil {
		started(p)
		done, err = messages(out, each)
	}
	in.Close()
	werr := cmd.Wait()
	switch {
	case done != nil:
		return *done, nil
	case ctx.Err() != nil:
		return worker.Done{}, context.Cause(ctx)
	case err == nil && werr == nil:
		err = errNoEnd
	}
	return worker.Done{}, errors.Join(err, werr)
}

// messages hands the worker's lines on until the last.
func messages(out io.Reader, each func(worker.Message)) (*worker.Done, error) {
	s := bufio.NewScanner(out)
	s.Buffer(make([]byte, 64<<10), maxMessage)
	for s.Scan() {
		var m worker.Message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			return nil, fmt.Errorf("read a worker's message: %w", err)
		}
		if m.Done != nil {
			return m.Done, nil
		}
		each(m)
	}
	return nil, s.Err()
}
