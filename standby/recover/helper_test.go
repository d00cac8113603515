package recover_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"understudy/failover/pgctl"
	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/standby/recover"
	"understudy/standby/restore"
	"understudy/test/pgtest"
)

func root() backupset.Root { return backupset.Root{Group: "g", Profile: "postgres"} }

// newPlace is an empty local location.
func newPlace(t testing.TB) (location.Location, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	l := local.New(dir)
	t.Cleanup(func() { l.Close() })
	return l, dir
}

// origin is a server whose log is archived to a folder, with a tablespace of
// each kind.
type origin struct {
	*pgtest.Cluster
	wal   string
	space string
	oid   uint32
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	o := &origin{wal: pgtest.Dir(t), space: pgtest.Dir(t)}
	o.Cluster = pgtest.New(t, "--data-checksums", "allow_in_place_tablespaces=on", "wal_level=replica", "max_wal_senders=10", "fsync=off",
		"archive_mode=on", "archive_command=test ! -f "+o.wal+"/%f && cp %p "+o.wal+"/%f", "max_connections=37", "synchronous_standby_names=", "autovacuum=off")
	o.Exec(t, "create tablespace inside location ''")
	o.Exec(t, "create tablespace outside location '"+o.space+"'")
	for name, where := range map[string]string{"a": "", "b": " tablespace inside", "c": " tablespace outside"} {
		o.Exec(t, "create table "+name+"(i int primary key, f text)"+where)
		o.Exec(t, "insert into "+name+" select i, repeat(md5(i::text), 30) from generate_series(1, 3000) i")
	}
	o.Exec(t, "create table moments(n serial, at timestamptz default clock_timestamp())")
	n, _ := strconv.ParseUint(o.Query(t, "select oid from pg_tablespace where spcname = 'outside'"), 10, 32)
	o.oid = uint32(n)
	return o
}

// rows is what all tables hold.
func rows(t testing.TB, query func(string) string) string {
	t.Helper()
	var out []string
	for _, table := range []string{"a", "b", "c"} {
		out = append(out, query("select count(*) || ' ' || md5(string_agg(i || f, ',' order by i)) from "+table))
	}
	return strings.Join(append(out, query("select count(*) from moments")), "\n")
}

func (o *origin) rows(t testing.TB) string {
	return rows(t, func(sql string) string { return o.Query(t, sql) })
}

// archived switches the segment and waits until it is archived.
func (o *origin) archived(t testing.TB) {
	t.Helper()
	seg := o.Query(t, "select pg_walfile_name(pg_switch_wal() - 1)")
	pgtest.Eventually(t, 20*time.Second, "segment "+seg+" is archived", func() bool {
		return o.Query(t, "select last_archived_wal >= '"+seg+"' from pg_stat_archiver") == "t"
	})
}

// take makes a set and stores it at every place.
func (o *origin) take(t testing.TB, places ...location.Location) backupset.Set {
	t.Helper()
	cfg := backup.Config{ConnString: o.DSN(), Root: root(), Node: "main", Program: "test", Scratch: t.TempDir(),
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 0x1000000}}}
	for _, s := range sources(places...).Places {
		cfg.Dests = append(cfg.Dests, backup.Dest{Name: s.Name, Location: s.Location})
	}
	r, err := backup.Take(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.archived(t)
	return r.Set
}

func labelled(t testing.TB, label, mark string) pos.LSN {
	t.Helper()
	_, rest, _ := strings.Cut(label, mark)
	word, _, _ := strings.Cut(rest, " ")
	l, err := pos.ParseLSN(word)
	if err != nil {
		t.Fatalf("backup_label: %v", err)
	}
	return l
}

// changeLines makes a hostile set of the next one that is written; nil.
var changeLines func(lines []backupset.File, set *backupset.Set) []backupset.File

// writeSet stores tar files as a set at every place and completes its
// description by what it finds in them.
func writeSet(t testing.TB, set *backupset.Set, tars map[string]string, manifest string, places []location.Location) {
	t.Helper()
	var lines []backupset.File
	objects := map[string][]byte{}
	raw := map[string]int64{}
	names := make([]string, 0, len(tars))
	for name := range tars {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b, err := os.ReadFile(tars[name])
		if err != nil {
			t.Fatal(err)
		}
		cuts := readTar(t, name, b, func(f backupset.File, body []byte) {
			lines = append(lines, f)
			set.FileN++
			set.RawBytes += f.Size
			if f.Path == "backup_label" && name == backupset.BaseName {
				set.Start = labelled(t, string(body), "START WAL LOCATION: ")
			}
		})
		objects[name], raw[name] = compress(t, b, cuts), int64(len(b))
	}
	if changeLines != nil {
		lines = changeLines(lines, set)
	}
	var list bytes.Buffer
	files := backupset.NewFileWriter(&list)
	for _, f := range lines {
		if err := files.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	files.Flush()
	objects[backupset.FilesName], raw[backupset.FilesName] = encode(t, list.Bytes()), int64(list.Len())
	m, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	objects[backupset.ManifestName], raw[backupset.ManifestName] = m, int64(len(m))
	// The manifest says where recovery is consistent.
	_, rest, _ := strings.Cut(string(m), `"End-LSN": "`)
	end, _, _ := strings.Cut(rest, `"`)
	if set.End, err = pos.ParseLSN(end); err != nil {
		t.Fatalf("manifest: %v", err)
	}
	for name, b := range objects {
		sum := blake3.Sum256(b)
		set.Objects = append(set.Objects, backupset.Object{Name: name, Bytes: int64(len(b)), RawBytes: raw[name], BLAKE3: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(set.Objects, func(a, b backupset.Object) int { return strings.Compare(a.Name, b.Name) })
	if objects[backupset.SetName], err = backupset.EncodeSet(*set); err != nil {
		t.Fatal(err)
	}
	for _, l := range places {
		for name, b := range objects {
			put(t, l, root().Object(set.Label, name), b)
		}
	}
}

// readTar lists a tar archive and returns where its frames may be cut.
func readTar(t testing.TB, name string, b []byte, each func(backupset.File, []byte)) (cuts []int64) {
	t.Helper()
	in := bytes.NewReader(b)
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return cuts
		}
		if err != nil {
			t.Fatal(err)
		}
		at := int64(len(b)) - int64(in.Len())
		f := backupset.File{Archive: name, Path: strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/"), Mode: uint32(h.Mode & 0o777), At: h.ModTime, Offset: at}
		switch h.Typeflag {
		case tar.TypeDir:
			f.Type = backupset.TypeFolder
		case tar.TypeSymlink:
			f.Type, f.Link = backupset.TypeLink, h.Linkname
		default:
			f.Size = h.Size
		}
		body := b[at : at+f.Size]
		for off := int64(0); off < f.Size; off += backupset.ChunkSize {
			chunk := body[off:min(off+backupset.ChunkSize, f.Size)]
			sum := blake3.Sum256(chunk)
			f.Digests = append(f.Digests, sum[:backupset.DigestSize]...)
			cuts = append(cuts, at+off)
		}
		cuts = append(cuts, at+f.Size)
		if f.Path == "" || f.Path == "." {
			continue
		}
		each(f, body)
	}
}

func encoder(t testing.TB) *zstd.Encoder {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func encode(t testing.TB, b []byte) []byte { return encoder(t).EncodeAll(b, nil) }

// compress makes frames of at most FrameTarget that end at cuts.
func compress(t testing.TB, b []byte, cuts []int64) []byte {
	t.Helper()
	e := encoder(t)
	defer e.Close()
	var frames backupset.Frames
	var out []byte
	from, last := int64(0), int64(0)
	frame := func(to int64) {
		if to == from {
			return
		}
		n := len(out)
		out = e.EncodeAll(b[from:to], out)
		frames.Add(int(to-from), len(out)-n)
		from = to
	}
	for _, c := range append(cuts, int64(len(b))) {
		if c-from > backupset.FrameTarget {
			frame(last)
		}
		last = c
	}
	frame(int64(len(b)))
	out, err := frames.AppendSeekTable(out)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func put(t testing.TB, l location.Location, key string, b []byte) {
	t.Helper()
	u, err := l.Create(context.Background(), key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func sources(places ...location.Location) recover.Sources {
	s := recover.Sources{Root: root()}
	for i, l := range places {
		s.Places = append(s.Places, recover.Source{Name: fmt.Sprint("place", i+1), Location: l})
	}
	return s
}

// request is one for an empty directory.
func (o *origin) request(t testing.TB, set backupset.Set) recover.Request {
	t.Helper()
	d := pgtest.Dir(t)
	r := recover.Request{
		Mode: recover.Fresh, DataDir: filepath.Join(d, "data"), Label: set.Label, SystemID: set.SystemID,
		Aim:            recover.Aim{Target: catalog.Target{Kind: catalog.Latest, Inclusive: true}},
		Local:          recover.Local{Major: pgtest.Major(t), BlockSize: 8192, Architecture: "amd64"},
		Tablespaces:    map[uint32]string{o.oid: filepath.Join(d, "outside")},
		RestoreCommand: "cp " + o.wal + "/%f %p", Now: time.Now(),
	}
	if c := pgtest.Credential(t); c != nil {
		r.Owner = &restore.Owner{UID: int(c.Uid), GID: int(c.Gid)}
	}
	return r
}

func mustPlan(t testing.TB, r recover.Request, s recover.Sources) recover.Plan {
	t.Helper()
	p, err := recover.MakePlan(context.Background(), r, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustExecute(t testing.TB, p recover.Plan, s recover.Sources, o recover.Options) recover.Result {
	t.Helper()
	r, err := recover.Execute(context.Background(), p, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// scratch is a server on a plan's directory.
func (o *origin) scratch(t testing.TB, p recover.Plan) *pgctl.Scratch {
	t.Helper()
	in, err := pgctl.Find(o.Bin)
	if err != nil {
		t.Fatal(err)
	}
	acc, err := pgctl.ResolveAccount("")
	if err != nil {
		t.Fatal(err)
	}
	d := pgtest.Dir(t)
	s := &pgctl.Scratch{
		Install: in, Account: acc, DataDir: p.DataDir, SocketDir: filepath.Join(d, "s"), Port: 5432, LogFile: filepath.Join(d, "log"),
		Settings: map[string]string{"fsync": "off", "shared_buffers": "16MB"}, Patience: time.Minute,
	}
	t.Cleanup(func() {
		s.Stop(context.Background())
		if t.Failed() {
			b, _ := os.ReadFile(s.LogFile)
			t.Logf("log of the restored server:\n%s", b)
		}
	})
	return s
}

// engine is what the daemon makes of a Scratch.
func engine(s *pgctl.Scratch) recover.Engine {
	return recover.Engine{
		Recover: func(ctx context.Context, set map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
			r, err := s.Recover(ctx, set, seen)
			return recover.Reached{LSN: r.LSN, Time: r.Time, Timeline: r.Timeline, Stop: r.Stop}, err
		},
		Stop:  s.Stop,
		Renew: s.Renew,
	}
}

// restoredRows starts a completed database and reads it.
func (o *origin) restoredRows(t testing.TB, p recover.Plan) string {
	t.Helper()
	s := o.scratch(t, p)
	if _, err := s.Recover(context.Background(), nil, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Stop(context.Background())
	return rows(t, func(sql string) string { return queryAt(t, s, sql) })
}

func queryAt(t testing.TB, s *pgctl.Scratch, sql string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.DSN("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	res, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil || len(res) == 0 || len(res[0].Rows) == 0 {
		t.Fatalf("%s: %v", sql, err)
	}
	return string(res[0].Rows[0][0])
}
