package walfmt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
	"understudy/test/pgtest"
)

var rmgrNames = []string{"XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap",
	"Standby", "Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs",
	"ReplicationOrigin", "Generic", "LogicalMessage"}

// dumped is a line of pg_waldump.
type dumped struct {
	rmgr      string
	len       uint32
	xid       uint32
	lsn, prev pos.LSN
	desc      string
}

var dumpLine = regexp.MustCompile(`^rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev (\S+), desc: (.*)`)

// waldump runs pg_waldump from from on; stderr is why it stopped.
func waldump(t *testing.T, c *pgtest.Cluster, from pos.LSN, args ...string) ([]dumped, string) {
	t.Helper()
	var out, errOut strings.Builder
	cmd := c.Command(t, "pg_waldump", append([]string{"-p", filepath.Join(c.Data, "pg_wal"), "-s", from.String()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Run() // it always fails at the end of the log
	var lines []dumped
	for _, l := range strings.Split(out.String(), "\n") {
		m := dumpLine.FindStringSubmatch(l[:min(len(l), 400)]) // messages are printed whole
		if m == nil {
			continue
		}
		n, _ := strconv.ParseUint(m[2], 10, 32)
		xid, _ := strconv.ParseUint(m[3], 10, 32)
		lines = append(lines, dumped{m[1], uint32(n), uint32(xid), lsn(t, m[4]), lsn(t, m[5]), m[6]})
	}
	return lines, errOut.String()
}

func lsn(t testing.TB, s string) pos.LSN {
	t.Helper()
	l, err := pos.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// controlData is one line of pg_controldata.
func controlData(t testing.TB, c *pgtest.Cluster, key string) string {
	t.Helper()
	for _, l := range strings.Split(c.Tool(t, "pg_controldata", "-D", c.Data), "\n") {
		if v, ok := strings.CutPrefix(l, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("pg_controldata has no %q", key)
	return ""
}

func redo(t testing.TB, c *pgtest.Cluster) pos.LSN {
	return lsn(t, controlData(t, c, "Latest checkpoint's REDO location"))
}

func source(c *pgtest.Cluster) walDir {
	return walDir{filepath.Join(c.Data, "pg_wal"), 1, segSize}
}

func realParams(t testing.TB, c *pgtest.Cluster) walfmt.Params {
	id, err := strconv.ParseUint(controlData(t, c, "Database system identifier"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return walfmt.Params{SegSize: segSize, SystemID: id}
}

func newCluster(t *testing.T, keep string) *pgtest.Cluster {
	return pgtest.New(t, "--wal-segsize=1", "wal_level=logical", "max_wal_size=1GB", "wal_keep_size="+keep,
		"autovacuum=off", "fsync=off", "checkpoint_timeout=1h", "bgwriter_lru_maxpages=0",
		"max_prepared_transactions=5", "track_commit_timestamp=on")
}

// mixedLoad writes all sorts of records.
func mixedLoad(t *testing.T, c *pgtest.Cluster) {
	c.Exec(t, `create table a (i int primary key, s text);
		create table b (i int) with (fillfactor=50);
		create index on b using hash (i)`)
	for i := range 20 {
		c.Exec(t, fmt.Sprintf("insert into a values (%d, repeat('x', %d)); insert into b values (%d); update a set s = s || 'y'", i, i*100, i))
	}
	c.Exec(t, "select pg_switch_wal()")
	c.Exec(t, "select pg_logical_emit_message(g % 2 = 0, 'p', repeat('m', g * 37)) from generate_series(0, 1200) g")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', repeat('m', 60000)); select pg_logical_emit_message(true, 'p', repeat('m', 2500000))")
	c.Exec(t, "begin; create table gone (i int); savepoint s; insert into gone values (1); prepare transaction 'x'")
	c.Exec(t, "commit prepared 'x'")
	c.Exec(t, "begin; insert into a values (1000); drop table gone; prepare transaction 'y'")
	c.Exec(t, "rollback prepared 'y'")
	c.Exec(t, "begin; insert into a values (1001); rollback")
	c.Exec(t, "checkpoint")
	c.Exec(t, "insert into a select i, md5(i::text) from generate_series(2000, 9000) i; select pg_switch_wal(); drop table b")
}

func TestReader_AgreesWithWaldump(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "100MB")
	from := redo(t, c)
	mixedLoad(t, c)
	c.Crash()

	got, end := readAll(t, source(c), from, realParams(t, c))
	want, why := waldump(t, c, from)
	if len(got) != len(want) || len(want) < 5000 {
		t.Fatalf("%d records, pg_waldump has %d and says %s; end %+v", len(got), len(want), why, end)
	}
	commits := 0
	for i, r := range got {
		w := want[i]
		if g := (dumped{rmgrNames[r.RMgr], r.Len, r.XID, r.LSN, r.Prev, w.desc}); g != w {
			t.Fatalf("record %d: got %+v, pg_waldump has %+v", i, g, w)
		}
		if i > 0 && got[i-1].End > r.LSN {
			t.Fatalf("record %d ends at %s, the next begins at %s", i-1, got[i-1].End, r.LSN)
		}
		if compareCommit(t, r, w.desc) {
			commits++
		}
		compareCheckpoint(t, r, w.desc)
	}
	if commits < 25 {
		t.Errorf("only %d commit records compared", commits)
	}
	if m := regexp.MustCompile(`at (\S+): invalid record length at (\S+):`).FindStringSubmatch(why); m == nil ||
		lsn(t, m[1]) != end.LastRecord || lsn(t, m[2]) != end.RecordEnd {
		t.Errorf("pg_waldump says %q, the end is %+v", why, end)
	}
	if e := findEnd(t, source(c), from, realParams(t, c)); e != end {
		t.Errorf("FindEnd gives %+v, Reader %+v", e, end)
	}
	first, err := os.ReadFile(filepath.Join(c.Data, "pg_wal", pos.SegName(1, from, segSize)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := walfmt.ParseLongHeader(first)
	if err != nil || id.SystemID != realParams(t, c).SystemID || id.SegSize != segSize || id.BlockSize != page ||
		id.Timeline != 1 || id.PageAddr != from.SegStart(segSize) {
		t.Errorf("ParseLongHeader: %+v, %v", id, err)
	}
}

// compareCommit compares a commit or abort record with pg_waldump's words.
func compareCommit(t *testing.T, r walfmt.Record, desc string) bool {
	t.Helper()
	kind, rest, _ := strings.Cut(desc, " ")
	isCommit := r.RMgr == 1 && (strings.HasPrefix(kind, "COMMIT") || strings.HasPrefix(kind, "ABORT"))
	got, ok := r.Commit()
	if ok != isCommit {
		t.Fatalf("Commit() is %v for %s", ok, desc)
	}
	if !ok {
		return false
	}
	want := got.Time.Format("2006-01-02 15:04:05.000000 MST")
	if got.Prepared {
		want = fmt.Sprintf("%d: %s", got.XID, want)
	} else if got.XID != r.XID {
		t.Fatalf("%s: XID %d of record %d", desc, got.XID, r.XID)
	}
	if !strings.HasPrefix(rest, want) || got.Aborted != strings.HasPrefix(kind, "ABORT") || got.Prepared != strings.HasSuffix(kind, "_PREPARED") {
		t.Fatalf("got %+v, pg_waldump has %s", got, desc)
	}
	return true
}

func compareCheckpoint(t *testing.T, r walfmt.Record, desc string) {
	t.Helper()
	got, ok := r.Checkpoint()
	if ok != (r.RMgr == 0 && strings.HasPrefix(desc, "CHECKPOINT_") && !strings.HasPrefix(desc, "CHECKPOINT_REDO")) {
		t.Fatalf("Checkpoint() is %v for %s", ok, desc)
	}
	if !ok {
		return
	}
	kind := "ONLINE"
	if got.Shutdown {
		kind = "SHUTDOWN"
	}
	if want := fmt.Sprintf("CHECKPOINT_%s redo %s; tli %d; prev tli %d;", kind, got.Redo, got.Timeline, got.PrevTimeline); !strings.HasPrefix(desc, want) {
		t.Fatalf("got %s, pg_waldump has %s", want, desc)
	}
}

// firstRecordAt is where the record stands that is written at log end l.
func firstRecordAt(l pos.LSN) pos.LSN {
	switch {
	case l%segSize == 0:
		return l + 40
	case l%page == 0:
		return l + 24
	}
	return l
}

// goesOnAt starts the crashed server and checks that it goes on at e.LogEnd.
func goesOnAt(t *testing.T, c *pgtest.Cluster, e walfmt.End) {
	t.Helper()
	before := len(c.Log())
	c.Start(t)
	c.Stop(syscall.SIGINT)
	log := c.Log()[before:]
	if !strings.Contains(log, "redo done at "+e.LastRecord.String()+" ") {
		t.Errorf("the last record is %s, the server says\n%s", e.LastRecord, log)
	}
	// Named, since pg_waldump otherwise asks any file for the segment size,
	// also one that is all zeros.
	lines, why := waldump(t, c, e.RecordEnd, "-n", "1", pos.SegName(1, e.RecordEnd, segSize), pos.SegName(1, e.LogEnd, segSize))
	if len(lines) == 0 || lines[0].lsn != firstRecordAt(e.LogEnd) || lines[0].prev != e.LastRecord {
		t.Fatalf("the end is %+v, the server went on with %+v %s\n%s", e, lines, why, log)
	}
	if got := strings.HasPrefix(lines[0].desc, "OVERWRITE_CONTRECORD lsn "+e.Aborted.String()+";"); got != (e.Aborted != 0) {
		t.Errorf("the end is %+v, the server went on with %s", e, lines[0].desc)
	}
	// Our reader sees the same continuation, across the void record.
	r := walfmt.NewReader(source(c), e.RecordEnd, walfmt.Params{SegSize: segSize})
	rec, err := r.Next()
	if err != nil || rec.LSN != lines[0].lsn || rec.Prev != lines[0].prev {
		t.Fatalf("Next after the restart: %+v, %v; pg_waldump has %+v", rec, err, lines[0])
	}
	if void, ok := rec.OverwriteContrecord(); ok != (e.Aborted != 0) || void != e.Aborted {
		t.Errorf("OverwriteContrecord() is %s, %v with %+v", void, ok, e)
	}
}

func TestFindEnd_WherePostgreSQLGoesOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "100MB")
	from := redo(t, c)
	// The last record is at least ten pages long and crosses a segment.
	c.Exec(t, "select pg_switch_wal(); select pg_logical_emit_message(true, 'p', repeat('m', 1000000)); select pg_logical_emit_message(false, 'p', repeat('n', 100000))")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', 'flush')")
	c.Crash()
	prm := realParams(t, c)
	records, whole := readAll(t, source(c), from, prm)
	var big walfmt.Record
	for _, r := range records {
		if r.Len > 100000 && r.Len < 200000 {
			big = r
		}
	}
	first := big.LSN - big.LSN%page + page // its first continuation
	last := big.End - big.End%page
	seg := big.LSN.SegEnd(segSize)
	if big.End <= seg || seg <= first || last <= seg+page {
		t.Fatalf("the record [%s, %s) does not cross the segment's end at %s", big.LSN, big.End, seg)
	}
	saved := filepath.Join(filepath.Dir(c.Data), "saved")
	copyDir(t, c, c.Data, saved)

	for name, tt := range map[string]struct {
		zero    pos.LSN // zeros from here on; 0 for none
		flip    pos.LSN // a byte to change
		logEnd  pos.LSN
		aborted bool
	}{
		"Whole":                 {logEnd: whole.RecordEnd},
		"ZeroLength":            {zero: big.LSN, logEnd: big.LSN},
		"HeaderOnly":            {zero: big.LSN + 24, logEnd: first, aborted: true},
		"FirstContinuation":     {zero: first, logEnd: first, aborted: true},
		"InsideContinuation":    {zero: first + page + 5000, logEnd: first + 2*page, aborted: true},
		"InsidePageHeader":      {zero: first + page + 10, logEnd: first + page, aborted: true},
		"SegmentEnd":            {zero: seg, logEnd: seg, aborted: true},
		"InsideLongHeader":      {zero: seg + 30, logEnd: seg, aborted: true},
		"SecondOfSegment":       {zero: seg + page, logEnd: seg + page, aborted: true},
		"LastPage":              {zero: last, logEnd: last, aborted: true},
		"ContentInFirstPage":    {flip: big.LSN + 50, logEnd: last, aborted: true},
		"ContentInLastPage":     {flip: big.End - 20, logEnd: last, aborted: true},
		"PageAddress":           {flip: first + 2*page + 9, logEnd: first + 2*page, aborted: true},
		"RemainingLength":       {flip: first + page + 17, logEnd: first + page, aborted: true},
		"ChecksumOfSmallRecord": {flip: big.End + 30, logEnd: big.End},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(c.Data); err != nil {
				t.Fatal(err)
			}
			copyDir(t, c, saved, c.Data)
			if tt.zero != 0 {
				zeroFrom(t, c, tt.zero)
			}
			if tt.flip != 0 {
				flip(t, c, tt.flip)
			}
			e := findEnd(t, source(c), from, prm)
			if e.LogEnd != tt.logEnd || (e.Aborted != 0) != tt.aborted {
				t.Errorf("got %+v, want log end %s, aborted %v", e, tt.logEnd, tt.aborted)
			}
			goesOnAt(t, c, e)
		})
	}
}

// After a checkpoint PostgreSQL renames old segments to future ones: behind the
// end stand whole pages with good records of long ago.
func TestFindEnd_RecycledSegments(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "0")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', repeat('m', 5000)) from generate_series(1, 1000)")
	c.Exec(t, "checkpoint")
	c.Exec(t, "select pg_switch_wal(); select pg_logical_emit_message(true, 'p', 'next')")
	c.Exec(t, "checkpoint")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', repeat('m', 500000)); select pg_logical_emit_message(true, 'p', 'last')")
	c.Crash()
	files, err := os.ReadDir(source(c).dir)
	if err != nil {
		t.Fatal(err)
	}
	e := findEnd(t, source(c), redo(t, c), realParams(t, c))
	last, recycled := pos.SegName(1, e.LogEnd, segSize), 0
	for _, f := range files {
		b := make([]byte, 40)
		if _, err := (walDir{source(c).dir, 1, segSize}).ReadWAL(b, segAddr(f.Name())); len(f.Name()) == 24 && f.Name() > last && err == nil {
			if id, err := walfmt.ParseLongHeader(b); err == nil && id.PageAddr < e.LogEnd {
				recycled++
			}
		}
	}
	if recycled == 0 {
		t.Fatalf("no recycled segment after %s", last)
	}
	goesOnAt(t, c, e)
}

func segAddr(name string) pos.LSN {
	_, at, _ := pos.ParseSegName(name, segSize)
	return at
}

func copyDir(t *testing.T, c *pgtest.Cluster, from, to string) {
	t.Helper()
	cmd := c.Command(t, "postgres")
	cmd.Path, cmd.Args = "/bin/cp", []string{"cp", "-a", from, to}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cp: %v %s", err, out)
	}
}

// zeroFrom overwrites all of pg_wal from at on with zeros.
func zeroFrom(t *testing.T, c *pgtest.Cluster, at pos.LSN) {
	t.Helper()
	for seg := at.SegStart(segSize); ; seg += segSize {
		f, err := os.OpenFile(filepath.Join(c.Data, "pg_wal", pos.SegName(1, seg, segSize)), os.O_WRONLY, 0)
		if os.IsNotExist(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		skip := at.Sub(seg)
		if _, err := f.WriteAt(make([]byte, segSize-skip), int64(skip)); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// flip changes the byte at at.
func flip(t *testing.T, c *pgtest.Cluster, at pos.LSN) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(c.Data, "pg_wal", pos.SegName(1, at, segSize)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(at%segSize)); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], int64(at%segSize)); err != nil {
		t.Fatal(err)
	}
}
