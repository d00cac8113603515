package tail

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

const (
	reportVersion  = 1
	maxReportBytes = 256 << 20
)

// Report says what a kept tail holds. A transaction that began before the fork
// stands in it with what it did after the fork.
type Report struct {
	Epoch    pos.Epoch    `json:"epoch"` // that wrote the tail
	SystemID uint64       `json:"system_id,string"`
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"` // the fork
	To       pos.LSN      `json:"to"`
	Bytes    int64        `json:"bytes"` // To-From
	// Files are the kept segments. The first begins below From, and the last is
	// zeros after To.
	Files []string `json:"files"`
	// Decoded is the end of the last whole record. Where it is below To, Reason
	// tells why records end there, and Partial whether a record begins there:
	// nothing in it took effect.
	Decoded pos.LSN `json:"decoded"`
	Partial bool    `json:"partial,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	// Transactions are sorted by their end, those without one come last. At
	// most 10,000, committed ones first; what is beyond is counted in More, and
	// the committed ones of it in MoreCommitted too.
	Transactions  []Transaction `json:"transactions"`
	More          int           `json:"more,omitempty"`
	MoreCommitted int           `json:"more_committed,omitempty"`

	Path string `json:"-"` // the directory of the kept tail; empty for none
}

// Transaction is one transaction of a tail. A subtransaction that was rolled
// back stands by itself, under its own id; any other is counted to its
// transaction.
type Transaction struct {
	XID       uint32 `json:"xid"`
	Committed bool   `json:"committed,omitempty"`
	InFlight  bool   `json:"in_flight,omitempty"` // the tail has no end of it
	Prepared  bool   `json:"prepared,omitempty"`  // for a two-phase commit
	// End is the end of its commit or abort record, and Time the moment by the
	// server's clock; zero while in flight.
	End  pos.LSN   `json:"end,omitzero"`
	Time time.Time `json:"time,omitzero"`
	// Tables are the relations that it changed, catalogs and TOAST tables
	// included; at most 1,000, those with the most changes, and 100,000 in all
	// committed transactions. MoreTables counts the others.
	Tables     []Table `json:"tables,omitempty"`
	MoreTables int     `json:"more_tables,omitempty"`
}

// Table counts the changes of one relation's rows.
type Table struct {
	Database    uint32 `json:"database"` // its OID, 0 for relations shared by all
	Relfilenode uint32 `json:"relfilenode"`
	Name        string `json:"name,omitempty"`
	Inserts     uint64 `json:"inserts,omitempty"`
	Updates     uint64 `json:"updates,omitempty"`
	Deletes     uint64 `json:"deletes,omitempty"`
	// Truncates counts how often its file was emptied or taken away: TRUNCATE,
	// DROP, or a rewrite such as VACUUM FULL, which the log does not tell
	// apart. Indexes lose their files along with their table and stand as
	// relations of their own.
	Truncates uint64 `json:"truncates,omitempty"`
}

func (t Table) changes() uint64 { return t.Inserts + t.Updates + t.Deletes + t.Truncates }

func (t Table) compare(o Table) int {
	return cmp.Or(cmp.Compare(t.Database, o.Database), cmp.Compare(t.Relfilenode, o.Relfilenode))
}

// stored is a report as the file has it.
type stored struct {
	Version int `json:"version"`
	Report
}

// sameRange tells whether r is the report of what c asks for.
func (r Report) sameRange(c Config) bool {
	return r.Epoch == c.Epoch && r.SystemID == c.SystemID && r.Timeline == c.Timeline && r.From == c.From && r.To == c.To
}

// Named is the report with names from resolve, where it has one; nil changes
// nothing.
func (r Report) Named(resolve func(db, relfilenode uint32) (string, bool)) Report {
	if resolve == nil {
		return r
	}
	r.Transactions = slices.Clone(r.Transactions)
	for i := range r.Transactions {
		tables := slices.Clone(r.Transactions[i].Tables)
		for j := range tables {
			if name, ok := resolve(tables[j].Database, tables[j].Relfilenode); ok {
				tables[j].Name = name
			}
		}
		r.Transactions[i].Tables = tables
	}
	return r
}

// LostBetween gives the committed transactions whose end is in (a, b]. With a
// the fork and b the highest position that clients were told of, these are the
// ones that a client believes in and that are gone. The list may be incomplete
// when MoreCommitted is above zero.
func (r Report) LostBetween(a, b pos.LSN) []Transaction {
	var out []Transaction
	for _, t := range r.Transactions {
		if t.Committed && t.End > a && t.End <= b {
			out = append(out, t)
		}
	}
	return out
}

// Load lists the kept tails in dir, newest first: by epoch, then fork, then
// end. A directory that does not exist holds none. Tails whose report cannot be
// read are told in the error, beside the others.
func Load(dir string) ([]Report, error) {
	fsys := spool.OS()
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the kept tails: %w", err)
	}
	var out []Report
	var errs []error
	for _, n := range names {
		path := filepath.Join(dir, n)
		if st, err := os.Stat(path); err != nil || !st.IsDir() || strings.HasSuffix(n, partSuffix) {
			continue
		}
		rep, err := readReport(fsys, path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, rep)
	}
	slices.SortFunc(out, func(a, b Report) int {
		return cmp.Or(b.Epoch.Compare(a.Epoch), cmp.Compare(b.From, a.From), cmp.Compare(b.To, a.To))
	})
	return out, errors.Join(errs...)
}

// readReport reads the report of the kept tail in the directory path.
func readReport(fsys spool.FS, path string) (rep Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the report of the kept tail %s: %w", path, err)
		}
	}()
	f, err := fsys.OpenFile(filepath.Join(path, reportName), os.O_RDONLY, 0)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return Report{}, err
	}
	if size > maxReportBytes {
		return Report{}, fmt.Errorf("it has %d bytes", size)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return Report{}, err
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return Report{}, err
	}
	if s.Version != reportVersion {
		return Report{}, fmt.Errorf("it has the version %d, not %d", s.Version, reportVersion)
	}
	s.Path = path
	return s.Report, nil
}
