package local_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/locationtest"
)

// place makes a location in a new directory.
func place(t *testing.T) (*local.Location, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "place")
	return at(t, dir), dir
}

func at(t *testing.T, dir string) *local.Location {
	t.Helper()
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	loc := local.New(dir)
	t.Cleanup(func() { loc.Close() })
	return loc
}

// leftovers are all files below dir that are no objects, and empty folders.
func leftovers(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil:
			return err
		case rel == "." || rel == local.Marker || rel == ".tmp":
		case d.IsDir():
			entries, err := os.ReadDir(p)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				out = append(out, rel+"/")
			}
		case location.CheckKey(rel) != nil:
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLocation_Suite(t *testing.T) {
	dirs := make(map[location.Location]string)
	locationtest.Run(t, func(t *testing.T) location.Location {
		loc, dir := place(t)
		dirs[loc] = dir
		return loc
	}, locationtest.Features{Resume: true, Space: true, Leftovers: func(t *testing.T, loc location.Location) []string {
		return leftovers(t, dirs[loc])
	}})
}
