package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	// ErrClosed is returned when a hook was not run, or was killed, because the
	// runner was closed.
	ErrClosed = errors.New("the daemon ends")
	// ErrDropped is reported for a posted hook that later ones pushed out of a
	// full queue.
	ErrDropped = errors.New("too many hooks were waiting")
)

// The limits of Config.Timeout.
const (
	MinTimeout     = 100 * time.Millisecond
	MaxTimeout     = 5 * time.Minute
	DefaultTimeout = 10 * time.Second
)

// maxQueued is how many posted hooks may wait.
const maxQueued = 16

// Config is what a Runner needs.
type Config struct {
	Group, Node string
	// Commands holds, under the hook's name, the absolute path of a program and
	// its arguments, separated by blanks. There is no quoting and no shell.
	Commands map[string]string
	// Timeout is the limit of each hook. Default DefaultTimeout.
	Timeout time.Duration
	// Account runs the hooks. See ResolveAccount.
	Account Account
	// Done hears how every hook of this node ended that is configured, also one
	// that was not started; err is an *Error or nil. It must be quick and must
	// not call the Runner: the next hook, or the caller of Run or Post, waits for
	// it. May be nil.
	Done func(ev Event, r Result, err error)
	// Log gets the output of each hook. Default: nowhere.
	Log *slog.Logger
}

// Runner runs the hooks of one node, one at a time, in the order in which they
// were asked for. A nil Runner has no hooks.
//
// Nothing about hooks is durable. The kernel kills the program of a hook that
// runs when the daemon is killed (not the processes which that program has
// started), and the next daemon runs neither it nor those that waited again: it
// could not know how far they came. Who needs certainty compares in
// after_promotion and after_standby what is with what should be.
type Runner struct {
	cfg      Config
	commands map[Name][]string
	ctx      context.Context // ends when Close has waited long enough
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the worker has ended
	wake     chan struct{} // holds one token when queue or closed changed

	mu     sync.Mutex
	queue  []*job
	closed bool
}

type job struct {
	ctx    context.Context
	ev     Event
	posted bool
	ended  chan outcome // holds one
}

type outcome struct {
	r   Result
	err error
}

// New checks the commands and starts the runner; Close ends it. Files are
// looked at when they are run, since they may be installed later.
func New(cfg Config) (*Runner, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Timeout < MinTimeout || cfg.Timeout > MaxTimeout {
		return nil, fmt.Errorf("the timeout of hooks is %s; it must be between %s and %s", cfg.Timeout, MinTimeout, MaxTimeout)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{cfg: cfg, commands: map[Name][]string{}, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for name, line := range cfg.Commands {
		argv := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
		switch {
		case !slices.Contains(Names(), Name(name)):
			return nil, fmt.Errorf("there is no hook %q", name)
		case len(argv) == 0 || !filepath.IsAbs(argv[0]):
			return nil, fmt.Errorf("hook %s: %q must begin with an absolute path", name, line)
		}
		r.commands[Name(name)] = argv
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	go r.work()
	return r, nil
}

// Has tells whether this node has the hook.
func (r *Runner) Has(n Name) bool { return r != nil && r.commands[n] != nil }

// Run runs the event's hook after all those asked for before, and returns when
// it has ended. The time limit counts from the call: waiting for a turn does
// not make it longer. When ctx ends, the hook is killed. The error is an
// *Error; of BeforeSwitchover it is a veto. A hook that the node does not have
// succeeds at once.
func (r *Runner) Run(ctx context.Context, ev Event) (Result, error) {
	if !r.Has(ev.Hook) {
		return Result{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	j := &job{ctx: ctx, ev: ev, ended: make(chan outcome, 1)}
	r.enqueue(j)
	select {
	case o := <-j.ended:
		return o.r, o.err
	case <-ctx.Done():
	}
	if r.takeBack(j) {
		r.finish(j, Result{}, r.fail(ev, "it was not run, since the hooks before it took too long", "", context.Cause(ctx)))
	}
	o := <-j.ended // killed: it takes killWait at most
	return o.r, o.err
}

// Post has the event's hook run later, after all those asked for before, and
// does not wait. At most 16 wait: another one pushes out the oldest, because
// the last ones say what the node is now.
func (r *Runner) Post(ev Event) {
	if r.Has(ev.Hook) {
		r.enqueue(&job{ctx: r.ctx, ev: ev, posted: true, ended: make(chan outcome, 1)})
	}
}

// Close takes no more hooks and waits until those asked for have run, or ctx
// ends: then the running one is killed and the others are given up. It returns
// an error that counts these.
func (r *Runner) Close(ctx context.Context) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
	var left int
	select {
	case <-r.done:
	case <-ctx.Done():
		r.mu.Lock()
		left = len(r.queue)
		r.mu.Unlock()
		r.cancel(ErrClosed)
		<-r.done
	}
	r.cancel(ErrClosed)
	if left > 0 {
		return fmt.Errorf("%d hooks were not run: %w", left, ErrClosed)
	}
	return nil
}

func (r *Runner) enqueue(j *job) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.finish(j, Result{}, r.fail(j.ev, "it was not run, since the daemon ends", "", ErrClosed))
		return
	}
	r.queue = append(r.queue, j)
	dropped := r.overflow()
	r.mu.Unlock()
	r.signal()
	if dropped != nil {
		r.finish(dropped, Result{}, r.fail(dropped.ev, fmt.Sprintf("it was not run, since %d later ones waited", maxQueued), "", ErrDropped))
	}
}

// overflow takes the oldest posted job out of a queue that is too long. The
// caller holds mu.
func (r *Runner) overflow() *job {
	n, oldest := 0, -1
	for i, j := range r.queue {
		if j.posted {
			if n++; oldest < 0 {
				oldest = i
			}
		}
	}
	if n <= maxQueued {
		return nil
	}
	j := r.queue[oldest]
	r.queue = slices.Delete(r.queue, oldest, oldest+1)
	return j
}

// takeBack removes a job that has not begun.
func (r *Runner) takeBack(j *job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.queue, j)
	if i < 0 {
		return false
	}
	r.queue = slices.Delete(r.queue, i, i+1)
	return true
}

func (r *Runner) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// work runs the jobs until the runner is closed and none is left.
func (r *Runner) work() {
	defer close(r.done)
	for {
		j, more := r.next()
		switch {
		case j != nil:
			r.perform(j)
		case !more:
			return
		default:
			<-r.wake
		}
	}
}

func (r *Runner) next() (j *job, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return nil, !r.closed
	}
	j, r.queue = r.queue[0], r.queue[1:]
	return j, true
}

// perform runs one job under its context, the limit and the runner's own end.
func (r *Runner) perform(j *job) {
	if r.ctx.Err() != nil {
		r.finish(j, Result{}, r.fail(j.ev, "it was not run, since the daemon ends", "", ErrClosed))
		return
	}
	ctx, cancel := context.WithTimeout(j.ctx, r.cfg.Timeout)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(r.ctx, func() { end(ErrClosed) })()
	argv := r.commands[j.ev.Hook]
	c := command{
		argv: argv, env: j.ev.environ(r.cfg.Group, r.cfg.Node), account: r.cfg.Account,
		check: func(file string) error { return trusted(file, r.cfg.Account.UID) },
	}
	res, err := c.run(ctx)
	if err != nil {
		err = r.fail(j.ev, err.Error(), res.First, err)
	}
	r.finish(j, res, err)
}

// finish tells everybody how a job ended.
func (r *Runner) finish(j *job, res Result, err error) {
	log := r.cfg.Log.With("hook", string(j.ev.Hook), "epoch", j.ev.Epoch.String(), "took", res.Took, "output", res.Output)
	if err != nil {
		log.Warn("hook failed", "error", err)
	} else {
		log.Info("hook ended")
	}
	if r.cfg.Done != nil {
		r.cfg.Done(j.ev, res, err)
	}
	j.ended <- outcome{res, err}
}

func (r *Runner) fail(ev Event, text, reason string, err error) *Error {
	return &Error{Hook: ev.Hook, File: r.commands[ev.Hook][0], Text: text, Reason: reason, Err: err}
}
