package sftp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"understudy/shipper/location"
	"understudy/shipper/location/sftp"
	"understudy/test/backupservers"
	"understudy/test/pgtest"
)

// configOf is the configuration for a test's server, quick to give up.
func configOf(s *backupservers.SSHD) sftp.Config {
	return sftp.Config{Address: s.Address, User: s.User, Root: s.Dir, HostKey: s.HostKey, Key: s.Key, KeepAlive: time.Second}
}

func open(t testing.TB, cfg sftp.Config) *sftp.Location {
	t.Helper()
	l, err := sftp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// noise is n bytes that are different everywhere.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func put(t testing.TB, l location.Location, key string, body []byte) location.Info {
	t.Helper()
	u, err := l.Create(t.Context(), key, location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(body); err != nil {
		t.Fatal(err)
	}
	i, err := u.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func get(t testing.TB, l location.Location, key string) []byte {
	t.Helper()
	r, err := l.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// uploads lists what is in the folder of uploads.
func uploads(t testing.TB, s *backupservers.SSHD) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Dir, ".uploads", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLocation_WritesAndReads(t *testing.T) {
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	for _, n := range []int{0, 1, 255 << 10, 255<<10 + 1, 5 << 20, 40<<20 + 17} {
		want := noise(n)
		i := put(t, l, "a/b/object", want)
		if i.Size != int64(n) {
			t.Errorf("committed size: got %d, want %d", i.Size, n)
		}
		if got := get(t, l, "a/b/object"); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got others back (%d)", n, len(got))
		}
	}
	l.Close()
	if left := uploads(t, s); len(left) > 0 {
		t.Errorf("left in the folder of uploads: %v", left)
	}
	for _, dir := range []string{"a", "a/b", ".uploads"} {
		fi, err := os.Stat(filepath.Join(s.Dir, dir))
		if err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("folder %s: got %v %v, want one for its owner alone", dir, fi.Mode(), err)
		}
	}
}

func TestLocation_TakesUpWhatWasSuspended(t *testing.T) {
	s := backupservers.NewSSHD(t)
	want := noise(20<<20 + 5)
	first := open(t, configOf(s))
	o := location.CreateOptions{Size: int64(len(want)), Token: "abc"}
	u, err := first.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(want[:9<<20+3]); err != nil {
		t.Fatal(err)
	}
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	second := open(t, configOf(s))
	for _, other := range []struct{ key, token string }{{"k", "abd"}, {"k2", "abc"}, {"k", ""}} {
		x, err := second.Create(t.Context(), other.key, location.CreateOptions{Size: -1, Token: other.token})
		if err != nil {
			t.Fatal(err)
		}
		if x.Offset() != 0 {
			t.Errorf("%v went on at %d", other, x.Offset())
		}
		if err := x.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	u, err = second.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	if u.Offset() != 9<<20+3 {
		t.Fatalf("went on at %d, want %d", u.Offset(), 9<<20+3)
	}
	if _, err := u.Write(want[u.Offset():]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, second, "k"), want) {
		t.Error("the object differs")
	}
	second.Close()
	if left := uploads(t, s); len(left) > 0 {
		t.Errorf("left in the folder of uploads: %v", left)
	}
}

// What lies beyond the mark is not trusted, and a mark that says more than is
// stored neither.
func TestLocation_TrustsOnlyTheMark(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(part, mark string) error
		want  int64
	}{
		"HolesBeyond":  {func(part, _ string) error { return os.Truncate(part, 8<<20) }, 1 << 20},
		"PartTooShort": {func(part, _ string) error { return os.Truncate(part, 1000) }, 0},
		"MarkTorn":     {func(_, mark string) error { return os.Truncate(mark, 12) }, 0},
		"MarkGone":     {func(_, mark string) error { return os.Remove(mark) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := backupservers.NewSSHD(t)
			l := open(t, configOf(s))
			want := noise(3 << 20)
			u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
			if err != nil {
				t.Fatal(err)
			}
			u.Write(want[:1<<20])
			if err := u.Suspend(); err != nil {
				t.Fatal(err)
			}
			part, _ := filepath.Glob(filepath.Join(s.Dir, ".uploads", "*.part"))
			mark, _ := filepath.Glob(filepath.Join(s.Dir, ".uploads", "*.mark"))
			if len(part) != 1 || len(mark) != 1 {
				t.Fatalf("parts %v, marks %v", part, mark)
			}
			if err := c.spoil(part[0], mark[0]); err != nil {
				t.Fatal(err)
			}
			u, err = l.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if u.Offset() != c.want {
				t.Fatalf("went on at %d, want %d", u.Offset(), c.want)
			}
			u.Write(want[u.Offset():])
			if _, err := u.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(get(t, l, "k"), want) {
				t.Error("the object differs")
			}
		})
	}
}

// Of two uploads of the same bytes the later one takes the file of the earlier.
func TestUpload_LosesItsFileToALaterOne(t *testing.T) {
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	want := noise(2 << 20)
	o := location.CreateOptions{Size: -1, Token: "t"}
	u, err := l.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	u.Write(want[:1<<20])
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	earlier, err := l.Create(t.Context(), "k", o)
	if err != nil || earlier.Offset() != 1<<20 {
		t.Fatalf("offset %d, %v", earlier.Offset(), err)
	}
	later, err := l.Create(t.Context(), "k", o)
	if err != nil || later.Offset() != 1<<20 {
		t.Fatalf("offset %d, %v", later.Offset(), err)
	}
	earlier.Write(want[1<<20:])
	if _, err := earlier.Commit(t.Context()); err == nil {
		t.Error("the earlier one was committed")
	}
	if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("got %v, want no object", err)
	}
	earlier.Abort()
	later.Write(want[1<<20:])
	if _, err := later.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, l, "k"), want) {
		t.Error("the object differs")
	}
}

func TestLocation_Refused(t *testing.T) {
	s := backupservers.NewSSHD(t)
	otherKey, otherPublic := backupservers.NewKey(t, "")
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	otherPub, _, _, _, _ := ssh.ParseAuthorizedKey([]byte(otherPublic))
	for name, c := range map[string]struct {
		change func(*sftp.Config)
		want   error
	}{
		"Right":            {func(*sftp.Config) {}, nil},
		"RightFingerprint": {func(c *sftp.Config) { c.HostKey = ssh.FingerprintSHA256(pub) }, nil},
		"RightKnownHosts":  {func(c *sftp.Config) { c.HostKey = "[some.host]:2222 " + s.HostKey + " note" }, nil},
		"OneOfTwo":         {func(c *sftp.Config) { c.HostKey = otherPublic + "\n" + s.HostKey }, nil},
		"WrongHostKey":     {func(c *sftp.Config) { c.HostKey = otherPublic }, location.ErrRefused},
		"WrongFingerprint": {func(c *sftp.Config) { c.HostKey = ssh.FingerprintSHA256(otherPub) }, location.ErrRefused},
		"WrongKey":         {func(c *sftp.Config) { c.Key = otherKey }, location.ErrRefused},
		"WrongUser":        {func(c *sftp.Config) { c.User = "nobody-here" }, location.ErrRefused},
		"NoRoot":           {func(c *sftp.Config) { c.Root += "/missing" }, location.ErrRefused},
		"NobodyListens":    {func(c *sftp.Config) { c.Address = "127.0.0.1:1" }, location.ErrUnreachable},
		"NoSuchHost":       {func(c *sftp.Config) { c.Address = "no-such-host.invalid" }, location.ErrUnreachable},
		"OtherKindOfKey":   {func(c *sftp.Config) { c.HostKey = ecdsaKey }, location.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(s)
			c.change(&cfg)
			l := open(t, cfg)
			_, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

const ecdsaKey = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="

func TestLocation_ServerFrozen(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	put(t, l, "k", noise(1000))
	u, err := l.Create(t.Context(), "big", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	s.Freeze()
	defer s.Thaw()
	began := time.Now()
	for b := noise(1 << 20); err == nil && time.Since(began) < time.Minute; {
		_, err = u.Write(b)
	}
	if !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("write: got %v, want %v", err, location.ErrUnreachable)
	}
	if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("stat: got %v, want %v", err, location.ErrUnreachable)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %s, with a keepalive of 1 s", d)
	}
	s.Thaw()
	if err := u.Abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	put(t, l, "k", noise(1000))
}

// A call ends with its context, however the server is.
func TestLocation_EndsWithContext(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	cfg := configOf(s)
	cfg.KeepAlive = 5 * time.Second
	l := open(t, cfg)
	put(t, l, "k", noise(1000))
	s.Freeze()
	defer s.Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := l.Stat(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stat: %v", err)
	}
	if _, err := l.Create(ctx, "k", location.CreateOptions{Size: -1, Token: "x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create: %v", err)
	}
	if _, err := l.Open(ctx, "k", 0, -1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open: %v", err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("took %s", d)
	}
}

// An upload goes on over a new connection when one breaks, and what it stored
// is proven.
func TestUpload_SurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	want := noise(48 << 20)
	u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: int64(len(want))})
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(want); at += 8 << 20 {
		if _, err := u.Write(want[at : at+8<<20]); err != nil {
			t.Fatalf("write at %d: %v", at, err)
		}
		s.KillConns()
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, l, "k"), want) {
		t.Error("the object differs")
	}
}

// A server that loses what it acknowledged, as one that was reset may, is
// found out.
func TestUpload_NoticesLostBytes(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	body := noise(4 << 20)
	if _, err := u.Write(body); err != nil {
		t.Fatal(err)
	}
	part, _ := filepath.Glob(filepath.Join(s.Dir, ".uploads", "*.part"))
	pgtest.Eventually(t, 10*time.Second, "2 MiB are stored", func() bool { return sftp.Stored(u) > 2<<20 })
	s.Kill()
	f, err := os.OpenFile(part[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 4096), 1<<20)
	f.Close()
	s.Start(t)
	if _, err := u.Commit(t.Context()); !errors.Is(err, location.ErrDamaged) {
		t.Errorf("got %v, want %v", err, location.ErrDamaged)
	}
	u.Abort()
	if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("stat: got %v, want %v", err, location.ErrNotExist)
	}
}

// A long read keeps reading the object that it opened.
func TestReader_KeepsItsObject(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	want := noise(40 << 20)
	put(t, l, "k", want)
	r, err := l.Open(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	put(t, l, "k", noise(40<<20))
	s.KillConns()
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, rest...), want) {
		t.Error("bytes of another object were read")
	}
	r.Close()
	l.Close()
	if left := uploads(t, s); len(left) > 0 {
		t.Errorf("left in the folder of uploads: %v", left)
	}
}

func TestLocation_ServerRestarted(t *testing.T) {
	t.Parallel()
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	put(t, l, "k", noise(1000))
	s.Kill()
	if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("stat: got %v, want %v", err, location.ErrUnreachable)
	}
	s.Start(t)
	if _, err := l.Stat(t.Context(), "k"); err != nil {
		t.Error(err)
	}
}

func TestLocation_ReadOnly(t *testing.T) {
	s := backupservers.NewSSHD(t)
	l := open(t, configOf(s))
	put(t, l, "a/k", noise(10<<20))
	for _, dir := range []string{".uploads", "a", ""} {
		if err := os.Chmod(filepath.Join(s.Dir, dir), 0o500); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Create(t.Context(), "k2", location.CreateOptions{Size: -1}); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("create: got %v, want %v", err, location.ErrReadOnly)
	}
	if err := l.Remove(t.Context(), "a/k"); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("remove: got %v, want %v", err, location.ErrReadOnly)
	}
	if n := len(get(t, l, "a/k")); n != 10<<20 {
		t.Errorf("read %d bytes", n)
	}
}
