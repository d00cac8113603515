package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"understudy/shipper/catalog"
	"understudy/standby/drill/digest"
)

// compare computes the digests of the restored database, and compares them
// with those of the original at this very position.
func (r *run) compare(ctx context.Context) error {
	want, ok := r.expected()
	byName := map[[2]string]digest.Digest{}
	for _, d := range want.Tables {
		byName[[2]string{d.Database, d.Table}] = d
	}
	limits := r.cfg.Limits
	limits.First = func(database, table string) bool { _, ok := byName[[2]string{database, table}]; return ok }
	got, err := digest.Tables(ctx, r.dial, limits)
	if err != nil {
		return err
	}
	var wrong []string
	for _, d := range got.Tables {
		r.res.Tables++
		r.res.Rows += d.Rows
		w, ok := byName[[2]string{d.Database, d.Table}]
		delete(byName, [2]string{d.Database, d.Table})
		switch {
		case !ok:
		case w.Rows != d.Rows || w.Sum != d.Sum:
			wrong = append(wrong, fmt.Sprintf("%s in %s has %d rows with digest %s, the original had %d with %s", d.Table, d.Database, d.Rows, d.Sum, w.Rows, w.Sum))
		default:
			r.res.ComparedTables++
			r.res.Compared += d.Rows
		}
	}
	for _, l := range got.Left {
		if l.Corrupt {
			wrong = append(wrong, fmt.Sprintf("%s in %s cannot be read: %s", l.Table, l.Database, l.Why))
		} else {
			r.note("%s %s was not read: %s", l.Database, l.Table, l.Why)
		}
		if l.Table == "" {
			r.forget(byName, l.Database)
		}
		delete(byName, [2]string{l.Database, l.Table})
	}
	for k := range byName {
		wrong = append(wrong, fmt.Sprintf("%s in %s is missing", k[1], k[0]))
	}
	slices.Sort(wrong)
	r.judge(wrong, ok)
	return nil
}

// forget takes out what was not looked at because of the whole database.
func (r *run) forget(byName map[[2]string]digest.Digest, database string) {
	for k := range byName {
		if k[0] == database {
			delete(byName, k)
		}
	}
}

// judge notes what the comparison showed.
func (r *run) judge(wrong []string, compared bool) {
	const named = 5
	switch n := len(wrong); {
	case n > named:
		r.res.Problem = strings.Join(wrong[:named], "; ") + fmt.Sprintf("; and %d more", n-named)
	case n > 0:
		r.res.Problem = strings.Join(wrong, "; ")
	case !compared:
		r.note("nothing was compared: no digests of the original are known at exactly %s", r.res.Target)
	}
}

// expected are the digests at the target.
func (r *run) expected() (digest.Snapshot, bool) {
	t := r.cfg.Request.Aim.Target
	if t.Kind != catalog.AtLSN || t.Inclusive {
		return digest.Snapshot{}, false
	}
	i := slices.IndexFunc(r.cfg.Compare, func(s digest.Snapshot) bool { return s.LSN == t.LSN })
	if i < 0 {
		return digest.Snapshot{}, false
	}
	return r.cfg.Compare[i], true
}

// maxNotes bounds Result.Notes.
const maxNotes = 100

func (r *run) note(format string, args ...any) {
	if len(r.res.Notes) < maxNotes {
		r.res.Notes = append(r.res.Notes, fmt.Sprintf(format, args...))
	}
}
