package tail

import (
	"fmt"
	"strings"
	"unicode"

	"understudy/shipper/pos"
)

// firstUserOID is the lowest number that PostgreSQL gives to what users make.
const firstUserOID = 16384

// Text is the report for people: a paragraph, and a line for each transaction.
func (r Report) Text() string {
	var b strings.Builder
	committed, rolledBack, inFlight := r.MoreCommitted, r.More-r.MoreCommitted, 0
	for _, t := range r.Transactions {
		switch {
		case t.Committed:
			committed++
		case t.InFlight:
			inFlight++
		default:
			rolledBack++
		}
	}
	fmt.Fprintf(&b, "The primary of epoch %s wrote %d bytes from %s to %s on timeline %d that the group did not take over. ",
		r.Epoch, r.Bytes, r.From, r.To, r.Timeline)
	fmt.Fprintf(&b, "In them %s committed, %d rolled back, %d did not end.", count(committed, "transaction"), rolledBack, inFlight)
	switch {
	case r.Partial:
		fmt.Fprintf(&b, " The log ends within a record, at %s.", r.Decoded)
	case r.Decoded < r.To:
		fmt.Fprintf(&b, " Records end at %s: %s.", r.Decoded, clean(r.Reason))
	}
	if r.Path != "" && len(r.Files) > 0 {
		fmt.Fprintf(&b, " The log is kept; to look into it: pg_waldump -p %s -t %d -s %s", r.Path, r.Timeline, r.From)
	}
	b.WriteByte('\n')
	for _, t := range r.Transactions {
		b.WriteString(t.text())
		b.WriteByte('\n')
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "and %s, %d of them committed\n", count(r.More, "more transaction"), r.MoreCommitted)
	}
	return b.String()
}

// text is one line.
func (t Transaction) text() string {
	var b strings.Builder
	what := "rolled back"
	switch {
	case t.Committed:
		what = "committed"
	case t.InFlight && t.Prepared:
		what = "prepared, not decided"
	case t.InFlight:
		what = "did not end"
	}
	if t.End != pos.LSN(0) {
		fmt.Fprintf(&b, "%s  %s  ", t.End, t.Time.UTC().Format("2006-01-02 15:04:05.000 MST"))
	}
	fmt.Fprintf(&b, "transaction %d %s", t.XID, what)
	parts, catalog := []string(nil), uint64(0)
	for _, table := range t.Tables {
		if table.Name == "" && table.Relfilenode < firstUserOID {
			catalog += table.changes()
			continue
		}
		parts = append(parts, table.text())
	}
	if catalog > 0 {
		parts = append(parts, fmt.Sprintf("system catalogs %s", count(int(catalog), "change")))
	}
	if t.MoreTables > 0 {
		parts = append(parts, count(t.MoreTables, "more relation"))
	}
	if len(parts) == 0 {
		parts = []string{"no rows"}
	}
	return b.String() + ": " + strings.Join(parts, "; ")
}

func (t Table) text() string {
	name := clean(t.Name)
	if name == "" {
		name = fmt.Sprintf("relation file %d/%d", t.Database, t.Relfilenode)
	}
	var did []string
	for _, c := range []struct {
		n    uint64
		what string
	}{{t.Inserts, "inserted"}, {t.Updates, "updated"}, {t.Deletes, "deleted"}} {
		if c.n > 0 {
			did = append(did, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if t.Truncates > 0 {
		did = append(did, "emptied or dropped")
	}
	return name + " " + strings.Join(did, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clean makes text of the database safe for a terminal and for one line.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, s)
}
