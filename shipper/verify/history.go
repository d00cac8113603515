package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/shipper/archive"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// proveHistories compares the histories with what is known.
func (p *logProver) proveHistories(ctx context.Context) error {
	there := map[pos.Timeline]bool{}
	slices.Sort(p.histories)
	for _, key := range p.histories {
		w, _ := p.root.ParseWAL(key, p.want.SegSize)
		there[w.Timeline] = true
		b, err := p.readSmall(ctx, key, maxHistory)
		switch {
		case errors.Is(err, location.ErrNotExist):
			there[w.Timeline] = false
			continue
		case err != nil && !wrong(err):
			if p.lost(ctx, key, err) {
				return err
			}
			continue
		case err == nil:
			if f, ok := p.judgeHistory(w.Timeline, b); !ok {
				f.Object = key
				p.find(f)
				continue
			}
		default:
			p.find(Finding{Object: key, Kind: Damaged, What: err.Error(), At: -1})
			continue
		}
		p.proven(int64(len(b)), 0)
	}
	var needed []pos.Timeline
	for _, st := range p.want.Stretches {
		if t := st.Timeline; len(p.want.Histories[t]) > 0 && !there[t] && !slices.Contains(needed, t) {
			needed = append(needed, t)
			p.find(Finding{Object: p.root.History(t), Kind: Missing, What: fmt.Sprintf("is missing, and without it timeline %d cannot be followed", t), At: -1})
		}
	}
	return nil
}

// judgeHistory compares a history with what is known of its timeline.
func (p *logProver) judgeHistory(t pos.Timeline, b []byte) (Finding, bool) {
	lines, err := archive.ParseHistory(b)
	if err != nil {
		return Finding{Kind: Damaged, What: err.Error(), At: -1}, false
	}
	want, known := p.want.Histories[t]
	altered := string(archive.RenderHistory(lines)) != string(b)
	if known && len(lines) != len(want) {
		return Finding{Kind: Foreign, What: fmt.Sprintf("names %d ancestors, timeline %d has %d", len(lines), t, len(want)), At: -1}, false
	}
	for i, l := range lines {
		if !known {
			break
		}
		if w := want[i]; l.Timeline != w.Timeline || l.End != w.End {
			return Finding{Kind: Foreign, What: fmt.Sprintf("leaves timeline %d at %s, but it was left by %d at %s", l.Timeline, l.End, w.Timeline, w.End), At: -1}, false
		}
		altered = altered || want[i].Reason != "" && want[i].Reason != l.Reason
	}
	if altered {
		return Finding{Kind: Altered, What: "has another wording than was written; PostgreSQL reads the same in it", At: -1}, false
	}
	return Finding{}, true
}
