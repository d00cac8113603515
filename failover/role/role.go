// Package role says what a node must be now, given what the ledger records:
// the pure half of the agent.
package role

import (
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Kind is what the ledger wants of a node. Zero is invalid.
type Kind string

// The kinds of assignments.
const (
	// Wait: the ledger does not know this store, or there was no primary yet.
	Wait Kind = "wait"
	// Witness: take log, no database.
	Witness Kind = "witness"
	// Standby: follow, whoever is primary, or will be.
	Standby Kind = "standby"
	// Primary: this store was assigned Epoch.
	Primary Kind = "primary"
	// Hold: an epoch is being fenced and this data node was primary before it;
	// its server must not run until the ledger says how to go on.
	Hold Kind = "hold"
	// Restore: the operator ordered that the group goes back to a moment with
	// this node's database; no server of it runs meanwhile.
	Restore Kind = "restore"
)

// Assignment is what the ledger wants of one store.
type Assignment struct {
	Kind  Kind
	Epoch pos.Epoch // of a Primary or Restore; zero otherwise, so that standbys outlive epochs
}

// Assigned reads a store's assignment from the ledger. Was tells whether this
// node's database was last opened for writing by itself: such a directory must
// not be started as a standby without being rewound.
func Assigned(s facts.State, store string, was bool) Assignment {
	m, ok := s.Members[store]
	if !ok {
		return Assignment{Kind: Wait}
	}
	if m.Kind == facts.KindWitness {
		return Assignment{Kind: Witness}
	}
	p := s.Primary
	switch p.Phase {
	case facts.PhaseNone, "":
		return Assignment{Kind: Wait}
	case facts.PhaseFencing:
		if o, ok := s.Restoring(); ok && o.To == store {
			return Assignment{Kind: Restore, Epoch: p.Epoch}
		}
		if was {
			return Assignment{Kind: Hold}
		}
		return Assignment{Kind: Standby}
	}
	if p.Store == store {
		return Assignment{Kind: Primary, Epoch: p.Epoch}
	}
	if was && !Known(p) {
		return Assignment{Kind: Hold} // it is not known yet where the newer log begins
	}
	return Assignment{Kind: Standby}
}

// Fence is the epoch that a node has to promise now: the ledger's present one
// while it is above what the node has promised, or while it is being fenced
// and the node's report is not recorded. ok is false when nothing is owed.
func Fence(s facts.State, store string, promised pos.Epoch) (e pos.Epoch, ok bool) {
	if _, member := s.Members[store]; !member || s.Primary.Epoch.IsZero() {
		return pos.Epoch{}, false
	}
	e = s.Primary.Epoch
	if promised.Less(e) {
		return e, true
	}
	if s.Primary.Phase != facts.PhaseFencing {
		return pos.Epoch{}, false
	}
	_, reported := s.Primary.Fence[store]
	return e, !reported
}
