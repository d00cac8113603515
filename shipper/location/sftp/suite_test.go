package sftp_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"understudy/shipper/location"
	"understudy/shipper/location/locationtest"
	"understudy/test/backupservers"
)

func TestLocation_Suite(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	var root string
	f := features(&root)
	locationtest.Run(t, func(t *testing.T) location.Location {
		root = s.NewDir(t)
		cfg := configOf(s)
		cfg.Root = root
		return open(t, cfg)
	}, f)
}

func features(root *string) locationtest.Features {
	return locationtest.Features{Resume: true, Space: true, Large: 48 << 20, Leftovers: func(t *testing.T, _ location.Location) []string {
		found, err := filepath.Glob(filepath.Join(*root, ".uploads", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}}
}

func TestLocation_Cuts(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	locationtest.RunCuts(t, func(t *testing.T) locationtest.Cuttable {
		root := s.NewDir(t)
		cfg := configOf(s)
		cfg.Root = root
		direct := open(t, cfg)
		wire := locationtest.NewProxy(t, s.Address)
		cfg.Address = wire.Addr()
		through := open(t, cfg)
		through.Hasten()
		return locationtest.Cuttable{Through: through, Direct: direct, Wire: wire, Patience: 15 * time.Second, Features: features(&root)}
	})
}

func TestLocation_DiskFull(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	cfg := configOf(s)
	cfg.Root = s.NewDir(t)
	readOnly := backupservers.MountSmall(t, cfg.Root, 8<<20)
	l := open(t, cfg)
	put(t, l, "small", noise(1<<20))
	if _, err := l.Create(t.Context(), "k", location.CreateOptions{Size: 1 << 30}); !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("create of 1 GiB: got %v, want %v", err, location.ErrNoSpace)
	}
	u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write(noise(12 << 20))
	if err == nil {
		_, err = u.Commit(t.Context())
	}
	if !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("write: got %v, want %v", err, location.ErrNoSpace)
	}
	if err := u.Abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	put(t, l, "k", noise(5<<20)) // the room is free again
	if sp, err := l.Space(t.Context()); err != nil || sp.Total != 8<<20 || sp.Free > 2<<20 {
		t.Errorf("space: %+v, %v", sp, err)
	}
	readOnly()
	if _, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1}); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("create on a read-only disk: got %v, want %v", err, location.ErrReadOnly)
	}
	if err := l.Remove(t.Context(), "k"); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("remove from a read-only disk: got %v, want %v", err, location.ErrReadOnly)
	}
	if n := len(get(t, l, "small")); n != 1<<20 {
		t.Errorf("read %d bytes", n)
	}
}
