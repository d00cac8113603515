package backup

import (
	"context"
	"fmt"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/pagesum"
)

// looks is how often a suspect page is looked at again.
const looks = 3

// recheck separates pages that are damaged from those that were being written
// when the copy read them: such a page has a right checksum a moment later,
// and the log of the backup holds it whole.
func (r *run) recheck(ctx context.Context) error {
	list := r.line.suspects
	beyond := r.line.suspectN - len(list)
	if len(list) == 0 {
		return nil
	}
	r.step.Store(StepRecheck)
	list, err := r.lookAgain(ctx, list)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.warn("suspect pages could not be looked at again: " + err.Error())
		list = certain(list)
	}
	for _, s := range list[:min(len(list), backupset.MaxDamage)] {
		r.set.Damage = append(r.set.Damage, backupset.Damage{Path: s.path, Block: uint32(s.offset / int64(r.server.BlockSize)), Why: s.why})
	}
	// So many that the list ended: the rest is taken for what it looked like.
	r.set.DamageN = len(list) + beyond
	if r.set.DamageN > 0 {
		r.cfg.Log.Error("the database has damaged pages", "label", r.cfg.Label, "pages", r.set.DamageN, "first", r.set.Damage[0].Path, "block", r.set.Damage[0].Block)
	}
	return nil
}

// lookAgain returns the pages that look wrong each time. After an error it
// returns those that still do.
func (r *run) lookAgain(ctx context.Context, list []suspect) ([]suspect, error) {
	conn, err := connect(ctx, r.cfg.ConnString)
	if err != nil {
		return list, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for look := range looks {
		if look > 0 {
			select {
			case <-time.After(r.cfg.SecondLook):
			case <-ctx.Done():
				return list, context.Cause(ctx)
			}
		}
		var still []suspect
		for i, s := range list {
			page, there, err := readPage(ctx, conn, s, r.server.BlockSize)
			if err != nil {
				return append(still, list[i:]...), err
			}
			if !there {
				continue // the table was dropped or cut since
			}
			if s.verdict = pagesum.Check(page, s.block, r.set.Start); s.verdict == pagesum.Newer || s.verdict == pagesum.Bad {
				s.why = fmt.Sprintf("%s, also on the disk afterwards", reason(page, s.block))
				still = append(still, s)
			}
		}
		if list = still; len(list) == 0 {
			break
		}
	}
	return list, nil
}

// certain are the pages that the log of the backup does not replace.
func certain(list []suspect) []suspect {
	var out []suspect
	for _, s := range list {
		if s.verdict == pagesum.Bad {
			out = append(out, s)
		}
	}
	return out
}
