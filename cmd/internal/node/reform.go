package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"understudy/configs"
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
}

func reformFile(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "reform.json") }

// reformedMark is in a ledger directory that was made for a reformation.
const reformedMark = "reformed"

// beginReform writes the order down and ends this life.
func (n *Node) beginReform(statement string) error {
	r := reformation{State: n.ledger.State(), LedgerID: randomID(), Statement: statement, At: time.Now().UTC()}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	path := reformFile(n.cfg)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	if err := syncFile(path + ".tmp"); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	if err := syncFile(n.cfg.StateDir); err != nil {
		return err
	}
	n.notify("reform", facts.SeverityError, "the group is formed anew with "+n.cfg.Name+" alone on the operator's word", r.State.Primary.Epoch)
	n.later(ErrRenew)
	return nil
}

// clearForReform replaces the ledger's files by empty ones of the same store
// when a reformation is under way.
func clearForReform(cfg *configs.Node) error {
	if _, err := os.Stat(reformFile(cfg)); err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(raftDir(cfg), reformedMark)); err == nil {
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
	for name, text := range map[string]string{"store": m.Store, reformedMark: "by the operator's word"} {
		path := filepath.Join(fresh, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			return err
		}
		if err := syncFile(path); err != nil {
			return err
		}
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
	b, err := os.ReadFile(reformFile(n.cfg))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the order to form the group anew: %w", err)
	}
	var r reformation
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s is damaged: %w", reformFile(n.cfg), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !n.ledger.State().Founded() {
		rep, err := n.agent.FenceReport(ctx, r.State.NextGeneration())
		if err != nil {
			return fmt.Errorf("fence for the new ledger: %w", err)
		}
		err = n.ledger.Reform(ctx, facts.Reform{Old: r.State, Store: n.spool.Store(), LedgerID: r.LedgerID, Statement: r.Statement, Fence: rep, At: r.At})
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

// yield gives this node's ledger up when a peer of the same group has a newer
// one: the group was formed anew without this node, which joins as a new one.
func (n *Node) yield() {
	st := n.ledger.State()
	if !st.Founded() {
		return
	}
	for _, h := range n.control.heardByNode() {
		r := h.Report
		if time.Since(h.At) > time.Second || r.Ledger == "" || r.Ledger == st.Group.LedgerID || r.Generation <= st.Primary.Epoch.Gen {
			continue
		}
		why := fmt.Sprintf("%s belongs to a newer ledger of this group, formed anew by an operator", r.Node)
		n.notify("superseded", facts.SeverityError, why+"; this node's server stops and it joins as a new one", st.Primary.Epoch)
		n.agent.StopNow()
		if err := os.WriteFile(renewFile(n.cfg), []byte(why+"\n"), 0o600); err != nil {
			n.log.Error("give the old store up", "error", err)
			return
		}
		n.later(ErrRenew)
		return
	}
}
