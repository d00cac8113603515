package node

import (
	"encoding/json"
	"net"

	"understudy/configs"
	"understudy/ledger/facts"
)

// OrderReform writes the order to form the group anew.
func OrderReform(cfg *configs.Node, old facts.State, id string) error {
	b, err := json.Marshal(reformation{State: old, LedgerID: id, Statement: "yes"})
	if err != nil {
		return err
	}
	return writeWhole(reformFile(cfg), b)
}

// OrderRenewal writes the order to begin with a new store for a ledger.
func OrderRenewal(cfg *configs.Node, joins string) error {
	b, err := json.Marshal(renewal{Why: "test", Joins: ledgerName{ID: joins, Generation: 2, Joined: true}})
	if err != nil {
		return err
	}
	return writeWhole(renewFile(cfg), b)
}

// LedgerName is the name of a node's ledger as its directory holds it.
func LedgerName(cfg *configs.Node) (id string, generation uint32, joined bool, err error) {
	i, err := readIdentity(identityPath(cfg))
	if err != nil {
		return "", 0, false, err
	}
	n := i.get()
	return n.ID, n.Generation, n.Joined, nil
}

// RaftConn is an accepted connection of Raft of a node of ledger own.
func RaftConn(c net.Conn, own string) net.Conn {
	return &raftConn{Conn: c, own: func() string { return own }}
}

// ErrOtherLedger ends a connection between nodes of different ledgers.
var ErrOtherLedger = errOtherLedger
