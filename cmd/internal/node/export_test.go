package node

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"

	"understudy/configs"
	"understudy/failover/decide"
	"understudy/shipper/link"
	"understudy/shipper/spool"
)

// MaxMessage is the bound of a control message in bytes.
const MaxMessage = maxMessage

// Message is a control message.
type Message = message

// Target is a node to talk to.
type Target = target

// ErrUnreached is returned when there is no connection.
var ErrUnreached = errUnreached

// WriteMessage writes one message.
func WriteMessage(w io.Writer, m Message) error { return writeMessage(w, m) }

// ReadMessage reads one message.
func ReadMessage(r io.Reader) (Message, error) { return readMessage(bufio.NewReader(r)) }

// Control is a node's end of the control streams.
type Control struct{ c *control }

// ControlConfig is what a Control does.
type ControlConfig struct {
	Self    string
	Net     link.Network
	Report  func() decide.Report
	Targets func() []Target
	Propose func(context.Context, []byte) ([]byte, error)
	Read    func(context.Context) ([]byte, error)
}

// NewControl makes a Control.
func NewControl(cfg ControlConfig) Control {
	c := newControl(cfg.Self, cfg.Net, slog.New(slog.DiscardHandler))
	c.report, c.targets, c.propose, c.read = cfg.Report, cfg.Targets, cfg.Propose, cfg.Read
	return Control{c}
}

// Run keeps the connections.
func (c Control) Run(ctx context.Context) { c.c.run(ctx) }

// Handle serves a connection.
func (c Control) Handle(ctx context.Context, conn net.Conn, p link.Peer) { c.c.handle(ctx, conn, p) }

// Reports are the newest by store.
func (c Control) Reports() map[string]decide.Heard { return c.c.reports() }

// HeardByNode are the newest of the others by name.
func (c Control) HeardByNode() map[string]decide.Heard { return c.c.heardByNode() }

// Propose forwards a command to an address.
func (c Control) Propose(ctx context.Context, addr string, cmd []byte) ([]byte, error) {
	return c.c.Propose(ctx, "", addr, cmd)
}

// Read asks an address for the state.
func (c Control) Read(ctx context.Context, addr string) ([]byte, error) {
	return c.c.Read(ctx, "", addr)
}

// OpenStore opens or renews a node's store.
func OpenStore(cfg *configs.Node, group, pgWAL string, log *slog.Logger) (*spool.Spool, error) {
	return openStore(cfg, group, pgWAL, log)
}
