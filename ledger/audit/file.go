package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"understudy/ledger/facts"
)

// File is a node's copy of the audit: JSON lines that are appended. It holds one
// straight chain; where the node was away for longer than the ledger remembers,
// a line says which entries it never had, until Fill brings them from another
// node. Its methods may be called concurrently.
type File struct {
	path string

	mu      sync.Mutex
	f       *os.File
	size    int64             // of whole, fsynced lines
	last    Head              // of the newest entry
	recent  map[uint64]placed // the newest entries, to find where another chain leaves
	problem string
}

// placed is an entry's hash and where its line begins.
type placed struct {
	hash string
	at   int64
}

// Open opens or creates a node's audit. A line that a crash cut off is removed:
// Follow brings it again. A file that is broken before its end is evidence: it
// is set aside under another name, and Problem says so.
func Open(path string) (*File, error) {
	f := &File{path: path}
	if err := f.open(); err != nil {
		return nil, err
	}
	whole, broken, err := f.load()
	if err == nil && broken != "" {
		f.problem = fmt.Sprintf("%s; the file was set aside", broken)
		if err = f.f.Close(); err == nil {
			err = setAside(path, path, "broken")
		}
		if err == nil {
			err = f.open()
		}
		whole, f.last, f.recent = 0, Head{}, map[uint64]placed{}
	}
	if err == nil {
		err = f.cut(whole)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit: %w", err), f.f.Close())
	}
	return f, nil
}

func (f *File) open() error {
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open audit: %w", err)
	}
	info, err := h.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no plain file", f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open audit: %w", err), h.Close())
	}
	f.f = h
	return syncDir(f.path)
}

// syncDir makes the name of a file durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open folder of audit: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// setAside renames a file to a name beside path that is free.
func setAside(file, path, why string) error {
	for i := 1; ; i++ {
		to := fmt.Sprintf("%s.%s-%d", path, why, i)
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return errors.Join(os.Rename(file, to), syncDir(path))
		}
	}
}

// load reads the file: how long its whole lines are, and what is wrong when
// good lines follow a bad one.
func (f *File) load() (whole int64, broken string, err error) {
	f.last, f.recent = Head{}, map[uint64]placed{}
	at, n, bad := int64(0), 0, ""
	err = eachRaw(f.f, func(raw []byte) {
		n++
		begin := at
		at += int64(len(raw))
		text, complete := bytes.CutSuffix(raw, []byte("\n"))
		l, err := parse(text)
		switch {
		case broken != "":
		case bad != "":
			if err == nil && complete {
				broken = bad // what follows is no torn end
			}
		case err != nil || !complete || l.head != nil:
			bad = fmt.Sprintf("line %d after entry %d is damaged", n, f.last.N)
		case l.missing != nil:
			f.last, whole = Head{N: l.missing.To}, at
		default:
			if why := f.fits(*l.entry); why != "" {
				bad, broken = why, fmt.Sprintf("line %d, entry %d: %s", n, l.entry.N, why)
				return
			}
			f.note(*l.entry, begin)
			whole = at
		}
	})
	return whole, broken, err
}

// fits is follows for a file, in which an entry after missing ones has nothing
// to follow.
func (f *File) fits(e facts.AuditEntry) string {
	last := f.last
	if last.Hash == "" && last.N > 0 {
		last.Hash = e.Prev
	}
	return follows(last, e)
}

// eachRaw calls fn for every line with its end; the last may lack one. Of a
// line that is too long fn gets the pieces, none of which is a line.
func eachRaw(r io.Reader, fn func([]byte)) error {
	buf, have := make([]byte, maxLine), 0
	for {
		n, err := r.Read(buf[have:])
		have += n
		from := 0
		for {
			i := bytes.IndexByte(buf[from:have], '\n')
			if i < 0 {
				break
			}
			fn(buf[from : from+i+1])
			from += i + 1
		}
		have = copy(buf, buf[from:have])
		if have == len(buf) {
			fn(buf)
			have = 0
		}
		if errors.Is(err, io.EOF) {
			if have > 0 {
				fn(buf[:have])
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// note remembers an entry that is in the file.
func (f *File) note(e facts.AuditEntry, at int64) {
	f.last = Head{e.N, e.Hash}
	f.recent[e.N] = placed{e.Hash, at}
	delete(f.recent, e.N-2*facts.MaxAuditEntries)
}

// cut ends the file at size, durably.
func (f *File) cut(size int64) error {
	if err := f.f.Truncate(size); err != nil {
		return err
	}
	f.size = size
	return f.f.Sync()
}

// Head is the newest entry that the file has. Its Hash is empty when that one
// is missing.
func (f *File) Head() Head {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Problem says what was wrong with the file when it was opened or followed
// another chain; "" when nothing was.
func (f *File) Problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problem
}

// Follow appends what a newer state of the ledger tells, durably. States may be
// skipped and may come again. Entries that the state does not hold any more are
// recorded as missing. When the ledger was formed anew from an older state, so
// that its chain leaves this one, the entries that are not part of it are set
// aside. After an error nothing was appended, and Follow may be repeated.
func (f *File) Follow(s facts.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := s.Audit
	if a.N == 0 || a.N < f.last.N || a.N == f.last.N && (a.Head == f.last.Hash || f.last.Hash == "") {
		return nil // nothing is new, or the ledger is still reading its own past
	}
	if err := f.align(a); err != nil {
		return fmt.Errorf("follow audit: %w", err)
	}
	var buf bytes.Buffer
	last, fresh := f.last, []facts.AuditEntry{}
	var places []int64
	for _, e := range a.Newest {
		if e.N <= last.N {
			continue
		}
		if e.N > last.N+1 {
			if err := encode(&buf, note{Missing: &Missing{last.N + 1, e.N - 1}}); err != nil {
				return err
			}
		}
		fresh, places = append(fresh, e), append(places, f.size+int64(buf.Len()))
		if err := encode(&buf, e); err != nil {
			return err
		}
		last = Head{e.N, e.Hash}
	}
	if err := f.append(buf.Bytes()); err != nil {
		return fmt.Errorf("follow audit: %w", err)
	}
	for i, e := range fresh {
		f.note(e, places[i])
	}
	return nil
}

func encode(w *bytes.Buffer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode audit: %w", err)
	}
	w.Write(b)
	return w.WriteByte('\n')
}

// append writes whole lines. What a failed write left is cut off again.
func (f *File) append(b []byte) error {
	_, err := f.f.WriteAt(b, f.size)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.f.Truncate(f.size))
	}
	f.size += int64(len(b))
	return nil
}

// align sets aside the entries of the file that are not part of the chain.
func (f *File) align(a facts.Audit) error {
	common := Head{}
	for _, e := range a.Newest {
		have, known := f.recent[e.N]
		switch {
		case e.N == f.last.N+1 && (f.last.Hash == "" || e.Prev == f.last.Hash), known && e.N == f.last.N && have.hash == e.Hash:
			return nil // it goes on from here
		case known && have.hash == e.Hash:
			common = Head{e.N, e.Hash}
		case known && common.N == 0 && f.recent[e.N-1].hash == e.Prev && e.Prev != "":
			common = Head{e.N - 1, e.Prev}
		}
	}
	if len(a.Newest) > 0 && a.Newest[0].N > f.last.N+1 {
		return nil // it cannot be told; the missing entries are named
	}
	return f.leave(common)
}

// leave sets aside what comes after the common entry; the whole file when there
// is none.
func (f *File) leave(common Head) error {
	f.problem = fmt.Sprintf("the audit left the one of the group after entry %d; the entries up to %d were set aside", common.N, f.last.N)
	next, ok := f.recent[common.N+1]
	if common.N == 0 || !ok {
		if err := errors.Join(f.f.Close(), setAside(f.path, f.path, "left")); err != nil {
			return err
		}
		f.size, f.last, f.recent = 0, Head{}, map[uint64]placed{}
		return f.open()
	}
	tail := make([]byte, f.size-next.at) // of recent entries only
	if _, err := f.f.ReadAt(tail, next.at); err != nil {
		return err
	}
	if err := writeSynced(f.path+".new", tail); err != nil {
		return err
	}
	if err := errors.Join(setAside(f.path+".new", f.path, "left"), f.cut(next.at)); err != nil {
		return err
	}
	for n := common.N + 1; n <= f.last.N; n++ {
		delete(f.recent, n)
	}
	f.last = common
	return nil
}

func writeSynced(path string, b []byte) error {
	h, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = h.Write(b)
	return errors.Join(err, h.Sync(), h.Close())
}

// Export writes the whole chain as JSON lines, and a last one with its head.
func (f *File) Export(w io.Writer) error {
	f.mu.Lock()
	size, last := f.size, f.last
	own, err := os.Open(f.path) // a hole that is filled meanwhile makes another file
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("export audit: %w", err)
	}
	defer own.Close()
	// Lines below size never change, but for a chain that left the group's.
	if _, err := io.Copy(w, io.NewSectionReader(own, 0, size)); err != nil {
		return fmt.Errorf("export audit: %w", err)
	}
	var buf bytes.Buffer
	if err := encode(&buf, note{Head: &last}); err != nil {
		return err
	}
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("export audit: %w", err)
	}
	return nil
}

// Close closes the file. What Follow returned from is durable.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.f.Close()
}
