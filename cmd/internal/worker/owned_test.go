package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
)

// put stores an object.
func put(l location.Location, key string, b []byte) error {
	u, err := l.Create(context.Background(), key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		return err
	}
	if _, err := u.Write(b); err != nil {
		return errors.Join(err, u.Abort())
	}
	_, err = u.Commit(context.Background())
	return err
}

// export is the export of a new group with that database.
func export(t *testing.T, systemID uint64) []byte {
	t.Helper()
	st, out := facts.Apply(facts.State{}, facts.Command{At: time.Unix(1, 0), Found: &facts.Found{
		Group:  facts.Group{ID: "g", Name: "shop", LedgerID: "l", SystemID: systemID, PGMajor: 15, SegSize: 16 << 20},
		Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData},
	}})
	if out.Refused != "" {
		t.Fatal(out.Refused)
	}
	b, err := facts.Export(st)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOwned: into the folder where another database's backups lie nothing is
// written and nothing removed, until they were moved away.
func TestOwned(t *testing.T) {
	for name, tt := range map[string]struct {
		there []byte // the export at the location; nil for none
		ours  bool
	}{
		"New":             {nil, true},
		"Ours":            {export(t, 7), true},
		"AnotherDatabase": {export(t, 8), false},
		"Unreadable":      {[]byte("sealed"), true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := local.Init(dir); err != nil {
				t.Fatal(err)
			}
			bare := local.New(dir)
			defer bare.Close()
			if tt.there != nil {
				if err := put(bare, backupset.LedgerKey("shop"), tt.there); err != nil {
					t.Fatal(err)
				}
			}
			o := &owned{Location: bare, group: facts.Group{Name: "shop", SystemID: 7}}
			_, swept := o.Sweep(context.Background(), time.Now())
			for what, err := range map[string]error{"Create": put(o, "shop/postgres/wal/x", []byte("x")), "Remove": o.Remove(context.Background(), "shop/postgres/wal/x"), "Sweep": swept} {
				switch {
				case tt.ours && err != nil:
					t.Errorf("%s: %v", what, err)
				case !tt.ours && (!errors.Is(err, errOtherDatabase) || !strings.Contains(err.Error(), "move shop/ away")):
					t.Errorf("%s: %v", what, err)
				}
			}
			if tt.ours {
				return
			}
			r, err := o.Open(context.Background(), backupset.LedgerKey("shop"), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || len(b) != len(tt.there) {
				t.Errorf("what is there reads as %d bytes, %v", len(b), err)
			}
			r.Close()
			if err := os.Rename(filepath.Join(dir, "shop"), filepath.Join(dir, "shop-old")); err != nil {
				t.Fatal(err)
			}
			if err := put(o, "shop/postgres/wal/x", []byte("x")); err != nil {
				t.Errorf("after it was moved away: %v", err)
			}
		})
	}
}

// away is a location that cannot be read for a moment.
type away struct {
	location.Location
	is bool
}

func (a *away) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if a.is {
		return nil, location.ErrUnreachable
	}
	return a.Location.Open(ctx, key, off, n)
}

// TestOwned_AfterAFailure: a look that failed is no answer.
func TestOwned_AfterAFailure(t *testing.T) {
	dir := t.TempDir()
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	bare := local.New(dir)
	defer bare.Close()
	if err := put(bare, backupset.LedgerKey("shop"), export(t, 8)); err != nil {
		t.Fatal(err)
	}
	a := &away{Location: bare, is: true}
	o := &owned{Location: a, group: facts.Group{Name: "shop", SystemID: 7}}
	if err := put(o, "shop/postgres/wal/x", []byte("x")); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("while it cannot be read: %v", err)
	}
	a.is = false
	if err := put(o, "shop/postgres/wal/x", []byte("x")); !errors.Is(err, errOtherDatabase) {
		t.Errorf("afterwards: %v", err)
	}
}
