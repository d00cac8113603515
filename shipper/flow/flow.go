// Package flow keeps the progress of one peer: the state of its session, the
// window of bytes in flight, the pauses between attempts and the rate.
//
// The package is pure: it reads no clock, draws no random number and sends
// nothing. Who owns the session asks what may be sent and tells what happened.
package flow

import (
	"errors"
	"fmt"

	"understudy/shipper/pos"
)

// State names what a peer's session is doing.
type State uint8

const (
	// Connecting holds when there is no agreed session: before the first, and
	// from the loss of one until the next is agreed.
	Connecting State = iota + 1
	// CatchingUp holds when the session is agreed and what the peer lacks is
	// more than Config.Near.
	CatchingUp
	// Streaming holds from when a peer that was catching up lacked no more than
	// Config.Near, until it lacks more than Config.Far.
	Streaming
	// Refused holds after the peer, or this side, declined the session for a
	// reason that time alone does not change: another history, a newer epoch,
	// another group. Only Retry leaves it.
	Refused
)

// String is the state's name as shown to the operator.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case CatchingUp:
		return "catching up"
	case Streaming:
		return "streaming"
	case Refused:
		return "refused"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// MarshalText is String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ErrState is returned when a call does not fit the state; nothing changed.
var ErrState = errors.New("not in this state")

// ErrProgress is returned when a position does not fit the ones before it; a
// peer that causes it is not to be believed any more. Nothing changed.
var ErrProgress = errors.New("impossible progress")

// Config bounds one peer. All values are in bytes.
type Config struct {
	// Window is how much may be sent and not yet acknowledged as received.
	// Larger costs memory on both sides, smaller costs throughput on a long
	// line. Positive.
	Window uint64
	// Near is the lack up to which a peer that catches up begins to stream.
	Near uint64
	// Far is the lack above which a streaming peer is catching up again. At
	// least Near; the distance keeps the state from flapping.
	Far uint64
}

// DefaultConfig suits a 10 Gbit line with a round trip of 10 ms.
func DefaultConfig() Config { return Config{Window: 16 << 20, Near: 1 << 20, Far: 64 << 20} }

// Validate names the first setting that makes no sense.
func (c Config) Validate() error {
	if c.Window == 0 {
		return errors.New("the flow window must be positive")
	}
	if c.Far < c.Near {
		return fmt.Errorf("the lack at which streaming ends (%d bytes) is below the one at which it begins (%d bytes)", c.Far, c.Near)
	}
	return nil
}

// Progress is one peer's progress. The positions are of the present session;
// those of a lost one stay visible until the next is agreed. It is not safe for
// concurrent use.
type Progress struct {
	cfg    Config
	state  State
	reason string // why refused
	end    pos.LSN

	// acked ≤ sent ≤ end, and durable ≤ acked.
	sent, acked, durable pos.LSN
}

// New returns the progress of a peer that was never reached. cfg is valid.
func New(cfg Config) *Progress { return &Progress{cfg: cfg, state: Connecting} }

// State is the present state.
func (p *Progress) State() State { return p.state }

// Reason is why the session was refused; empty in other states.
func (p *Progress) Reason() string { return p.reason }

// Begin enters the session that was agreed: the peer has everything up to
// resume, and durable of that safely; end is the newest byte of this side.
func (p *Progress) Begin(resume, durable, end pos.LSN) error {
	if p.state != Connecting {
		return fmt.Errorf("begin session: %w: %s", ErrState, p.state)
	}
	if durable > resume || resume > end {
		return fmt.Errorf("begin session: %w: durable %s, resume %s, end %s", ErrProgress, durable, resume, end)
	}
	p.state = CatchingUp
	p.sent, p.acked, p.durable, p.end = resume, resume, durable, end
	p.settle()
	return nil
}

// Lose leaves the session, whatever ended it. A refusal stays one.
func (p *Progress) Lose() {
	if p.state != Refused {
		p.state = Connecting
	}
}

// Refuse leaves the session for good, until Retry.
func (p *Progress) Refuse(reason string) { p.state, p.reason = Refused, reason }

// Retry leaves Refused, when something has changed that the refusal depended
// on. In other states it does nothing.
func (p *Progress) Retry() {
	if p.state == Refused {
		p.state, p.reason = Connecting, ""
	}
}

// Grow tells that this side's newest byte is end. One that is not newer is
// passed over.
func (p *Progress) Grow(end pos.LSN) {
	if p.live() && end > p.end {
		p.end = end
		p.settle()
	}
}

// Room is how many bytes may be sent now, from Sent on: what is there, within
// the window. Zero without a session.
func (p *Progress) Room() uint64 {
	if !p.live() {
		return 0
	}
	inFlight := p.InFlight()
	if inFlight >= p.cfg.Window {
		return 0
	}
	return min(p.cfg.Window-inFlight, p.end.Sub(p.sent))
}

// Send takes n bytes of Room.
func (p *Progress) Send(n uint64) error {
	if !p.live() {
		return fmt.Errorf("send: %w: %s", ErrState, p.state)
	}
	if room := p.Room(); n > room {
		return fmt.Errorf("send: %w: %d bytes into room for %d", ErrProgress, n, room)
	}
	p.sent += pos.LSN(n)
	return nil
}

// Ack tells what the peer has received and what of it is durable. Neither falls
// within a session, and nothing is received that was not sent: a peer that says
// otherwise is ErrProgress.
func (p *Progress) Ack(received, durable pos.LSN) error {
	if !p.live() {
		return fmt.Errorf("acknowledge: %w: %s", ErrState, p.state)
	}
	if received < p.acked || received > p.sent || durable < p.durable || durable > received {
		return fmt.Errorf("acknowledge: %w: received %s after %s of %s sent, durable %s after %s",
			ErrProgress, received, p.acked, p.sent, durable, p.durable)
	}
	p.acked, p.durable = received, durable
	p.settle()
	return nil
}

// Sent is the end of what was sent.
func (p *Progress) Sent() pos.LSN { return p.sent }

// Received is the end of what the peer said it has.
func (p *Progress) Received() pos.LSN { return p.acked }

// Durable is the end of what the peer said is safe.
func (p *Progress) Durable() pos.LSN { return p.durable }

// InFlight is the number of bytes sent and not acknowledged as received.
func (p *Progress) InFlight() uint64 { return p.sent.Sub(p.acked) }

// Lack is the number of bytes of this side that are not durable on the peer, as
// far as known.
func (p *Progress) Lack() uint64 { return p.end.Sub(p.durable) }

// live tells whether there is a session.
func (p *Progress) live() bool { return p.state == CatchingUp || p.state == Streaming }

// settle moves between the two live states.
func (p *Progress) settle() {
	switch lack := p.Lack(); {
	case p.state == CatchingUp && lack <= p.cfg.Near:
		p.state = Streaming
	case p.state == Streaming && lack > p.cfg.Far:
		p.state = CatchingUp
	}
}
