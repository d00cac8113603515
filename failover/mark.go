package failover

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// The mark of a data directory that was opened for writing here.

type primaryMark struct {
	Epoch    pos.Epoch    `json:"epoch"`
	Timeline pos.Timeline `json:"timeline"`
	Start    pos.LSN      `json:"start"`
	// Lineage is the history of the directory's log, for the day on which the
	// store is a new one.
	Lineage pos.Lineage `json:"lineage"`
	// Given is the store that vouched for the directory's own log, when that was
	// given up for a restore of the group: it can vouch for nothing any more.
	Given string `json:"given,omitempty"`
}

func (a *Agent) markPath() string { return filepath.Join(a.cfg.StateDir, "primary.json") }

// wasPrimary tells whether this node's database was last elected or opened for
// writing by this node.
func (a *Agent) wasPrimary() bool { return a.marked.Load() }

// Returning says why this node takes no stream: its own log may have left the
// group's history. Empty when it does take one.
func (a *Agent) Returning() string {
	if a.cfg.Witness || a.spoolOnly.Load() {
		return ""
	}
	if a.GivenUp() {
		return a.cfg.Name + " gave its own log up for a restore of the group"
	}
	state, err := a.cfg.Server.State()
	switch {
	case err == nil && state == pgctl.Rewinding:
		return a.cfg.Name + " is being rewound, and takes a stream again when that is done"
	case err != nil || state != pgctl.Cluster || !a.wasPrimary():
		return "" // when it is seeded anew, nothing of the old log counts
	}
	return a.cfg.Name + " was primary and has not come back into the group's history yet"
}

func (a *Agent) readMark() primaryMark {
	var m primaryMark
	b, err := os.ReadFile(a.markPath())
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("read the mark of the directory", "error", err)
	}
	return m
}

// endSpoolOnly ends, durably, that this node speaks for its received log
// although its directory had one of its own.
func (a *Agent) endSpoolOnly() error {
	if !a.spoolOnly.Load() {
		return nil
	}
	cb := *a.loadComeback()
	cb.Spool = false
	return a.saveComeback(&cb)
}

// mark makes it durable that the directory is about to hold what only this
// node may hold.
func (a *Agent) mark(m primaryMark) error {
	// From now on this node speaks for the directory's log again.
	if err := a.endSpoolOnly(); err != nil {
		return err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := writeDurably(a.markPath(), append(b, '\n')); err != nil {
		return err
	}
	a.marked.Store(true)
	a.markedFor.Store(&m.Epoch)
	return nil
}

// Followed is what of a history the local standby is shown: not the timeline
// that its own promotion begins. It would take that id for used, and go to the
// next one.
func (a *Agent) Followed(l pos.Lineage) pos.Lineage {
	e := a.markedFor.Load()
	if e == nil || e.IsZero() {
		return l
	}
	n := 0
	for n < len(l) && l[n].Epoch.Less(*e) {
		n++
	}
	return l[:n]
}

// unmark forgets it, when the directory is of the group's history again.
func (a *Agent) unmark() error {
	if err := a.removeMark(); err != nil {
		return err
	}
	return a.endSpoolOnly()
}

func (a *Agent) removeMark() error {
	if err := os.Remove(a.markPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(a.cfg.StateDir); err != nil {
		return err
	}
	a.marked.Store(false)
	a.markedFor.Store(nil) // it follows what others began
	return nil
}

func writeDurably(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Marked tells whether the node's database was last elected or opened for
// writing by itself.
func Marked(stateDir string) bool {
	_, err := os.Stat((&Agent{cfg: AgentConfig{StateDir: stateDir}}).markPath())
	return err == nil
}

// MarkOwn marks the database that founds a group as this node's own: it will be
// opened here first, and never started as a standby before that. The history of
// one that is older than the group is l; that of a new one is empty.
func MarkOwn(stateDir string, l pos.Lineage) error {
	a := &Agent{cfg: AgentConfig{StateDir: stateDir}}
	return a.mark(primaryMark{Lineage: l})
}
