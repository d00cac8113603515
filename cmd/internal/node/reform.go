package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/configs"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/spool"
)

// A group is formed anew in two lives of the daemon. The first writes down what
// the operator confirmed and what the old ledger said; the second finds that,
// puts the old ledger aside, and begins a new one with it. Each step can be
// repeated, and until the new ledger exists the old one is whole.

// reformation is what the first life leaves to the second.
type reformation struct {
	State     facts.State `json:"state"`
	LedgerID  string      `json:"ledger_id"`
	Statement string      `json:"statement"`
	At        time.Time   `json:"at"`
	// Restored: this node goes on with a database that was restored.
	Restored *facts.Restored `json:"restored,omitempty"`
}

func reformFile(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "reform.json") }

// reformedMark is in a ledger directory that was made for a reformation, and
// holds the id of its ledger: a node may be formed anew more than once.
const reformedMark = "reformed"

// beginReform writes the order down and ends this life.
func (n *Node) beginReform(statement string) error {
	r := reformation{State: n.known(), LedgerID: randomID(), Statement: statement, At: time.Now().UTC()}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	if err := writeWhole(reformFile(n.cfg), b); err != nil {
		return err
	}
	n.notify("reform", facts.SeverityError, "the group is formed anew with "+n.cfg.Name+" alone on the operator's word", r.State.Primary.Epoch)
	n.later(errRenewKeep)
	return nil
}

// writeWhole writes a file so that it is there whole or not at all.
func writeWhole(path string, b []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	if err := syncFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// readReform is the standing order to form the group anew, nil when there is
// none.
func readReform(cfg *configs.Node) (*reformation, error) {
	b, err := os.ReadFile(reformFile(cfg))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the order to form the group anew: %w", err)
	}
	r := &reformation{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s is damaged; give the order again after removing it: %w", reformFile(cfg), err)
	}
	return r, nil
}

// clearForReform replaces the ledger's files by empty ones of the same store
// when a reformation is under way.
func clearForReform(cfg *configs.Node) error {
	r, err := readReform(cfg)
	if r == nil || err != nil {
		return err
	}
	mark, err := os.ReadFile(filepath.Join(raftDir(cfg), reformedMark))
	if err == nil && strings.TrimSpace(string(mark)) == r.LedgerID {
		return nil
	}
	m, err := spool.Peek(spoolDir(cfg))
	if err != nil {
		return err
	}
	fresh := raftDir(cfg) + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{filepath.Base(idFile(cfg)): m.Store, reformedMark: r.LedgerID} {
		if err := writeWhole(filepath.Join(fresh, name), []byte(text+"\n")); err != nil {
			return err
		}
	}
	name := ledgerName{ID: r.LedgerID, Generation: r.State.NextGeneration().Gen, Joined: true}
	if err := writeName(filepath.Join(fresh, filepath.Base(identityPath(cfg))), name); err != nil {
		return err
	}
	aside := filepath.Join(cfg.StateDir, "ledger-before-"+time.Now().UTC().Format("20060102T150405.000"))
	if err := os.Rename(raftDir(cfg), aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, raftDir(cfg)); err != nil {
		return err
	}
	return syncFile(cfg.StateDir)
}

// finishReform begins the new ledger with what the old one said.
func (n *Node) finishReform() error {
	r, err := readReform(n.cfg)
	if r == nil || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !n.ledger.State().Founded() {
		if err := n.takeRestored(ctx, r); err != nil {
			return fmt.Errorf("take the restored database: %w", err)
		}
		rep, err := n.agent.FenceReport(ctx, r.State.NextGeneration())
		if err != nil {
			return fmt.Errorf("fence for the new ledger: %w", err)
		}
		err = n.ledger.Reform(ctx, facts.Reform{Old: r.State, Store: n.spool.Store(), LedgerID: r.LedgerID, Statement: r.Statement, Fence: rep, Restored: r.Restored, At: r.At})
		var refused *ledger.RefusedError
		if err != nil && !(errors.As(err, &refused) && refused.Code == facts.CodeAlreadyFounded) {
			return err
		}
	}
	n.log.Warn("the group was formed anew", "ledger", r.LedgerID, "node", n.cfg.Name)
	if err := os.Remove(reformFile(n.cfg)); err != nil {
		return err
	}
	return syncFile(n.cfg.StateDir)
}

// rivalText is what two halves say that were both made primary by force.
const rivalText = "%s and %s were each made primary by force, in groups of their own; stop the daemon of the one whose writes are given up, empty its state_dir and its postgresql.data_dir, and start it again"

// readBack is how long a ledger of one node, or of some, takes to elect a leader
// and to read its state back after a start.
const readBack = 5 * time.Second

// yield gives this node's ledger up when a peer of the same group has a newer
// one: the group was formed anew without this node, which joins as a new one.
func (n *Node) yield() {
	own, rival := n.named.get(), ""
	defer func() { n.setRival(rival) }()
	for _, h := range n.control.heardByNode() {
		r := h.Report
		if own.ID == "" || time.Since(h.At) > time.Second || r.Ledger == "" || r.Ledger == own.ID || r.Generation < own.Generation {
			continue
		}
		if r.Generation == own.Generation {
			rival = fmt.Sprintf(rivalText, n.cfg.Name, r.Node)
			continue
		}
		newer := ledgerName{ID: r.Ledger, Generation: r.Generation}
		if !own.Joined { // nothing of the one it was to join is here
			if err := n.named.set(newer); err != nil {
				n.log.Warn("remember which ledger this node joins", "error", err)
			}
			return
		}
		st := n.ledger.State()
		if !st.Founded() && time.Since(n.began) < readBack {
			return // a moment more, and it is known what this node was in it
		}
		n.giveWay(st, newer, r)
		return
	}
}

func (n *Node) setRival(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rival = text
}

// giveWay stops this node's server, first of all, and begins anew as a node of
// a newer ledger.
func (n *Node) giveWay(st facts.State, newer ledgerName, peer decide.Report) {
	why := fmt.Sprintf("%s belongs to a newer ledger of this group, formed anew by an operator", peer.Node)
	n.Stop(errGaveWay) // nothing starts any more
	n.agent.StopNow()
	n.notify("superseded", facts.SeverityError, why+"; the server of "+n.cfg.Name+" is stopped, and it joins as a new node", st.Primary.Epoch)
	if err := n.boundAcked(st, peer.Store); err != nil {
		n.log.Warn("note how far this node has acknowledged commits", "error", err)
	}
	if err := n.renew(renewal{Why: why, Joins: newer}); err != nil {
		n.log.Error("give the old store up", "error", err)
	}
}

// boundAcked notes what this node, if it was the primary, has acknowledged at
// most, where the old ledger's voters tell: everything that it wrote when it
// went on alone, and nothing that the survivor lacks when it needed that one.
func (n *Node) boundAcked(st facts.State, survivor string) error {
	self, v := n.spool.Store(), st.Voters.Stores
	if st.Primary.Previous != self || !slices.Contains(v, self) {
		return nil
	}
	switch {
	case len(v) == 1:
		end, err := n.agent.OwnEnd(context.Background())
		if err != nil {
			return err
		}
		return n.plane.heardAll(end)
	case len(v) == 2 && slices.Contains(v, survivor):
		return n.plane.heardAll(n.plane.Heard())
	}
	return nil
}

// renewal asks the next start for a new store.
type renewal struct {
	Why   string     `json:"why"`
	Joins ledgerName `json:"joins"` // the ledger that the new store belongs to
}

func (n *Node) renew(r renewal) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeWhole(renewFile(n.cfg), append(b, '\n'))
}

// readRenewal is the order to begin with a new store, nil when there is none.
func readRenewal(cfg *configs.Node) (*renewal, error) {
	b, err := os.ReadFile(renewFile(cfg))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read why this node begins anew: %w", err)
	}
	r := &renewal{}
	if json.Unmarshal(b, r) != nil {
		r.Why = strings.TrimSpace(string(b)) // it is an order whatever it says
	}
	return r, nil
}
