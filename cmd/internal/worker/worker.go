package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"understudy/ledger/facts"
	"understudy/shipper/location"
)

// maxLine bounds a line of either side, in bytes.
const maxLine = 64 << 20

// ErrRefused is returned for a command that the ledger refused.
var ErrRefused = errors.New("refused by the ledger")

// errParentGone ends a worker whose daemon has ended.
var errParentGone = errors.New("the daemon that started this worker has ended")

// Ledger takes the commands of a task. An error that wraps ErrRefused is
// final.
type Ledger interface {
	Propose(ctx context.Context, c facts.Command) error
}

// port is the worker's end of the line to its daemon.
type port struct {
	mu      sync.Mutex
	out     *json.Encoder
	n       int
	waiting map[int]chan Answer
	updates chan Update
	exports chan []byte
}

// Run reads a Spec from in, carries it out, and writes messages to out. It
// returns after Done was written, or when in ended before.
func Run(ctx context.Context, in io.Reader, out io.Writer, log *slog.Logger) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var spec Spec
	if err := readLine(r, &spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	p := &port{out: json.NewEncoder(out), waiting: map[int]chan Answer{}, updates: make(chan Update, 1), exports: make(chan []byte, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(p.listen(r)) }()
	done := do(ctx, spec, p, log)
	if err := context.Cause(ctx); errors.Is(err, errParentGone) {
		return err
	}
	return p.send(Message{Done: &done})
}

// do carries a task out.
func do(ctx context.Context, spec Spec, p *port, log *slog.Logger) Done {
	w, err := newWork(ctx, spec, p, log)
	if err != nil {
		return Done{Problem: location.Sentence(err)}
	}
	defer w.close()
	tasks := map[Task]func(context.Context) (Done, error){
		TaskArchive: w.archive, TaskBackup: w.backup, TaskVerify: w.verify,
		TaskPrune: w.prune, TaskFill: w.fill, TaskDrill: w.drill,
	}
	task, ok := tasks[spec.Task]
	if !ok {
		return Done{Problem: fmt.Sprintf("a worker knows no task %q", spec.Task)}
	}
	d, err := task(ctx)
	if err != nil {
		d.Problem = location.Sentence(err)
	}
	if spec.Task != TaskPrune { // which fails when this does
		w.sweepAll(ctx)
	}
	return d
}

// listen takes the daemon's lines until there are no more.
func (p *port) listen(r *bufio.Reader) error {
	for {
		var l Line
		if err := readLine(r, &l); err != nil {
			return errParentGone
		}
		switch {
		case l.Answer != nil:
			p.mu.Lock()
			ch := p.waiting[l.Answer.N]
			delete(p.waiting, l.Answer.N)
			p.mu.Unlock()
			if ch != nil {
				ch <- *l.Answer
			}
		case l.Update != nil:
			p.pass(*l.Update)
		case l.Export != nil:
			replace(p.exports, l.Export)
		}
	}
}

// pass hands an update on; one that was not taken yet is merged into it.
func (p *port) pass(u Update) {
	select {
	case old := <-p.updates:
		u.Marks = append(old.Marks, u.Marks...)
		u.Flush = max(u.Flush, old.Flush)
	default:
	}
	p.updates <- u // room was made, and nobody else sends
}

// replace puts v into a channel of one place that only the caller sends to.
func replace[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// Propose implements Ledger through the daemon.
func (p *port) Propose(ctx context.Context, c facts.Command) error {
	ch := make(chan Answer, 1)
	p.mu.Lock()
	p.n++
	n := p.n
	p.waiting[n] = ch
	p.mu.Unlock()
	if err := p.send(Message{N: n, Propose: &c}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case a := <-ch:
		switch {
		case a.Refused:
			return fmt.Errorf("%w: %s", ErrRefused, a.Error)
		case a.Error != "":
			return fmt.Errorf("propose to the ledger: %s", a.Error)
		}
		return nil
	}
}

func (p *port) send(m Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.out.Encode(m); err != nil {
		return fmt.Errorf("tell the daemon: %w", err)
	}
	return nil
}

// readLine reads one line of JSON into v.
func readLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return fmt.Errorf("a line has more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	return json.Unmarshal(line, v)
}
