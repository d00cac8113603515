package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"understudy/ledger/facts"
)

// MaxEntries is how many entries are taken from another node at once.
const MaxEntries = 512

// ErrOtherChain is returned by Fill for entries that do not end where the next
// entry of the file begins, or do not follow from the one before them: they are
// not those that are missing here.
var ErrOtherChain = errors.New("these are not the entries that are missing")

// Hole is a stretch of entries that this node never had, and what the newest of
// them must be: the entry after it names its hash.
type Hole struct {
	Missing
	Head string `json:"head"`
}

// Holes are the stretches that can be filled, oldest first. One without an
// entry after it cannot: nothing would prove what is filled in.
func (f *File) Holes() ([]Hole, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holes()
}

func (f *File) holes() (out []Hole, err error) {
	var open *Missing
	err = f.each(func(l line, _ []byte) bool {
		if l.entry != nil && open != nil {
			out = append(out, Hole{*open, l.entry.Prev})
		}
		open = l.missing
		return true
	})
	return out, err
}

// each calls fn for every line of the file until it returns false. mu is held.
func (f *File) each(fn func(l line, raw []byte) bool) error {
	more := true
	var bad error
	err := eachRaw(io.NewSectionReader(f.f, 0, f.size), func(raw []byte) {
		if !more || bad != nil {
			return
		}
		l, err := parse(bytes.TrimSuffix(raw, []byte("\n")))
		if err != nil {
			bad = err
			return
		}
		more = fn(l, raw)
	})
	return errors.Join(err, bad)
}

// Last gives at most MaxEntries entries that end with entry to, in order, none
// of them before from: fewer where this node lacks some, none where it lacks
// that one.
func (f *File) Last(from, to uint64) (out []facts.AuditEntry, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if to >= MaxEntries {
		from = max(from, to-MaxEntries+1)
	}
	err = f.each(func(l line, _ []byte) bool {
		switch {
		case l.entry == nil:
			out = nil
		case l.entry.N >= from && l.entry.N <= to:
			out = append(out, *l.entry)
		}
		return l.entry == nil || l.entry.N < to
	})
	if len(out) > 0 && out[len(out)-1].N != to {
		out = nil
	}
	return out, err
}

// Fill puts entries into a hole, from its end on, durably. They are believed
// only because each has the hash that the one after it names, up to an entry
// that this node took from its own ledger. After an error the file is as it was.
func (f *File) Fill(entries []facts.AuditEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	holes, err := f.holes()
	if err != nil {
		return fmt.Errorf("fill audit: %w", err)
	}
	first, last := entries[0], entries[len(entries)-1]
	for _, h := range holes {
		if last.N != h.To || first.N < h.From {
			continue
		}
		if err := f.proves(h, entries); err != nil {
			return fmt.Errorf("fill audit: %w", err)
		}
		if err := f.rewrite(h, entries); err != nil {
			return fmt.Errorf("fill audit: %w", err)
		}
		return nil
	}
	return fmt.Errorf("fill audit: %w: no hole ends at entry %d", ErrOtherChain, last.N)
}

// proves tells whether entries are the end of a hole.
func (f *File) proves(h Hole, entries []facts.AuditEntry) error {
	if got := entries[len(entries)-1].Hash; got != h.Head {
		return fmt.Errorf("%w: entry %d has the hash %.16s…, not %.16s…", ErrOtherChain, h.To, got, h.Head)
	}
	before := Head{entries[0].N - 1, entries[0].Prev}
	if entries[0].N == h.From {
		var err error
		if before, err = f.headBefore(h); err != nil {
			return err
		}
		if before.Hash == "" && h.From > 1 {
			before.Hash = entries[0].Prev // the one before is missing, too
		}
	}
	for _, e := range entries {
		if why := follows(before, e); why != "" {
			return fmt.Errorf("%w: %s", ErrOtherChain, why)
		}
		before = Head{e.N, e.Hash}
	}
	return nil
}

// headBefore is the entry before a hole.
func (f *File) headBefore(h Hole) (at Head, err error) {
	at.N = h.From - 1
	err = f.each(func(l line, _ []byte) bool {
		if l.entry != nil && l.entry.N == at.N {
			at.Hash = l.entry.Hash
		}
		return l.missing == nil || l.missing.From != h.From
	})
	return at, err
}

// rewrite makes the file anew with entries at the end of a hole, and goes on
// with it.
func (f *File) rewrite(h Hole, entries []facts.AuditEntry) error {
	name := f.path + ".filled"
	if err := f.writeFilled(name, h, entries); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := os.Rename(name, f.path); err != nil {
		return err
	}
	if err := f.f.Close(); err != nil {
		return err
	}
	if err := f.open(); err != nil {
		return err
	}
	whole, broken, err := f.load()
	if err == nil && broken != "" {
		err = errors.New(broken)
	}
	f.size = whole
	return err
}

func (f *File) writeFilled(name string, h Hole, entries []facts.AuditEntry) error {
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	var failed error
	write := func(b []byte) {
		if _, err := to.Write(b); err != nil && failed == nil {
			failed = err
		}
	}
	err = f.each(func(l line, raw []byte) bool {
		if l.missing == nil || l.missing.From != h.From {
			write(raw)
			return failed == nil
		}
		var b bytes.Buffer
		if first := entries[0].N; first > h.From {
			failed = errors.Join(failed, encode(&b, note{Missing: &Missing{h.From, first - 1}}))
		}
		for _, e := range entries {
			failed = errors.Join(failed, encode(&b, e))
		}
		write(b.Bytes())
		return failed == nil
	})
	return errors.Join(err, failed, to.Sync(), to.Close())
}
