package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"understudy/shipper/link"
)

// raftStream is Raft's transport over the link. Every connection begins with
// the dialer's ledger id: two ledgers of one group, after a group was formed
// anew, must never take each other's entries.
type raftStream struct {
	net.Listener
	net link.Network
	id  func() string // of the own ledger, "" while it is not known
}

const maxLedgerID = 64

// errOtherLedger ends a connection between nodes of different ledgers.
var errOtherLedger = errors.New("the other node has another ledger")

// Dial connects to another node's ledger.
func (s *raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, _, err := s.net.Dial(ctx, string(addr), link.Ledger, "")
	if err != nil {
		return nil, err
	}
	id := s.id()
	if len(id) > maxLedgerID {
		c.Close()
		return nil, fmt.Errorf("ledger id of %d bytes", len(id))
	}
	c.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := c.Write(append([]byte{byte(len(id))}, id...)); err != nil {
		c.Close()
		return nil, err
	}
	c.SetWriteDeadline(time.Time{})
	return c, nil
}

// Accept waits for another node; its ledger is looked at when it first speaks.
func (s *raftStream) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &raftConn{Conn: c, own: s.id}, nil
}

// raftConn reads the dialer's ledger id before anything else.
type raftConn struct {
	net.Conn
	own  func() string
	once sync.Once
	err  error
}

func (c *raftConn) Read(p []byte) (int, error) {
	c.once.Do(func() { c.err = c.greet() })
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

func (c *raftConn) greet() error {
	var n [1]byte
	if _, err := io.ReadFull(c.Conn, n[:]); err != nil {
		return err
	}
	if n[0] > maxLedgerID {
		return errOtherLedger
	}
	id := make([]byte, n[0])
	if _, err := io.ReadFull(c.Conn, id); err != nil {
		return err
	}
	if own := c.own(); own != "" && len(id) > 0 && string(id) != own {
		c.Conn.Close()
		return errOtherLedger
	}
	return nil
}

// ledgerID is the id of this node's ledger, "" while it knows of none.
func (n *Node) ledgerID() string {
	if n.ledger == nil {
		return ""
	}
	return n.ledger.State().Group.LedgerID
}
