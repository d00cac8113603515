package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/shipper/tunnel"
)

// tunnelIdle bounds a silent connection of pg_rewind, which reads its own log
// and directory for minutes.
const tunnelIdle = 15 * time.Minute

// Rewind rewinds the stopped database to the primary's history, through a
// tunnel to its server.
func (p *plane) Rewind(ctx context.Context, l pos.Lineage) error {
	n := p.n
	st := n.ledger.State()
	m, ok := st.Members[st.Primary.Store]
	if !ok || st.Primary.Phase != facts.PhaseOpened {
		return errors.New("no primary is open to be rewound to")
	}
	dir := filepath.Join(n.cfg.RunDir, "tunnel")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- tunnel.Listen(ctx, tunnel.ListenConfig{
			Socket:    filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", walPort)),
			AllowUIDs: []uint32{n.server.Account.UID, uint32(os.Geteuid())},
			Dial: func(ctx context.Context) (net.Conn, error) {
				return shipper.Dial(ctx, n.net, m.Address, m.Name, shipper.PurposeTunnel)
			},
			Ready: func() { close(ready) }, Logger: n.log,
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		return fmt.Errorf("listen for pg_rewind: %w", err)
	}
	keep := map[pos.Timeline]bool{}
	for _, e := range l {
		keep[e.Timeline] = true
	}
	err := n.server.Rewind(ctx, pgctl.RewindSpec{SourceSocketDir: dir, SourcePort: walPort, Keep: keep,
		Log: func(line string) { n.log.Info("pg_rewind", "says", line) }})
	cancel()
	<-done
	return err
}

// toPrimary carries the connection with which the local standby reads the
// primary's logical slots (sync_replication_slots) to the primary's server.
func (n *Node) toPrimary(ctx context.Context, startup *pgproto3.StartupMessage, c net.Conn) error {
	packet, err := startup.Encode(nil)
	if err != nil {
		return fmt.Errorf("pass the startup message on: %w", err)
	}
	return tunnel.Forward(ctx, c, packet, func(ctx context.Context) (net.Conn, error) {
		st := n.ledger.State()
		m, ok := st.Members[st.Primary.Store]
		if !ok || st.Primary.Phase != facts.PhaseOpened || m.Store == n.spool.Store() {
			return nil, errors.New("no primary is open whose slots could be read")
		}
		return shipper.Dial(ctx, n.net, m.Address, m.Name, shipper.PurposeTunnel)
	})
}

// serveTunnel lets a returning node's pg_rewind, or a standby that keeps slots
// like ours, read from this node's server, as a role that may read files and
// what everybody may see.
func (n *Node) serveTunnel(ctx context.Context, c net.Conn, peer link.Peer) error {
	if n.server == nil {
		return fmt.Errorf("%s asks for a server, but this node has none", peer.Node)
	}
	select {
	case n.tunnels <- struct{}{}:
		defer func() { <-n.tunnels }()
	default:
		return fmt.Errorf("%s asks for more than %d connections to the server", peer.Node, cap(n.tunnels))
	}
	return tunnel.Serve(ctx, c, tunnel.ServeConfig{
		Target: filepath.Join(n.cfg.PGSocketDir(), fmt.Sprintf(".s.PGSQL.%d", n.cfg.PostgreSQL.Port)),
		User:   pgctl.RewindRole, Database: "postgres", Idle: tunnelIdle,
		Before: func(ctx context.Context) error {
			st := n.ledger.State()
			if n.primaryRun() == nil || st.Primary.Store != n.spool.Store() || st.Primary.Phase != facts.PhaseOpened {
				return errors.New("this node is not the open primary")
			}
			if err := n.server.EnsureRewindRole(ctx); err != nil {
				return err
			}
			// What is read must say that this is the new timeline.
			return n.server.Checkpoint(ctx)
		},
	})
}
