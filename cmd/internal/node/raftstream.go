package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"understudy/configs"
	"understudy/failover/decide"
	"understudy/ledger/facts"
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

const (
	maxLedgerID = 64
	// greetWithin bounds the wait for the dialer's first bytes.
	greetWithin = 5 * time.Second
)

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
	c.once.Do(func() {
		if c.err = c.greet(); c.err != nil {
			c.Conn.Close()
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// greet refuses whoever names another ledger. Only a node that knows of no
// ledger takes a dialer that knows of none: one that has read back only part of
// its own state knows the id all the same.
func (c *raftConn) greet() error {
	c.Conn.SetReadDeadline(time.Now().Add(greetWithin))
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
	if own := c.own(); own != "" && string(id) != own {
		return errOtherLedger
	}
	return c.Conn.SetReadDeadline(time.Time{})
}

// ledgerName says which of a group's ledgers a node belongs to.
type ledgerName struct {
	ID         string `json:"id"`
	Generation uint32 `json:"generation"`
	// Joined: this node's ledger is that one, or part of it. A node that gave
	// way to a newer one knows its name before.
	Joined bool `json:"joined"`
}

// identity remembers the name of this node's ledger beside it, since the state
// that holds the name is read back only once a leader is there. A node that was
// left out of a new ledger is given its name before it joins, so that nobody of
// the old one can take it back.
type identity struct {
	path string

	mu   sync.Mutex
	name ledgerName
}

// identityPath is in the ledger's directory, and lives and dies with it.
func identityPath(cfg *configs.Node) string { return filepath.Join(raftDir(cfg), "name.json") }

func readIdentity(path string) (*identity, error) {
	i := &identity{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return i, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &i.name)
	}
	if err != nil {
		return nil, fmt.Errorf("read which ledger this node belongs to: %w", err)
	}
	return i, nil
}

func (i *identity) get() ledgerName {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.name
}

// set makes n the name, durably.
func (i *identity) set(n ledgerName) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.name == n {
		return nil
	}
	if err := writeName(i.path, n); err != nil {
		return err
	}
	i.name = n
	return nil
}

func writeName(path string, n ledgerName) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return writeWhole(path, append(b, '\n'))
}

// nameOf is the ledger of a state; zero for a node that belongs to none.
func nameOf(st facts.State) ledgerName {
	return ledgerName{ID: st.Group.LedgerID, Generation: st.Primary.Epoch.Gen, Joined: true}
}

// ledgerID is the id of this node's ledger, "" while it knows of none.
func (n *Node) ledgerID() string { return n.named.get().ID }

// keepName remembers the ledger's name as soon as it is known.
func (n *Node) keepName() {
	st := n.ledger.State()
	if !st.Founded() {
		return
	}
	if err := n.named.set(nameOf(st)); err != nil {
		n.log.Warn("remember which ledger this node belongs to", "error", err)
	}
}

// reports are the newest of the nodes that may have a say in this ledger, by
// store. What a node of another ledger says of itself counts for nothing here:
// its store may be known, but it is no longer the member of that name.
func (n *Node) reports() map[string]decide.Heard {
	all := n.control.reports()
	own := n.ledgerID()
	for s, h := range all {
		if own != "" && h.Report.Ledger != "" && h.Report.Ledger != own {
			delete(all, s)
		}
	}
	return all
}
