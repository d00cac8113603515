package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

const (
	// auditWait is how long the file may be behind the ledger: entries come to
	// it a moment after they are agreed on.
	auditWait  = 2 * time.Second
	auditEvery = 50 * time.Millisecond
)

// audit answers with a check of this node's copy of the audit against the
// ledger. With ?n= it also says which hash the entry of that number has.
func (s *server) audit(w http.ResponseWriter, r *http.Request) {
	n, err := number(r.URL.Query().Get("n"), 0)
	if err != nil {
		writeError(w, http.StatusBadRequest, CodeBadArgument, "n must be the number of an entry.")
		return
	}
	c, err := s.checkAudit(r.Context())
	if err == nil && n > 0 {
		c.Asked = n
		err = eachEntry(s.b.AuditFile(), func(e facts.AuditEntry) {
			if e.N == n {
				c.AskedHash = e.Hash
			}
		})
	}
	if err != nil {
		writeReadError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, c)
}

func (s *server) checkAudit(ctx context.Context) (doc.AuditCheck, error) {
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		st, self := s.b.Self()
		head := audit.HeadOf(st)
		c := doc.AuditCheck{Node: self.Node, Entries: head.N, Head: head.Hash}
		err := checkFile(s.b.AuditFile(), head)
		var broken *audit.BrokenError
		switch {
		case err == nil:
			c.OK = true
			return c, nil
		case !errors.As(err, &broken):
			return c, err
		}
		c.Problem, c.BrokenAt = broken.Error(), broken.N
		if errors.As(checkFile(s.b.AuditFile(), audit.Head{}), &broken) {
			return c, nil // not only its end is missing
		}
		select {
		case <-ctx.Done():
			return c, nil
		case <-tick.C:
		}
	}
}

// checkFile checks the whole lines of a file.
func checkFile(path string, head audit.Head) error {
	r, err := openLines(path)
	if err != nil {
		return err
	}
	defer r.Close()
	return audit.Check(r, head)
}

// lines are the whole lines of a file that somebody else appends to.
type lines struct {
	io.Reader
	f *os.File
}

func (l lines) Close() error { return l.f.Close() }

// tailBytes is more than one line of an audit has.
const tailBytes = 128 << 10

// openLines opens a file up to the end of its last whole line. One that is not
// there has none.
func openLines(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the audit: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the audit: %w", err), f.Close())
	}
	size := info.Size()
	end := make([]byte, min(size, tailBytes))
	if _, err := f.ReadAt(end, size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read the audit: %w", err), f.Close())
	}
	size -= int64(len(end) - 1 - bytes.LastIndexByte(end, '\n'))
	return lines{io.NewSectionReader(f, 0, size), f}, nil
}

// eachEntry calls fn for every line that is an entry.
func eachEntry(path string, fn func(facts.AuditEntry)) error {
	r, err := openLines(path)
	if err != nil {
		return err
	}
	defer r.Close()
	dec := json.NewDecoder(r)
	for {
		var e facts.AuditEntry
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the audit: %w", err)
		}
		if e.N > 0 && e.Hash != "" {
			fn(e)
		}
	}
}

// exportAudit answers with this node's whole copy of the audit and, as its
// last line, the number and hash of the newest entry.
func (s *server) exportAudit(w http.ResponseWriter, _ *http.Request) {
	var last audit.Head
	err := eachEntry(s.b.AuditFile(), func(e facts.AuditEntry) { last = audit.Head{N: e.N, Hash: e.Hash} })
	if err != nil {
		writeReadError(w, err)
		return
	}
	r, err := openLines(s.b.AuditFile())
	if err != nil {
		writeReadError(w, err)
		return
	}
	defer r.Close()
	plain(w, "application/jsonl")
	// Entries that came since then are left out, so that the last line fits.
	out := json.NewEncoder(w)
	dec := json.NewDecoder(r)
	for last.N > 0 {
		var raw json.RawMessage
		var n struct {
			N uint64 `json:"n"`
		}
		if dec.Decode(&raw) != nil || json.Unmarshal(raw, &n) != nil {
			return
		}
		if _, err := w.Write(append(raw, '\n')); err != nil {
			return // a client that left gets nothing
		}
		if n.N == last.N {
			break
		}
	}
	_ = out.Encode(map[string]audit.Head{"head": last})
}

// exportLedger answers with the ledger in the form in which every location has
// it.
func (s *server) exportLedger(w http.ResponseWriter, _ *http.Request) {
	st, _ := s.b.Self()
	b, err := facts.Export(st)
	if err != nil {
		writeReadError(w, err)
		return
	}
	plain(w, "application/json")
	_, _ = w.Write(b) // a client that left gets nothing
}

func plain(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}
