package tail_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/standby/tail"
)

func TestReport_Text(t *testing.T) {
	at := time.Date(2031, 5, 6, 7, 8, 9, 120_000_000, time.UTC)
	rep := tail.Report{
		Epoch: epoch(7), Timeline: 2, From: 0x3000060, To: 0x3002000, Bytes: 0x1FA0, Decoded: 0x3001F00, Partial: true,
		Files: []string{"000000020000000000000003"}, Path: "/var/lib/tails/x", More: 3, MoreCommitted: 2,
		Transactions: []tail.Transaction{
			{XID: 10, Committed: true, End: 0x3001000, Time: at, Tables: []tail.Table{
				{Database: 5, Relfilenode: 1259, Updates: 2}, {Database: 5, Relfilenode: 1249, Inserts: 1},
				{Database: 5, Relfilenode: 16385, Name: "public.a\x1b[2J", Inserts: 1, Updates: 2, Deletes: 3},
				{Database: 5, Relfilenode: 16386, Truncates: 1}}, MoreTables: 1},
			{XID: 11, End: 0x3001100, Time: at.Add(time.Second)},
			{XID: 12, InFlight: true, Tables: []tail.Table{{Database: 5, Relfilenode: 1259, Name: "pg_class", Updates: 2}}},
			{XID: 13, InFlight: true, Prepared: true},
		},
	}
	want := `The primary of epoch 1.7 wrote 8096 bytes from 0/3000060 to 0/3002000 on timeline 2 that the group did not take over. In them 3 transactions committed, 2 rolled back, 2 did not end. The log ends within a record, at 0/3001F00. The log is kept; to look into it: pg_waldump -p /var/lib/tails/x -t 2 -s 0/3000060
0/3001000  2031-05-06 07:08:09.120 UTC  transaction 10 committed: public.a?[2J 1 inserted, 2 updated, 3 deleted; relation file 5/16386 emptied or dropped; system catalogs 3 changes; 1 more relation
0/3001100  2031-05-06 07:08:10.120 UTC  transaction 11 rolled back: no rows
transaction 12 did not end: pg_class 2 updated
transaction 13 prepared, not decided: no rows
and 3 more transactions, 2 of them committed
`
	if got := rep.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	rep.Partial, rep.Reason = false, "a page is damaged"
	if got := rep.Text(); !strings.Contains(got, " Records end at 0/3001F00: a page is damaged. ") {
		t.Errorf("got\n%s", got)
	}
}

func TestReport_LostBetween(t *testing.T) {
	var rep tail.Report
	for i := range 6 {
		rep.Transactions = append(rep.Transactions, tail.Transaction{XID: uint32(i), Committed: i != 3, End: pos.LSN(100 + 10*i)})
	}
	rep.Transactions = append(rep.Transactions, tail.Transaction{XID: 9, InFlight: true})
	var got []uint32
	for _, tr := range rep.LostBetween(110, 140) {
		got = append(got, tr.XID)
	}
	if len(got) != 2 || got[0] != 2 || got[1] != 4 {
		t.Errorf("got %v", got)
	}
	if got := rep.LostBetween(140, 140); len(got) != 0 {
		t.Errorf("nothing lies in an empty range, got %v", got)
	}
}

func TestLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tails")
	if got, err := tail.Load(dir); got != nil || err != nil {
		t.Fatal(got, err)
	}
	src := memory{start: 4 * segSize, b: make([]byte, segSize)}
	keep := func(e uint64, from, to pos.LSN) {
		t.Helper()
		cfg := tail.Config{Source: src, From: from, To: to, SegSize: segSize, Timeline: 1, Epoch: epoch(e), Dir: dir}
		if _, err := tail.Keep(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	keep(2, src.start+80, src.start+160)
	keep(10, src.start+80, src.start+160)
	keep(10, src.start+80, src.start+168)
	keep(9, src.start+800, src.start+808)
	keep(9, src.start+88, src.start+808)
	for path, text := range map[string]string{"1.1-0_1/report.json": "{", "1.1-0_2/report.json": `{"version":9}`, "1.1-0_3.part/x": "", "notes": ""} {
		name := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := tail.Load(dir)
	var got []string
	for _, r := range all {
		got = append(got, r.Epoch.String()+" "+r.From.String()+" "+r.To.String())
		if _, err := os.Stat(filepath.Join(r.Path, r.Files[0])); err != nil {
			t.Error(err)
		}
	}
	want := "1.10 0/400050 0/4000A8, 1.10 0/400050 0/4000A0, 1.9 0/400320 0/400328, 1.9 0/400058 0/400328, 1.2 0/400050 0/4000A0"
	if strings.Join(got, ", ") != want {
		t.Errorf("got %v", got)
	}
	if err == nil || !strings.Contains(err.Error(), "1.1-0_1") || !strings.Contains(err.Error(), "version 9") || strings.Contains(err.Error(), "1.1-0_3") {
		t.Errorf("got %v", err)
	}
	// A tail whose report is damaged is not overwritten by a new Keep.
	if err := os.WriteFile(filepath.Join(all[4].Path, "report.json"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	keep(2, src.start+80, src.start+160)
	if names := strings.Join(dirNames(t, dir), " "); !strings.Contains(names, "1.2-0_400050 1.2-0_400050-2") || strings.Contains(names, ".part") {
		t.Error(names)
	}
}
