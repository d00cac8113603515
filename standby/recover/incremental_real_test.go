package recover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/standby/recover"
	"understudy/test/pgtest"
)

// takeOn takes an incremental set on another.
func (o *origin) takeOn(t testing.TB, parent backupset.Set, places ...location.Location) backupset.Set {
	t.Helper()
	r, err := o.tryOn(t, parent, places...)
	if err != nil {
		t.Fatal(err)
	}
	o.archived(t)
	return r.Set
}

func (o *origin) tryOn(t testing.TB, parent backupset.Set, places ...location.Location) (backup.Result, error) {
	cfg := backup.Config{ConnString: o.DSN(), Root: root(), Node: "main", Program: "test", Scratch: t.TempDir(),
		Label: after(t, parent.Label), Parent: &backup.Parent{Label: parent.Label},
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 0x1000000}}}
	for _, s := range sources(places...).Places {
		cfg.Dests = append(cfg.Dests, backup.Dest{Name: s.Name, Location: s.Location})
		cfg.Parent.From = append(cfg.Parent.From, backup.Dest{Name: s.Name, Location: s.Location})
	}
	return backup.Take(context.Background(), cfg)
}

// change is some life between two sets: growth, updates, a cut, a table that
// goes and one that comes.
func (o *origin) change(t testing.TB, round int) {
	t.Helper()
	for _, sql := range []string{
		"insert into a select i, repeat(md5(i::text), 30) from generate_series({n}0001, {n}2000) i",
		"update b set f = 'changed in {n}' where i % 10 = 0",
		"delete from c where i > 3000 - {n} * 700",
		"vacuum c",
		"create table t{n} tablespace outside as select i, md5(i::text) f from generate_series(1, 5000) i",
		"insert into moments default values",
		"checkpoint",
	} {
		o.Exec(t, strings.ReplaceAll(sql, "{n}", fmt.Sprint(round)))
	}
	if round > 1 {
		o.Exec(t, fmt.Sprintf("drop table t%d", round-1))
	}
}

// chain is a full set and two that are built on it, with what the tables held in
// the end.
func (o *origin) chain(t *testing.T, place location.Location) (sets []backupset.Set, rows string) {
	t.Helper()
	if changed, err := backup.Summarize(context.Background(), o.DSN()); err != nil || !changed {
		t.Fatalf("turn summaries on: %v, %v", changed, err)
	}
	sets = append(sets, o.take(t, place))
	for round := range 2 {
		o.change(t, round+1)
		sets = append(sets, o.takeOn(t, sets[round], place))
	}
	o.Exec(t, "insert into a values (77777777, 'after the last set')")
	rows = o.rows(t)
	o.archived(t)
	return sets, rows
}

// after is the label of an incremental set that began a second after another.
func after(t testing.TB, label string) string {
	t.Helper()
	at, err := backupset.ParseLabel(label)
	if err != nil {
		t.Fatal(err)
	}
	return backupset.NewIncrementalLabel(at.Add(time.Second))
}

// patience is how long a server may take to do as it was told.
const patience = 20 * time.Second

func TestIncremental_RealDatabase(t *testing.T) {
	pgtest.Need(t, basestream.MinIncremental)
	o := newOrigin(t)
	place, dir := newPlace(t)
	sets, want := o.chain(t, place)
	if n, full := sets[1].StoredBytes(), sets[0].StoredBytes(); n*3 > full || sets[2].Parent != sets[1].Label {
		t.Errorf("an incremental set of %d bytes on a full one of %d, built on %s", n, full, sets[2].Parent)
	}
	top := sets[2]
	for _, mode := range []recover.Mode{recover.Fresh, recover.Delta} {
		t.Run(string(mode), func(t *testing.T) {
			r := o.request(t, top)
			r.Local = recover.Local{Major: pgtest.Major(t)}
			if mode == recover.Delta {
				o.overOther(t, &r, sets[0], place)
			}
			p := mustPlan(t, r, sources(place))
			mustExecute(t, p, sources(place), recover.Options{})
			if _, err := recover.Complete(context.Background(), p, engine(o.scratch(t, p)), recover.CompleteOptions{}); err != nil {
				t.Fatal(err)
			}
			o.Tool(t, "pg_checksums", "--check", "-D", p.DataDir)
			if got := o.restoredRows(t, p); got != want {
				t.Errorf("rows:\n%s\nwant:\n%s", got, want)
			}
		})
	}
	t.Run("StockTools", func(t *testing.T) { o.combine(t, sets, dir, place, want) })
	t.Run("Refusals", func(t *testing.T) { o.refusals(t, sets, place) })
}

// overOther makes the destination hold the database as an older set has it.
func (o *origin) overOther(t *testing.T, r *recover.Request, older backupset.Set, place location.Location) {
	first := *r
	first.Label = older.Label
	p := mustPlan(t, first, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	if err := recover.Forget(p.DataDir); err != nil {
		t.Fatal(err)
	}
	r.Mode = recover.Delta
}

// combine restores with zstd, tar and pg_combinebackup alone, and compares every
// file of a relation with what Execute makes.
func (o *origin) combine(t *testing.T, sets []backupset.Set, dir string, place location.Location, want string) {
	for _, tool := range []string{"zstd", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this host", tool)
		}
	}
	work := pgtest.Dir(t)
	out := filepath.Join(work, "data")
	args := []string{"--no-sync", "-o", out, fmt.Sprintf("--tablespace-mapping=%s=%s", filepath.Join(work, "space2"), filepath.Join(work, "space"))}
	for i, s := range sets {
		d := filepath.Join(work, fmt.Sprint("set", i))
		from := filepath.Join(dir, root().SetDir(s.Label)) + "/"
		script := fmt.Sprintf("mkdir -m 700 %[1]s && zstd -dc %[2]sbase.tar.zst | tar -x -C %[1]s && cp %[2]sbackup_manifest %[1]s", d, from)
		for _, ts := range s.Tablespaces {
			to := filepath.Join(d, "pg_tblspc", fmt.Sprint(ts.OID))
			if !ts.InPlace {
				space := filepath.Join(work, fmt.Sprint("space", i))
				script += fmt.Sprintf(" && mkdir -m 700 %[1]s && ln -sfn %[1]s %[2]s", space, to)
			}
			script += fmt.Sprintf(" && mkdir -p %[1]s && zstd -dc %[2]s%[3]d.tar.zst | tar -x -C %[1]s/", to, from, ts.OID)
		}
		run(t, script)
		args = append(args, d)
	}
	run(t, "chown -R --reference="+work+" "+work)
	o.Tool(t, "pg_combinebackup", args...)

	r := o.request(t, sets[len(sets)-1])
	r.Local = recover.Local{}
	p := mustPlan(t, r, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	ours, theirs := readTree(t, p.DataDir), readTree(t, out)
	for name, b := range readTree(t, p.Spaces[indexOfSpace(p, o.oid)].Dir) {
		ours["space/"+name] = b
	}
	for name, b := range readTree(t, filepath.Join(work, "space")) {
		theirs["space/"+name] = b
	}
	n := 0
	for name, b := range theirs {
		if strings.HasPrefix(name, "base/") || strings.HasPrefix(name, "global/") || strings.HasPrefix(name, "space/") || strings.HasPrefix(name, "pg_tblspc/") || strings.HasPrefix(name, "pg_xact/") {
			n++
			if got, ok := ours[name]; !ok || !bytes.Equal(got, b) {
				t.Errorf("%s: there %v, %d bytes instead of %d, or others", name, ok, len(got), len(b))
			}
		}
		delete(ours, name)
	}
	for name := range ours {
		if strings.HasPrefix(name, "base/") || strings.HasPrefix(name, "space/") {
			t.Errorf("%s is too much", name)
		}
	}
	if n < 500 {
		t.Errorf("%d files were compared", n)
	}
	if err := os.WriteFile(filepath.Join(out, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := *o.Cluster
	c.Data, c.Socket = out, pgtest.Dir(t)
	c.Port = pgtest.FreePort(t)
	c.AppendConf(t, "archive_mode=off\nrestore_command='"+r.RestoreCommand+"'")
	pgtest.Own(t, filepath.Join(out, "recovery.signal"))
	c.Start(t)
	defer c.Stop(syscall.SIGINT)
	pgtest.Eventually(t, patience, "the recovery ends", func() bool { return c.Query(t, "select pg_is_in_recovery()") == "f" })
	if got := rows(t, func(sql string) string { return c.Query(t, sql) }); got != want {
		t.Errorf("rows:\n%s\nwant:\n%s", got, want)
	}
}

func indexOfSpace(p recover.Plan, oid uint32) int {
	for i, s := range p.Spaces {
		if s.OID == oid {
			return i
		}
	}
	return -1
}

func run(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", "set -e; "+script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// refusals are the ways in which a server does not offer an incremental backup.
func (o *origin) refusals(t *testing.T, sets []backupset.Set, place location.Location) {
	empty, _ := newPlace(t)
	if _, err := o.tryOn(t, sets[2], empty); !errors.Is(err, backup.ErrNotIncremental) || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("no manifest: %v", err)
	}
	o.Exec(t, "alter system set summarize_wal = off")
	o.Exec(t, "select pg_reload_conf()")
	pgtest.Eventually(t, patience, "the server takes over summarize_wal", func() bool { return o.Query(t, "show summarize_wal") == "off" })
	if _, err := o.tryOn(t, sets[2], place); !errors.Is(err, backup.ErrNotIncremental) || !strings.Contains(err.Error(), "summarize_wal = on") {
		t.Errorf("no summaries: %v", err)
	}
	// Log that was written meanwhile and removed is in no summary.
	o.Exec(t, "create table gone as select 1")
	o.archived(t)
	o.Exec(t, "checkpoint")
	o.archived(t)
	o.Exec(t, "checkpoint")
	if _, err := backup.Summarize(context.Background(), o.DSN()); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, patience, "the server takes over summarize_wal", func() bool { return o.Query(t, "show summarize_wal") == "on" })
	removeSummaries(t, o)
	if _, err := o.tryOn(t, sets[2], place); !errors.Is(err, backup.ErrNotIncremental) || !strings.Contains(err.Error(), "PostgreSQL says") {
		t.Errorf("missing summaries: %v", err)
	}
}

// removeSummaries takes the summaries of the log away, as their time limit does.
func removeSummaries(t *testing.T, o *origin) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(o.Data, "pg_wal/summaries/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}
