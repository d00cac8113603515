package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"understudy/cmd/internal/adopt"
	"understudy/configs"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/spool"
)

// adoptFile stands in state_dir from the first change of an adoption to its end:
// a daemon must not work on what is neither a group's nor as it was.
func adoptFile(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "adopt.json") }

// adoption is its content.
type adoption struct {
	SystemID uint64    `json:"system_id,string"`
	Began    time.Time `json:"began"`
}

// readAdoption is an adoption that did not come to its end; nil for none.
func readAdoption(cfg *configs.Node) (*adoption, error) {
	b, err := os.ReadFile(adoptFile(cfg))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how far init --adopt came: %w", err)
	}
	a := &adoption{}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("%s is damaged; remove it and repeat init --adopt: %w", adoptFile(cfg), err)
	}
	return a, nil
}

// checkAdoption refuses to run a daemon beside an adoption that was cut off.
func checkAdoption(cfg *configs.Node) error {
	a, err := readAdoption(cfg)
	if err == nil && a != nil {
		err = fmt.Errorf("%s: init --adopt was interrupted here at %s; repeat it first", cfg.File(), a.Began.Format(time.RFC3339))
	}
	return err
}

// Adoption says what founding a group on the database of the node's data
// directory would do. Nothing is changed. What must not be done wraps
// adopt.ErrRefused or ErrFounded.
func Adoption(ctx context.Context, cfg *configs.Node, o adopt.Options, log *slog.Logger) (adopt.Plan, error) {
	n, err := founder(cfg, log)
	if err != nil {
		return adopt.Plan{}, err
	}
	if err := n.checkGroup(); err != nil {
		return adopt.Plan{}, err
	}
	began, err := readAdoption(cfg)
	if err != nil {
		return adopt.Plan{}, err
	}
	if began == nil && hasStore(cfg) {
		return adopt.Plan{}, fmt.Errorf("%s: %w: its state is in %s; start its daemon, or, if its group is gone for good, move that directory away", cfg.File(), ErrFounded, cfg.StateDir)
	}
	p, err := adopt.Look(ctx, cfg, n.server, o)
	if err == nil && began != nil && began.SystemID != p.SystemID {
		err = fmt.Errorf("%w: an adoption of the database with system identifier %d was interrupted here, and %s holds %d; bring that database back, or move %s away",
			adopt.ErrRefused, began.SystemID, p.DataDir, p.SystemID, cfg.StateDir)
	}
	return p, err
}

// hasStore tells whether anything of a node's store is here.
func hasStore(cfg *configs.Node) bool {
	_, err := spool.Peek(spoolDir(cfg))
	_, rerr := os.Stat(raftDir(cfg))
	return !errors.Is(err, spool.ErrNoStore) || !errors.Is(rerr, os.ErrNotExist)
}

// Adopt founds a group on the database that p describes. The daemon must not
// run. When it is cut off it is repeated with a new plan, and goes on.
func Adopt(ctx context.Context, cfg *configs.Node, policy facts.Policy, p adopt.Plan, log *slog.Logger) error {
	return adoptBy(ctx, cfg, policy, p, log, func(string) error { return nil })
}

// adoptBy is Adopt with a step that is called after each change, for tests that
// end it there.
func adoptBy(ctx context.Context, cfg *configs.Node, policy facts.Policy, p adopt.Plan, log *slog.Logger, step func(name string) error) error {
	n, err := founder(cfg, log)
	if err != nil {
		return err
	}
	if err := n.directories(); err != nil {
		return err
	}
	lock, err := takeLock(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"noted", func() error { return noteAdoption(cfg, p) }},
		{"founding", func() error { return n.server.Founding(p.Superuser) }},
		{"prepared", func() error { return p.Prepare(n.server) }},
		{"founded", func() error { return n.foundOnce(ctx, policy, p) }},
		{"ended", func() error { return errors.Join(os.Remove(adoptFile(cfg)), syncFile(cfg.StateDir)) }},
	} {
		if err := s.do(); err != nil {
			return err
		}
		if err := step(s.name); err != nil {
			return err
		}
	}
	return nil
}

func noteAdoption(cfg *configs.Node, p adopt.Plan) error {
	b, err := json.Marshal(adoption{SystemID: p.SystemID, Began: time.Now().UTC()})
	if err != nil {
		return err
	}
	return writeWhole(adoptFile(cfg), append(b, '\n'))
}

// foundOnce makes the store and the ledger; that an earlier call came so far is
// fine.
func (n *Node) foundOnce(ctx context.Context, policy facts.Policy, p adopt.Plan) error {
	err := n.found(ctx, policy, p.Lineage)
	var no *ledger.RefusedError
	if errors.Is(err, ErrFounded) || errors.As(err, &no) && no.Code == facts.CodeAlreadyFounded {
		return nil
	}
	return err
}
