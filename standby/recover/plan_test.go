package recover_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/standby/recover"
)

func TestMakePlan_Refuses(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(7), place)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change func(r *recover.Request)
		want   string
		err    error
	}{
		"Major":        {func(r *recover.Request) { r.Local.Major = 16 }, "PostgreSQL 15", recover.ErrRefused},
		"Architecture": {func(r *recover.Request) { r.Local.Architecture = "arm64" }, "x86_64", recover.ErrRefused},
		"BlockSize":    {func(r *recover.Request) { r.Local.BlockSize = 4096 }, "8192", recover.ErrRefused},
		"Catalog":      {func(r *recover.Request) { r.Local.CatalogVersion = 1 }, "catalog version", recover.ErrRefused},
		"System":       {func(r *recover.Request) { r.SystemID = 5 }, "system identifier", recover.ErrRefused},
		"Digest":       {func(r *recover.Request) { r.Digest = "00" }, "digest", recover.ErrRefused},
		"NoSet":        {func(r *recover.Request) { r.Label = "20200101-000000F" }, "no such object", recover.ErrRefused},
		"Label":        {func(r *recover.Request) { r.Label = "../x" }, "no label", recover.ErrRefused},
		"RelativeDir":  {func(r *recover.Request) { r.DataDir = "data" }, "absolute", recover.ErrRefused},
		"RootDir":      {func(r *recover.Request) { r.DataDir = "/" }, "below /", recover.ErrRefused},
		"Foreign":      {func(r *recover.Request) { r.DataDir = full }, "no database", recover.ErrOccupied},
		"ForeignDelta": {func(r *recover.Request) { r.DataDir, r.Mode = full, recover.Delta }, "no database", recover.ErrOccupied},
		"NoPort":       {func(r *recover.Request) { r.Mode = recover.Beside }, "port", recover.ErrRefused},
		"NoCommand":    {func(r *recover.Request) { r.RestoreCommand = "" }, "restore command", recover.ErrRefused},
		"EarlyLSN":     {func(r *recover.Request) { r.Aim.Target.LSN = 0x2000050 }, "consistent at 0/2000100", recover.ErrRefused},
		"EarlyTime":    {func(r *recover.Request) { r.Aim.Target = at(fakeEnded.Add(-time.Second)) }, "ended at", recover.ErrRefused},
		"ShutdownAtEnd": {func(r *recover.Request) {
			r.Aim = recover.Aim{Target: catalog.Target{Kind: catalog.Latest}, Action: recover.Shutdown}
		}, "end of the log", recover.ErrRefused},
		"TwoTimelines":  {func(r *recover.Request) { r.Aim.Along, r.Aim.Newest = 2, true }, "timeline", recover.ErrRefused},
		"SpaceUnknown":  {func(r *recover.Request) { r.Tablespaces = map[uint32]string{f.spaceOf: t.TempDir(), 9: "/x"} }, "no tablespace 9", recover.ErrRefused},
		"SpaceInside":   {func(r *recover.Request) { r.Tablespaces[f.spaceOf] = filepath.Join(r.DataDir, "x") }, "overlaps", recover.ErrRefused},
		"SpaceFull":     {func(r *recover.Request) { r.Tablespaces[f.spaceOf] = full }, "not empty", recover.ErrRefused},
		"SpaceRelative": {func(r *recover.Request) { r.Tablespaces[f.spaceOf] = "x" }, "absolute", recover.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			r := f.request(t)
			row.change(&r)
			_, err := recover.MakePlan(context.Background(), r, sources(place))
			if !errors.Is(err, row.err) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v, want one with %q", err, row.want)
			}
			if exists(r.DataDir) && r.DataDir != full && r.DataDir != "/" {
				t.Error("the directory was made")
			}
		})
	}
}

func at(when time.Time) catalog.Target {
	return catalog.Target{Kind: catalog.AtTime, Time: when, Inclusive: true}
}

func TestMakePlan_DeltaRefusesWhatIsNotThisDatabase(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(8), place)
	r := f.request(t)
	mustExecute(t, mustPlan(t, r, sources(place)), sources(place), recover.Options{Volatile: true})
	if _, err := recover.MakePlan(context.Background(), r, sources(place)); !errors.Is(err, recover.ErrOccupied) {
		t.Errorf("fresh over a database: %v", err)
	}
	r.Mode = recover.Delta
	pid := filepath.Join(r.DataDir, "postmaster.pid")
	if err := os.WriteFile(pid, []byte(fmt.Sprintln(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := recover.MakePlan(context.Background(), r, sources(place)); !errors.Is(err, recover.ErrOccupied) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("delta over a running database: %v", err)
	}
	p := func() error { _, err := recover.MakePlan(context.Background(), r, sources(place)); return err }
	os.Remove(pid)
	if err := p(); err != nil {
		t.Error(err)
	}
	flip(t, filepath.Join(r.DataDir, "global/pg_control"), 3)
	if err := p(); !errors.Is(err, recover.ErrOccupied) || !strings.Contains(err.Error(), "system identifier") {
		t.Errorf("delta over another database: %v", err)
	}
}

func TestPlan_IsData(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(9), place)
	p := mustPlan(t, f.request(t), sources(place))
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var q recover.Plan
	if err := json.Unmarshal(b, &q); err != nil {
		t.Fatal(err)
	}
	p.Made = q.Made // the clock's other half
	if !reflect.DeepEqual(p, q) {
		t.Errorf("%+v\nbecame\n%+v", p, q)
	}
}

// hostile stores a set whose list of files somebody changed, with everything
// else right for it.
func hostile(t *testing.T, change func(lines []backupset.File, set *backupset.Set) []backupset.File) (*fake, location.Location) {
	t.Helper()
	place, _ := newPlace(t)
	changeLines = change
	defer func() { changeLines = nil }()
	files := fakeFiles(10)
	delete(files, "base/5/16400")
	return newFake(t, files, place), place
}

func TestMakePlan_HostileSet(t *testing.T) {
	find := func(lines []backupset.File, path string) *backupset.File {
		for i := range lines {
			if lines[i].Path == path {
				return &lines[i]
			}
		}
		t.Fatalf("no %s", path)
		return nil
	}
	for name, change := range map[string]func(lines []backupset.File, set *backupset.Set) []backupset.File{
		"LongName": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "global/1262").Path = strings.Repeat("x", 300)
			return l
		},
		"Twice": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "base/5/1001").Path = "base/5/1000"
			return l
		},
		"Overlap": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "base/5/1002").Offset -= 8192
			return l
		},
		"BeyondArchive": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "base/5/1002").Offset = 1 << 50
			return l
		},
		"NoControl": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "global/pg_control").Path = "global/pg_contrl"
			return l
		},
		"NoLabel": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "backup_label").Path = "backup_labl"
			return l
		},
		"ForeignSpace": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "PG_15_202209061/5/200").Path = "PG_14_202209061/5/200"
			return l
		},
		"IntoSpace": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			find(l, "base/5/1001").Path = "pg_tblspc/16390/PG_15_202209061/5/1"
			return l
		},
		"Link": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			return append([]backupset.File{{Archive: backupset.BaseName, Path: "base", Type: backupset.TypeLink, Link: "/etc"}}, l...)
		},
		"LinkedSpace": func(l []backupset.File, _ *backupset.Set) []backupset.File {
			return append([]backupset.File{{Archive: backupset.BaseName, Path: "pg_tblspc/7", Type: backupset.TypeLink, Link: "/etc"}}, l...)
		},
		"NoSuchSpace": func(l []backupset.File, set *backupset.Set) []backupset.File { set.Tablespaces = nil; return l },
		"HugeSpread": func(l []backupset.File, set *backupset.Set) []backupset.File {
			f := find(l, "base/5/16402")
			f.Size = 1 << 35
			f.Digests = make([]byte, backupset.ChunkN(f.Size)*backupset.DigestSize)
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, place := hostile(t, change)
			r := f.request(t)
			_, err := recover.MakePlan(context.Background(), r, sources(place))
			if !errors.Is(err, recover.ErrRefused) {
				t.Errorf("error %v", err)
			}
			if exists(r.DataDir) {
				t.Error("the directory was made")
			}
		})
	}
}

// A file below what another line makes a file, or a set that names a file where
// a folder is needed, ends in an error and not outside the directory.
func TestExecute_HostileTree(t *testing.T) {
	f, place := hostile(t, func(l []backupset.File, _ *backupset.Set) []backupset.File {
		for i := range l {
			if l[i].Path == "base/5/1001" {
				l[i].Path = "PG_VERSION/1001"
			}
		}
		return l
	})
	p := mustPlan(t, f.request(t), sources(place))
	_, err := execute(p, sources(place), recover.Options{Volatile: true})
	if err == nil && startable(p.DataDir) {
		if b, err := os.ReadFile(filepath.Join(p.DataDir, "PG_VERSION")); err == nil && string(b) != "15\n" {
			t.Error("restored what cannot be")
		}
	}
}

func TestRemaining(t *testing.T) {
	for _, row := range []struct {
		done, total uint64
		taken, want time.Duration
	}{{0, 10, time.Second, 0}, {5, 10, time.Second, time.Second}, {10, 10, time.Second, 0}, {1, 1 << 62, time.Hour, 365 * 24 * time.Hour}} {
		if got := recover.Remaining(row.done, row.total, row.taken); got != row.want {
			t.Errorf("%+v: %s", row, got)
		}
	}
}
