package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// Kind is what is wrong with an object.
type Kind string

// The kinds of a Finding. All but Unknown and Altered are damage: what they
// are about cannot be restored from.
const (
	Missing Kind = "missing" // is not there
	Short   Kind = "short"   // has another size
	Damaged Kind = "damaged" // holds other bytes than were written
	Foreign Kind = "foreign" // is whole, and not what its name says
	Unknown Kind = "unknown" // nothing that belongs there; it does no harm
	Altered Kind = "altered" // differs where nothing depends on it
)

// Finding is something at a location that is not as it should be.
type Finding struct {
	Object string `json:"object"` // key
	Kind   Kind   `json:"kind"`
	What   string `json:"what"`
	// At is the stored byte from which on the object is damaged, about; -1 when
	// that cannot be told.
	At int64 `json:"at"`
}

// String is for people.
func (f Finding) String() string { return f.Object + ": " + f.What }

// Unread is an object that could not be read now. It says nothing about the
// object.
type Unread struct {
	Object string `json:"object"`
	Why    string `json:"why"`
	err    error
}

// maxFindings bounds the lists of a Report.
const maxFindings = 1000

// Report is what a verification found.
type Report struct {
	Objects int   `json:"objects"` // that were proven
	Bytes   int64 `json:"bytes"`   // of them, as stored
	// RawBytes were decompressed and compared; zero when it was not deep.
	RawBytes int64     `json:"raw_bytes,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
	// FindingN counts all of them, when the list was cut.
	FindingN int      `json:"finding_n,omitempty"`
	Unread   []Unread `json:"unread,omitempty"`

	damaged bool
}

// Damaged tells whether something cannot be restored from here. It stands
// whatever else could not be read.
func (r Report) Damaged() bool { return r.damaged }

// Problem is one sentence about the damage; empty when there is none.
func (r Report) Problem() string {
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Kind.damage() })
	if i < 0 {
		return ""
	}
	f := r.Findings[i]
	name := f.Object[strings.LastIndexByte(f.Object, '/')+1:]
	n := 0
	for _, f := range r.Findings {
		if f.Kind.damage() {
			n++
		}
	}
	if n > 1 {
		return fmt.Sprintf("%s %s, and %d more findings", name, f.What, n-1)
	}
	return name + " " + f.What
}

func (k Kind) damage() bool { return k != Unknown && k != Altered }

// find notes a finding. Damage is kept before what does no harm.
func (p *prover) find(f Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.report
	r.FindingN++
	first := f.Kind.damage() && !r.damaged
	r.damaged = r.damaged || f.Kind.damage()
	switch {
	case len(r.Findings) < maxFindings:
		r.Findings = append(r.Findings, f)
	case first:
		r.Findings[maxFindings-1] = f
	}
}

// lost notes an object that could not be read, and tells whether that concerns
// the whole location, so that going on is no use.
func (p *prover) lost(ctx context.Context, key string, err error) bool {
	if ctx.Err() != nil || errors.Is(err, location.ErrUnreachable) || errors.Is(err, location.ErrRefused) || errors.Is(err, location.ErrClosed) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.report.Unread) < maxFindings {
		p.report.Unread = append(p.report.Unread, Unread{Object: key, Why: err.Error(), err: err})
	}
	return false
}

// proven counts an object.
func (p *prover) proven(size, raw int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Objects++
	p.report.Bytes += size
	p.report.RawBytes += raw
}

// progressEvery is the shortest time between two calls of Progress.
const progressEvery = 250 * time.Millisecond

// passed tells the progress of n more bytes. A second reading counts for
// nothing.
func (p *prover) passed(key string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = min(p.done+n, p.total)
	if p.o.Progress == nil {
		return
	}
	now := time.Now()
	if now.Sub(p.shown) < progressEvery && p.done < p.total {
		return
	}
	p.shown = now
	p.o.Progress(Progress{Object: key, Done: p.done, Total: p.total})
}

// wrong tells errors that speak of the stored bytes, and not of reading them.
func wrong(err error) bool {
	return errors.Is(err, location.ErrDamaged) || errors.Is(err, backupset.ErrDamaged) || errors.Is(err, archive.ErrDamaged) ||
		errors.Is(err, archive.ErrForeign) || errors.Is(err, errFrame) || errors.Is(err, errSize)
}

// retry repeats what fails. Damage is looked at twice and no oftener.
func (p *prover) retry(ctx context.Context, op func(context.Context) error) error {
	var bad error
	err := location.Retry(ctx, p.o.Retry, func(ctx context.Context) error {
		err := op(ctx)
		if err != nil && wrong(err) {
			if bad != nil {
				bad = err
				return nil
			}
			bad = err
			return err
		}
		bad = nil
		return err
	})
	if err == nil {
		err = bad
	}
	return err
}
