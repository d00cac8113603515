package sftp_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"understudy/shipper/location"
	"understudy/shipper/location/sftp"
	"understudy/test/backupservers"
)

// faultyPlace is a location at a server that can be made to lie.
func faultyPlace(t *testing.T) (*backupservers.FaultySFTP, *sftp.Location) {
	t.Helper()
	s := backupservers.NewFaultySFTP(t)
	return s, open(t, sftp.Config{Address: s.Address, User: s.User, Root: s.Root, HostKey: s.HostKey, Key: s.Key})
}

// TestLocation_UnnamedFailure: most servers have one code for all that goes
// wrong with a disk.
func TestLocation_UnnamedFailure(t *testing.T) {
	s, l := faultyPlace(t)
	for name, tt := range map[string]struct {
		says, want string
		full       bool
	}{
		"Quota":   {"Failure", "full or over quota? Its file system has ", false},
		"Named":   {"Disk quota exceeded", "no space left at the location", true},
		"NoSpace": {"write: no space left on device", "no space left at the location", true},
	} {
		t.Run(name, func(t *testing.T) {
			defer s.Set(backupservers.Faults{})
			u, err := l.Create(t.Context(), "a/k", location.CreateOptions{Size: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			s.Set(backupservers.Faults{Refuse: errors.New(tt.says)})
			_, err = u.Write(noise(1 << 20))
			if err == nil {
				_, err = u.Commit(t.Context())
			}
			s.Set(backupservers.Faults{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, location.ErrNoSpace) != tt.full {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), ".uploads") {
				t.Errorf("it names a temporary file: %v", err)
			}
		})
	}
}

// TestUpload_ShortWriteReportedAsSuccess: what is missing at the end is seen at
// the commit; a hole is found by who reads.
func TestUpload_ShortWriteReportedAsSuccess(t *testing.T) {
	s, l := faultyPlace(t)
	s.Set(backupservers.Faults{Write: func(_ string, _ int64, b []byte) []byte { return b[:len(b)-1] }})
	u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(noise(3000)); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); !errors.Is(err, location.ErrDamaged) {
		t.Errorf("commit of an object that lacks its last byte: %v", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// TestLocation_Slow: at a tenth of what a keepalive expects of a window, an
// upload and a read are slow and nothing else.
func TestLocation_Slow(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	p := backupservers.NewProxy(t, s.Address, 0)
	cfg := configOf(s)
	cfg.Address, cfg.KeepAlive = p.Address, 500*time.Millisecond
	l := open(t, cfg)
	body := noise(1 << 20)
	put(t, l, "warm", nil) // connected
	p.SetRate(200 << 10)
	began := time.Now()
	put(t, l, "k", body)
	if d := time.Since(began); d < 3*time.Second {
		t.Errorf("1 MiB at 200 KiB/s took %s", d)
	}
	p.SetRate(0)
	if !bytes.Equal(get(t, l, "k"), body) {
		t.Error("the object differs")
	}
}
