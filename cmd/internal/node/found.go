package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"understudy/configs"
	"understudy/failover"
	"understudy/failover/pgctl"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/link"
	"understudy/shipper/pos"
)

// ErrFounded is returned by Found for a node that belongs to a group already.
var ErrFounded = errors.New("this node belongs to a group already")

// Found makes a new group with this node as its first member: it makes the
// database (initdb) when the data directory is empty, the store, and the
// ledger with its first facts. The daemon must not run. It refuses a directory
// that holds anything but an empty data directory, with nothing changed. A zero
// policy is the default one.
func Found(ctx context.Context, cfg *configs.Node, policy facts.Policy, log *slog.Logger) error {
	n, err := founder(cfg, log)
	if err != nil {
		return err
	}
	state, err := n.server.State()
	if err != nil {
		return err
	}
	if state != pgctl.Empty {
		return fmt.Errorf("%s: postgresql.data_dir %s is not empty (%s); name an empty directory, or found the group with what is there: init --adopt", cfg.File(), n.server.DataDir, state)
	}
	if err := n.directories(); err != nil {
		return err
	}
	if err := n.server.InitDB(ctx, cfg.PostgreSQL.Superuser); err != nil {
		return fmt.Errorf("make the database: %w", err)
	}
	return n.found(ctx, policy, nil)
}

// founder is a node that is about to found a group; nothing is changed for it.
func founder(cfg *configs.Node, log *slog.Logger) (*Node, error) {
	if cfg.PostgreSQL == nil {
		return nil, fmt.Errorf("%s: a witness cannot found a group; run init on the node that will be the first primary", cfg.File())
	}
	creds, err := link.LoadIdentity(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA)
	if err != nil {
		return nil, err
	}
	server, err := newServer(cfg, log)
	if err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, server: server, log: log, creds: creds}, nil
}

// found makes the store and the ledger of a group with the database in the data
// directory, whose history before the group is past.
func (n *Node) found(ctx context.Context, policy facts.Policy, past pos.Lineage) error {
	cfg, group := n.cfg, n.creds.Identity().Group
	control, err := n.server.Control(ctx)
	if err != nil {
		return err
	}
	if err := failover.MarkOwn(cfg.StateDir, past); err != nil {
		return err
	}
	sp, err := openStore(cfg, group, "", n.log)
	if err != nil {
		return err
	}
	defer sp.Close()
	l, err := ledger.Open(ledger.Config{Dir: raftDir(cfg), Store: sp.Store(), Advertise: cfg.Advertise, Stream: newSilent(cfg.Advertise), Log: n.log})
	if err != nil {
		return err
	}
	defer l.Close()
	if l.State().Founded() {
		return fmt.Errorf("%s: %w", cfg.File(), ErrFounded)
	}
	now := time.Now().UTC()
	return l.Found(ctx, facts.Found{
		Group: facts.Group{ID: group, Name: cfg.Group, LedgerID: randomID(), SystemID: control.SystemID,
			PGMajor: n.server.Major, SegSize: control.SegSize, FoundedAt: now},
		Member:  facts.Member{Name: cfg.Name, Store: sp.Store(), Kind: facts.KindData, Address: cfg.Advertise, HTTP: n.httpAddr(), JoinedAt: now},
		Policy:  policy,
		Lineage: past,
	})
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// silent is the transport of a ledger of one: nobody is reached, nobody comes.
type silent struct {
	addr net.Addr
	done chan struct{}
}

func newSilent(addr string) *silent {
	return &silent{addr: textAddr(addr), done: make(chan struct{})}
}

type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }

// Accept blocks until Close.
func (s *silent) Accept() (net.Conn, error) {
	<-s.done
	return nil, net.ErrClosed
}

// Close ends Accept.
func (s *silent) Close() error { close(s.done); return nil }

// Addr is the advertised address.
func (s *silent) Addr() net.Addr { return s.addr }

// Dial reaches nobody.
func (s *silent) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errors.New("a group of one has no peers")
}
