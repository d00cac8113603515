package probe

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tick is the slice in which the watch counts time.
const tick = 100 * time.Millisecond

// DefaultPace is the time between two rounds.
const DefaultPace = time.Second

// Config is what Watch needs.
type Config struct {
	Disk *Disk // nil: no disk is probed
	// Connect makes the connection to the local server; nil on a witness.
	Connect Connect
	// Pace is the time from the end of one round to the next one, by default
	// DefaultPace. A round costs a primary about 80 bytes of log (at one a
	// second 7 MB a day), and each filesystem a
	// synced write of 4 KiB. It also ends a primary's idleness: see DESIGN.md.
	Pace time.Duration
	// Stall is how long a disk or a server may hang; it is asked at each
	// judgement. Too short fails a node over a slow disk; below a second it is
	// a second.
	Stall func() time.Duration

	process func(pid int) (Process, error) // nil: ReadProcess
}

// Validate tells what is missing.
func (c Config) Validate() error {
	if c.Stall == nil {
		return errors.New("watch without a stall time")
	}
	if c.Pace < 0 {
		return errors.New("watch with a negative pace")
	}
	return nil
}

// Watcher probes one node. Its methods may be called from several goroutines.
//
// Time is counted in ticks of its own, one for each that it really got: a
// daemon that was stopped, or a machine that slept, does not take its own pause
// for one of the server's.
type Watcher struct {
	cfg    Config
	server *Server // nil without Connect
	cancel context.CancelFunc
	wg     sync.WaitGroup
	clock  atomic.Int64
	latest atomic.Pointer[Health]
	kick   chan struct{} // to the server's goroutine: serving has changed

	mu      sync.Mutex // what is below
	serving *session
	disk    []Seen // of finished rounds
	asked   []Seen
	still   Stillness
}

// session is one answer to what the server is meant to be doing. It is never
// changed but for ended.
type session struct {
	mode Mode
	pid  int
	ctx  context.Context // ends with the server that is meant
	end  context.CancelFunc
}

// Watch starts to probe, until ctx ends or Close is called. The server is left
// alone until Serve.
func Watch(ctx context.Context, cfg Config) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Pace = cmp.Or(cfg.Pace, DefaultPace)
	if cfg.process == nil {
		cfg.process = ReadProcess
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{cfg: cfg, cancel: cancel, kick: make(chan struct{}, 1), serving: &session{ctx: ctx, end: func() {}}}
	w.latest.Store(&Health{})
	w.wg.Add(1)
	go w.judgeLoop(ctx)
	if cfg.Disk != nil {
		cfg.Disk.now = w.now
		w.wg.Add(1)
		go w.diskLoop(ctx)
	}
	if cfg.Connect != nil {
		w.server = NewServer(cfg.Connect)
		w.server.now = w.now
		w.wg.Add(1)
		go w.serverLoop(ctx)
	}
	return w, nil
}

// Close ends the probing and waits for it; for a call to a disk that hangs only
// a second.
func (w *Watcher) Close() {
	if w == nil {
		return
	}
	w.cancel()
	w.wg.Wait()
}

// Latest is the newest judgement, at most some hundred milliseconds old. A nil
// Watcher finds nothing.
func (w *Watcher) Latest() Health {
	if w == nil {
		return Health{}
	}
	return *w.latest.Load()
}

// Serve tells what the server is meant to be doing and who its postmaster is.
// Say Down before it is told to stop, or is known to have ended, and something
// else when it takes connections. The same again changes nothing.
func (w *Watcher) Serve(mode Mode, pid int) {
	if mode == Down {
		pid = 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.serving
	if old.mode == mode && old.pid == pid {
		return
	}
	s := &session{mode: mode, pid: pid, ctx: old.ctx, end: old.end}
	if old.pid != pid {
		// Nothing that the old server did, or did not, speaks about the new.
		old.end()
		s.ctx, s.end = context.WithCancel(context.Background())
		w.asked, w.still = nil, Stillness{}
		if w.server != nil {
			w.server.Forget()
		}
	}
	w.serving = s
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *Watcher) now() time.Duration { return time.Duration(w.clock.Load()) }

func (w *Watcher) current() *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.serving
}

// judgeLoop is the clock, and judges at each of its ticks.
func (w *Watcher) judgeLoop(ctx context.Context) {
	defer w.wg.Done()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		w.clock.Add(int64(tick))
		h := w.judge()
		w.latest.Store(&h)
	}
}

func (w *Watcher) judge() Health {
	stall := w.cfg.Stall()
	w.mu.Lock()
	defer w.mu.Unlock()
	o := Observations{Rounds: w.disk}
	if w.cfg.Disk != nil {
		o.Lasting = w.cfg.Disk.Hung()
	}
	if w.serving.mode != Down {
		w.addServer(&o)
	}
	return Judge(o, w.now(), LimitsFor(stall))
}

// addServer adds what is known of the server. One that has ended is its
// parent's business, and neither its silence nor its last words count; a
// process that cannot be looked at is probed without.
func (w *Watcher) addServer(o *Observations) {
	p, err := w.cfg.process(w.serving.pid)
	if err == nil && p.Gone() {
		return
	}
	o.Rounds = append(slices.Clip(o.Rounds), w.asked...)
	if err == nil {
		var found []Finding
		w.still, found = w.still.Next(w.serving.pid, p, w.now())
		o.Lasting = append(o.Lasting, found...)
	}
	if w.server != nil {
		o.Lasting = append(o.Lasting, w.server.Hung()...)
	}
}

func (w *Watcher) diskLoop(ctx context.Context) {
	defer w.wg.Done()
	defer w.cfg.Disk.settle()
	for {
		round := w.cfg.Disk.check(ctx, w.current().mode != Down)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		w.disk = Note(w.disk, round, w.now())
		w.mu.Unlock()
		if !pause(ctx, w.cfg.Pace, nil) {
			return
		}
	}
}

func (w *Watcher) serverLoop(ctx context.Context) {
	defer w.wg.Done()
	defer w.server.Close()
	pid := 0
	for {
		s := w.current()
		if s.pid != pid {
			w.server.Close()
			pid = s.pid
		}
		if s.mode != Down {
			w.ask(ctx, s)
		}
		if !pause(ctx, w.cfg.Pace, w.kick) {
			return
		}
	}
}

// ask is one round for the session s. What it found is dropped when another
// server is meant meanwhile.
func (w *Watcher) ask(ctx context.Context, s *session) {
	qctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	round := w.server.Probe(qctx, s.mode)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.serving.pid == s.pid && qctx.Err() == nil {
		w.asked = Note(w.asked, round, w.now())
	}
}

// pause waits for d or for early; false when ctx ends.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-early:
	case <-t.C:
	}
	return true
}
