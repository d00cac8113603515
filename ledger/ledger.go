// Package ledger keeps the facts of a group replicated: it joins the state
// machine of package facts to the Raft server of package raftnode, on every
// node. Any node may propose and read; what has to be decided by the leader is
// forwarded to it.
package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"understudy/ledger/facts"
	"understudy/ledger/raftnode"
)

// ErrNoLeader is returned when no leader could be reached in time. A proposal
// may have been applied all the same.
var ErrNoLeader = errors.New("the ledger has no reachable leader")

// ErrNotLeader is returned by what only the leader can do; nothing was done.
var ErrNotLeader = raftnode.ErrNotLeader

// ErrClosed is returned after Close.
var ErrClosed = raftnode.ErrClosed

// RefusedError is returned for a command that the state machine refused; it
// changed nothing. Proposing the same again is pointless unless the state
// changes.
type RefusedError struct {
	Code string // stable id, one of the facts.Code constants
	Text string // one sentence for people
}

// Error is the sentence.
func (e *RefusedError) Error() string { return e.Text }

// Forwarder carries requests to the leader, usually on the control stream. The
// leader's side calls HandlePropose and HandleRead. Errors are retried for a
// while; commands may arrive more than once.
type Forwarder interface {
	Propose(ctx context.Context, leaderStore, leaderAddr string, cmd []byte) ([]byte, error)
	Read(ctx context.Context, leaderStore, leaderAddr string) ([]byte, error)
}

// How long a request is retried while there is no leader: an election takes
// well below this.
const (
	defaultPatience = 5 * time.Second
	firstPause      = 10 * time.Millisecond
	longestPause    = 100 * time.Millisecond
)

// Config says where a Ledger keeps its files and how it reaches others.
type Config struct {
	Dir       string           // created if missing; one ledger per directory
	Store     string           // this node's store id
	Advertise string           // host:port under which the others reach Stream
	Stream    raft.StreamLayer // closed by Close
	Forward   Forwarder        // nil: nothing can be forwarded
	Log       *slog.Logger     // nil = discard
	Now       func() time.Time // stamps commands; nil = time.Now

	// Patience bounds how long Propose and Read look for a leader when their
	// context allows longer; default 5 s.
	Patience time.Duration
	// Raft overrides timings and snapshot limits; Dir, Store, Advertise,
	// Stream and Log in it are ignored.
	Raft raftnode.Config
}

// Ledger is this node's part of the group's ledger. Its methods may be called
// concurrently.
type Ledger struct {
	cfg  Config
	node *raftnode.Node
	hub  *hub
}

// Open starts the ledger from what its directory holds. A node without a state
// waits to be added by a leader, or for Found. Until it has caught up, State is
// older than what the group agreed on.
func Open(cfg Config) (*Ledger, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{cfg: cfg, hub: newHub()}
	rc := cfg.Raft
	rc.Dir, rc.Store, rc.Advertise, rc.Stream, rc.Log = cfg.Dir, cfg.Store, cfg.Advertise, cfg.Stream, cfg.Log
	node, err := raftnode.Open(rc, &fsm{hub: l.hub, log: cfg.Log})
	if err != nil {
		l.hub.close()
		return nil, err
	}
	l.node = node
	return l, nil
}

// Found makes this node the first of a new group: its sole ledger voter, with
// the facts of f applied. It may be repeated after a crash in between.
func (l *Ledger) Found(ctx context.Context, f facts.Found) error {
	if f.Member.Store != l.cfg.Store {
		return fmt.Errorf("found group: member %s has store %q, this node is %q", f.Member.Name, f.Member.Store, l.cfg.Store)
	}
	addr := l.cfg.Advertise
	if addr == "" {
		addr = l.cfg.Stream.Addr().String()
	}
	if err := l.node.Bootstrap(addr); err != nil && !errors.Is(err, raftnode.ErrExists) {
		return err
	}
	if _, err := l.Propose(ctx, facts.Command{Kind: facts.CmdFound, Found: &f}); err != nil {
		return fmt.Errorf("found group: %w", err)
	}
	return nil
}

// Reform begins a new ledger with what this node knows of an old one. Calling
// it again after a crash is safe.
func (l *Ledger) Reform(ctx context.Context, r facts.Reform) error {
	addr := l.cfg.Advertise
	if addr == "" {
		addr = l.cfg.Stream.Addr().String()
	}
	if err := l.node.Bootstrap(addr); err != nil && !errors.Is(err, raftnode.ErrExists) {
		return err
	}
	if _, err := l.Propose(ctx, facts.Command{Kind: facts.CmdReform, Reform: &r}); err != nil {
		return fmt.Errorf("form the group anew: %w", err)
	}
	return nil
}

// State is the newest state applied here. It is immutable, and may be older
// than what the group agreed on: permission to act is taken from Read.
func (l *Ledger) State() facts.State { return l.hub.current() }

// Changed returns a channel that is closed at the next change of State. Take
// it before looking at State, so that no change is missed.
func (l *Ledger) Changed() <-chan struct{} { return l.hub.next() }

// Subscribe calls fn, one call at a time, first with the present state and then
// after changes: with the newest state, which may skip some, and every event
// since the last call. fn may be slow without slowing the ledger; beyond 65536
// waiting events the oldest are replaced by one that says so. After a restart
// the events since the newest snapshot come again (Event.Version tells), and
// none for what a snapshot from the leader skipped. cancel, and Close, wait for
// a call under way: neither may be called from fn.
func (l *Ledger) Subscribe(fn func(facts.State, []facts.Event)) (cancel func()) {
	return l.hub.subscribe(fn)
}

// Propose applies a command, here when this node leads and through the
// Forwarder otherwise. ID and At are filled in when empty. It returns nil when
// the command was applied and is durable on a majority, a *RefusedError when it
// was refused, and ErrNoLeader when no leader answered in time, in which case
// it may be applied all the same; proposing again with the same ID is safe
// then, soon.
func (l *Ledger) Propose(ctx context.Context, c facts.Command) (facts.Outcome, error) {
	if c.ID == "" {
		c.ID = rand.Text()
	}
	if c.At.IsZero() {
		c.At = l.cfg.Now().UTC()
	}
	b, err := facts.EncodeCommand(c)
	if err != nil {
		return facts.Outcome{}, err
	}
	var out facts.Outcome
	err = l.atLeader(ctx, func(ctx context.Context) error {
		out, err = l.applyHere(ctx, b)
		return err
	}, func(ctx context.Context, store, addr string) error {
		answer, err := l.cfg.Forward.Propose(ctx, store, addr, b)
		if err != nil {
			return err
		}
		out, err = decodeOutcome(answer)
		return err
	})
	if err != nil {
		return facts.Outcome{}, fmt.Errorf("propose %s: %w", kindOf(c), err)
	}
	if out.Code != "" || out.Refused != "" {
		return out, &RefusedError{Code: out.Code, Text: out.Refused}
	}
	return out, nil
}

// kindOf names a command whose Kind may still be empty.
func kindOf(c facts.Command) facts.CommandKind {
	if n, err := c.Normalize(); err == nil {
		return n.Kind
	}
	return c.Kind
}

// applyHere puts an encoded command through this node's Raft.
func (l *Ledger) applyHere(ctx context.Context, b []byte) (facts.Outcome, error) {
	answer, err := l.node.Apply(ctx, b)
	if err != nil {
		return facts.Outcome{}, err
	}
	out, ok := answer.(facts.Outcome)
	if !ok {
		return facts.Outcome{}, fmt.Errorf("state machine answered a %T", answer)
	}
	l.node.Spread()
	return out, nil
}

// Read returns the state as a majority confirms it, after the call began, to
// be the newest. On a follower the leader's answer is returned, and State may
// still be older.
func (l *Ledger) Read(ctx context.Context) (facts.State, error) {
	var s facts.State
	err := l.atLeader(ctx, func(ctx context.Context) error {
		err := l.node.Verify(ctx)
		s = l.State()
		return err
	}, func(ctx context.Context, store, addr string) error {
		answer, err := l.cfg.Forward.Read(ctx, store, addr)
		if err != nil {
			return err
		}
		s, err = facts.Decode(answer)
		return err
	})
	if err != nil {
		return facts.State{}, fmt.Errorf("read ledger: %w", err)
	}
	return s, nil
}

// atLeader calls here when this node leads and there when another does, and
// tries again, with pauses, until one returns nil or time is up.
func (l *Ledger) atLeader(ctx context.Context, here func(context.Context) error,
	there func(ctx context.Context, store, addr string) error,
) error {
	patience, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	pause, last := firstPause, error(nil)
	for {
		err := l.tryLeader(patience, here, there)
		if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, errNoForwarder) {
			return err
		}
		if patience.Err() == nil || last == nil {
			last = err // an error that time is up hides why it was needed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", noLeader(last), context.Cause(ctx))
		case <-patience.Done():
			return noLeader(last)
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

// errNoForwarder ends the search for a leader: looking again cannot help.
var errNoForwarder = fmt.Errorf("%w that this node can ask", ErrNoLeader)

// tryLeader is one attempt of atLeader. It is bounded, so that a leader that
// died without a word is not waited for while there is a new one.
func (l *Ledger) tryLeader(ctx context.Context, here func(context.Context) error,
	there func(ctx context.Context, store, addr string) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Patience/3)
	defer cancel()
	switch store, addr, self := l.Leader(); {
	case self:
		return here(ctx)
	case store == "" || store == l.cfg.Store:
		return ErrNoLeader // or this node ceases or begins to lead
	case l.cfg.Forward == nil:
		return errNoForwarder
	default:
		return there(ctx, store, addr)
	}
}

// noLeader makes err an ErrNoLeader.
func noLeader(err error) error {
	if errors.Is(err, ErrNoLeader) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoLeader, err)
}

// Leader is the leader as this node knows it, and whether it is this node.
func (l *Ledger) Leader() (store, addr string, self bool) {
	store, addr = l.node.Leader()
	return store, addr, store == l.cfg.Store && l.node.IsLeader()
}

// Close stops taking part and waits for everything it started.
func (l *Ledger) Close() error {
	err := l.node.Close()
	l.hub.close()
	return err
}
