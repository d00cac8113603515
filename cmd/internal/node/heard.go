package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"understudy/shipper/pos"
)

// heard is the newest committed LSN as it was written down.
type heard struct {
	LSN pos.LSN   `json:"lsn"`
	At  time.Time `json:"at"`
	All bool      `json:"all,omitempty"` // nothing beyond was acknowledged here
}

func (p *plane) heardPath() string { return filepath.Join(p.n.cfg.StateDir, "committed.json") }

// Heard is the highest committed LSN that this node has heard of, in this life
// or, of the same history, in an earlier one.
func (p *plane) Heard() pos.LSN {
	now := p.nowHeard()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.heard.At.IsZero() {
		b, err := os.ReadFile(p.heardPath())
		if err == nil {
			err = json.Unmarshal(b, &p.heard)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.n.log.Warn("read the committed position", "error", err)
		}
		p.heard.At = time.Now()
	}
	return max(p.heard.LSN, now)
}

func (p *plane) nowHeard() pos.LSN {
	if run := p.n.primaryRun(); run != nil {
		return run.Committed()
	}
	return p.n.receiver.Heard()
}

// noteHeard replaces what was heard: by what a primary that ends had counted,
// or by nothing when another one begins to tell.
func (p *plane) noteHeard(l pos.LSN) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = heard{LSN: l, At: time.Now()}
}

// heardAll notes, durably, that this node acknowledged nothing beyond l.
func (p *plane) heardAll(l pos.LSN) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = heard{LSN: l, At: time.Now(), All: true}
	b, err := json.Marshal(p.heard)
	if err != nil {
		return err
	}
	return writeWhole(p.heardPath(), b)
}

// HeardAll tells whether nothing beyond Heard was acknowledged by this node.
func (p *plane) HeardAll() bool {
	now := p.Heard()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.All && p.heard.LSN == now
}

// keepHeard writes the committed position down, so that a loss can be measured
// by it. It is a witness for people; no decision rests on it.
func (p *plane) keepHeard(last bool) {
	now := p.Heard()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now == p.heard.LSN && !last {
		return
	}
	p.heard = heard{LSN: now, At: time.Now(), All: p.heard.All && p.heard.LSN == now}
	b, err := json.Marshal(p.heard)
	if err == nil {
		tmp := p.heardPath() + ".tmp"
		if err = os.WriteFile(tmp, b, 0o600); err == nil {
			err = os.Rename(tmp, p.heardPath())
		}
	}
	if err != nil {
		p.n.log.Warn("write the committed position down", "error", err)
	}
}
