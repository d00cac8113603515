package walfmt_test

import (
	"bufio"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
	"understudy/test/pgtest"
)

var (
	wholeLine  = regexp.MustCompile(`^rmgr: (\S+)\s.*?, lsn: (\S+), prev \S+, desc: (.*)`)
	blockPart  = regexp.MustCompile(`, blkref #(\d+): rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)( FPW)?`)
	tuplesPart = regexp.MustCompile(`^MULTI_INSERT(?:\+INIT)? (?:ntuples: )?(\d+)`)
)

// described is what pg_waldump says about one record.
type described struct {
	rmgr, desc string
	blocks     []walfmt.BlockRef
}

// describe runs pg_waldump from from on, whole lines; at each record's start
// it gives what stands there.
func describe(t *testing.T, c *pgtest.Cluster, from pos.LSN) map[pos.LSN]described {
	t.Helper()
	cmd := c.Command(t, "pg_waldump", "-p", filepath.Join(c.Data, "pg_wal"), "-s", from.String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := map[pos.LSN]described{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		m := wholeLine.FindStringSubmatch(lines.Text())
		if m == nil {
			t.Fatalf("pg_waldump prints %q", lines.Text())
		}
		d := described{rmgr: m[1], desc: m[3]}
		for _, b := range blockPart.FindAllStringSubmatch(d.desc, -1) {
			number := func(i int) uint32 {
				n, _ := strconv.ParseUint(b[i], 10, 32)
				return uint32(n)
			}
			d.blocks = append(d.blocks, walfmt.BlockRef{
				ID:      uint8(number(1)),
				RelFile: walfmt.RelFile{Tablespace: number(2), Database: number(3), Relfilenode: number(4)},
				Fork:    uint8(max(0, slices.Index([]string{"main", "fsm", "vm", "init"}, b[5]))), // main is not named
				Block:   number(6), Image: b[7] != "",
			})
		}
		got[lsn(t, m[2])] = d
	}
	cmd.Wait() // it always fails at the end of the log
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// manyKinds writes records of every access method, subtransactions and
// two-phase commits.
func manyKinds(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Exec(t, `create table a (i int primary key, s text, p point, n int[]) with (fillfactor=70);
		create index on a using gin (n); create index on a using gist (p); create index on a using spgist (p);
		create index on a using brin (i); create index on a using hash (i); create sequence q;
		insert into a select i, repeat('x', i), point(i, i), array[i, i+1] from generate_series(1, 600) i`)
	c.Exec(t, "checkpoint; copy (select i from generate_series(1, 3000) i) to '"+c.Socket+"/rows'")
	c.Exec(t, "create table k (i int); copy k from '"+c.Socket+"/rows'; select nextval('q')")
	c.Exec(t, "update a set s = s || 'y'; update a set i = i + 1000; delete from a where i % 3 = 0")
	c.Exec(t, "vacuum a")
	c.Exec(t, "vacuum freeze k")
	c.Exec(t, "insert into a (i) values (5000) on conflict do nothing; insert into a (i) values (5000) on conflict (i) do update set s = 'z'")
	c.Exec(t, "begin; savepoint x; insert into k values (1); savepoint y; insert into k values (2); rollback to y; delete from k where i = 1; commit")
	c.Exec(t, "do $$ begin for i in 1..150 loop begin insert into k values (i); exception when others then null; end; end loop; end $$")
	c.Exec(t, "begin; savepoint x; insert into k values (1); prepare transaction 'p'")
	c.Exec(t, "commit prepared 'p'")
	c.Exec(t, "begin; insert into k values (2); truncate k; create table gone (i int); rollback")
	c.Exec(t, "truncate k, a; begin; create table n (i int); insert into n values (1); truncate n; commit; drop table a")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', repeat('m', 60000)); create unlogged table u (i int)")
	c.Exec(t, "vacuum full k")
}

func TestRecord_BodyAgreesWithWaldump(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"replica", "logical"} {
		t.Run(level, func(t *testing.T) {
			c := pgtest.New(t, "--wal-segsize=1", "wal_level="+level, "max_wal_size=1GB", "wal_keep_size=200MB",
				"autovacuum=off", "fsync=off", "max_prepared_transactions=5",
				map[string]string{"replica": "wal_compression=on", "logical": "wal_compression=off"}[level])
			from := redo(t, c)
			manyKinds(t, c)
			c.Crash()
			records, end := readAll(t, source(c), from, realParams(t, c))
			want := describe(t, c, from)
			if len(want) != len(records) || len(records) < 3000 {
				t.Fatalf("%d records, pg_waldump has %d; end %+v", len(records), len(want), end)
			}
			seen := map[string]int{}
			for _, r := range records {
				compareBody(t, r, want[r.LSN], seen)
			}
			least := map[string]int{"image": 20, "blocks": 4000, "INSERT": 600, "HOT_UPDATE": 50, "UPDATE": 500, "DELETE": 100,
				"MULTI_INSERT": 5, "subxacts": 3, "rels": 3, "ASSIGNMENT": 2, "PREPARE": 1, "smgr": 1}
			if level == "logical" {
				least["TRUNCATE"], least["top"], least["ASSIGNMENT"] = 2, 100, 0
			}
			for what, n := range least {
				if seen[what] < n {
					t.Errorf("only %d of %s compared, want %d: %v", seen[what], what, n, seen)
				}
			}
		})
	}
}

// compareBody compares what a record says with pg_waldump's words and counts
// in seen what was compared.
func compareBody(t *testing.T, r walfmt.Record, d described, seen map[string]int) {
	t.Helper()
	blocks, err := r.Blocks()
	if err != nil || !slices.Equal(blocks, d.blocks) {
		t.Fatalf("%s %s: got %+v, %v", d.rmgr, d.desc, blocks, err)
	}
	seen["blocks"] += len(blocks)
	for _, b := range blocks {
		if b.Image {
			seen["image"]++
		}
	}
	if r.TopXID() != 0 {
		seen["top"]++
	}
	compareHeap(t, r, d, seen)
	compareLists(t, r, d, seen)
}

func compareHeap(t *testing.T, r walfmt.Record, d described, seen map[string]int) {
	t.Helper()
	op, ok := r.HeapOp()
	word, _, _ := strings.Cut(d.desc, " ")
	word = strings.TrimSuffix(word, "+INIT")
	kind := map[string]walfmt.HeapKind{"INSERT": walfmt.HeapInsert, "UPDATE": walfmt.HeapUpdate, "HOT_UPDATE": walfmt.HeapHotUpdate,
		"DELETE": walfmt.HeapDelete, "MULTI_INSERT": walfmt.HeapMultiInsert, "TRUNCATE": walfmt.HeapTruncate}[word]
	if d.rmgr != "Heap" && d.rmgr != "Heap2" {
		kind = 0
	}
	if ok != (kind != 0) || op.Kind != kind {
		t.Fatalf("%s %s: got %+v, %v", d.rmgr, d.desc, op, ok)
	}
	if !ok {
		return
	}
	seen[word]++
	rows := "1"
	if m := tuplesPart.FindStringSubmatch(d.desc); m != nil {
		rows = m[1]
	}
	if word == "TRUNCATE" {
		m := regexp.MustCompile(`nrelids:? (\d+)`).FindStringSubmatch(d.desc)
		if m == nil {
			t.Fatal(d.desc)
		}
		rows = m[1]
	}
	if fmt.Sprint(op.Rows) != rows || word != "TRUNCATE" && op.Rel != d.blocks[0].RelFile {
		t.Fatalf("%s %s: got %+v", d.rmgr, d.desc, op)
	}
}

// compareLists compares subtransactions, dropped relations and cut files.
func compareLists(t *testing.T, r walfmt.Record, d described, seen map[string]int) {
	t.Helper()
	list := func(name string, items []string) {
		want := []string(nil)
		if _, rest, ok := strings.Cut(d.desc, name+": "); ok && d.rmgr == "Transaction" {
			rest, _, _ = strings.Cut(rest, ";")
			want = strings.Fields(rest)
			seen[name]++
		}
		if !slices.Equal(items, want) {
			t.Fatalf("%s: %s are %v", d.desc, name, items)
		}
	}
	var subs, rels []string
	for _, s := range r.Subxacts() {
		subs = append(subs, fmt.Sprint(s))
	}
	for _, d := range r.Dropped() {
		rels = append(rels, fmt.Sprintf("base/%d/%d", d.Database, d.Relfilenode))
	}
	if p, ok := r.Prepare(); ok {
		seen["PREPARE"]++
		if want := fmt.Sprintf("PREPARE gid %s: %s", p.GID, p.Time.Format("2006-01-02 15:04:05.000000 MST")); !strings.HasPrefix(d.desc, want) || p.XID != r.XID {
			t.Fatalf("%s: got %+v", d.desc, p)
		}
	}
	if a, ok := r.Assignment(); ok != strings.HasPrefix(d.desc, "ASSIGNMENT ") {
		t.Fatalf("%s: %+v, %v", d.desc, a, ok)
	} else if ok {
		seen["ASSIGNMENT"]++
		if want := fmt.Sprintf("ASSIGNMENT xtop %d: subxacts: %s", a.Top, strings.Trim(fmt.Sprint(a.Subxacts), "[]")); d.desc != want {
			t.Fatalf("%s: got %s", d.desc, want)
		}
		return
	}
	list("subxacts", subs)
	list("rels", rels)
	if f, ok := r.FileTruncate(); ok {
		seen["smgr"]++
		if want := fmt.Sprintf("TRUNCATE base/%d/%d to %d blocks", f.Rel.Database, f.Rel.Relfilenode, f.Blocks); !strings.HasPrefix(d.desc, want) {
			t.Fatalf("%s: got %s", d.desc, want)
		}
	} else if d.rmgr == "Storage" && strings.HasPrefix(d.desc, "TRUNCATE") {
		t.Fatalf("%s is no truncation", d.desc)
	}
}
