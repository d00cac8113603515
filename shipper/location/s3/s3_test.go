package s3_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"understudy/shipper/location"
	"understudy/shipper/location/locationtest"
	"understudy/shipper/location/s3"
	"understudy/test/backupservers"
)

func configOf(m *backupservers.MinIO) s3.Config {
	return s3.Config{
		Endpoint: m.Endpoint, Region: "us-east-1", Bucket: m.Bucket, Prefix: "p-" + strings.ToLower(rand.Text()[:10]),
		AccessKey: m.AccessKey, SecretKey: m.SecretKey, PathStyle: true, CA: m.CA, Patience: 2 * time.Second,
	}
}

func open(t testing.TB, cfg s3.Config) *s3.Location {
	t.Helper()
	l, err := s3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// raw is the library's own view of a server.
func raw(t testing.TB, m *backupservers.MinIO) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(m.Address, &minio.Options{Creds: credentials.NewStaticV4(m.AccessKey, m.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leftovers lists what lies below the prefix and is no object: marks, and
// uploads that are not finished.
func leftovers(m *backupservers.MinIO, prefix *string) func(*testing.T, location.Location) []string {
	return func(t *testing.T, _ location.Location) (found []string) {
		c := raw(t, m)
		for o := range c.ListObjectsIter(t.Context(), m.Bucket, minio.ListObjectsOptions{Prefix: *prefix + "/.uploads/", Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			found = append(found, o.Key)
		}
		page, err := c.ListMultipartUploads(t.Context(), m.Bucket, "", "", "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Uploads {
			if strings.HasPrefix(x.Key, *prefix+"/") {
				found = append(found, x.Key+" "+x.UploadID)
			}
		}
		return found
	}
}

func TestLocation_Suite(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	var prefix string
	locationtest.Run(t, func(t *testing.T) location.Location {
		cfg := configOf(m)
		prefix = cfg.Prefix
		return open(t, cfg)
	}, locationtest.Features{Resume: true, Grain: 8 << 20, Large: 64 << 20, Leftovers: leftovers(m, &prefix)})
}

func TestLocation_Cuts(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	locationtest.RunCuts(t, func(t *testing.T) locationtest.Cuttable {
		cfg := configOf(m)
		direct := open(t, cfg)
		wire := locationtest.NewProxy(t, m.Address)
		cfg.Endpoint = "http://" + wire.Addr()
		through := open(t, cfg)
		through.Hasten()
		return locationtest.Cuttable{
			Through: through, Direct: direct, Wire: wire, Patience: 15 * time.Second,
			Features: locationtest.Features{Resume: true, Grain: 8 << 20, Leftovers: leftovers(m, &cfg.Prefix)},
		}
	})
}

func TestLocation_Refused(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{TLS: true})
	for name, c := range map[string]struct {
		change func(*s3.Config)
		want   error
	}{
		"Right":         {func(*s3.Config) {}, nil},
		"RegionAsked":   {func(c *s3.Config) { c.Region = "" }, nil},
		"NoPrefix":      {func(c *s3.Config) { c.Prefix = "" }, nil},
		"WrongSecret":   {func(c *s3.Config) { c.SecretKey += "x" }, location.ErrRefused},
		"WrongName":     {func(c *s3.Config) { c.AccessKey += "x" }, location.ErrRefused},
		"NoBucket":      {func(c *s3.Config) { c.Bucket = "another" }, location.ErrRefused},
		"UnknownCA":     {func(c *s3.Config) { c.CA = nil }, location.ErrRefused},
		"NobodyListens": {func(c *s3.Config) { c.Endpoint = "https://127.0.0.1:1" }, location.ErrUnreachable},
		"NoSuchHost":    {func(c *s3.Config) { c.Endpoint = "https://no-such-host.invalid" }, location.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(m)
			c.change(&cfg)
			l := open(t, cfg)
			l.Hasten()
			u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
			if err != nil {
				t.Fatal(err)
			}
			u.Write([]byte("hello"))
			if _, err := u.Commit(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("put: got %v, want %v", err, c.want)
			}
			if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, c.want) {
				t.Errorf("stat: got %v, want %v", err, c.want)
			}
			if err := l.List(t.Context(), "", func(location.Info) error { return nil }); !errors.Is(err, c.want) {
				t.Errorf("list: got %v, want %v", err, c.want)
			}
			if c.want != nil && errors.Is(err, location.ErrNotExist) {
				t.Errorf("taken for a missing object: %v", err)
			}
		})
	}
}

// The server compares what it received with our checksums.
func TestUpload_SendsChecksums(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	cfg := configOf(m)
	l := open(t, cfg)
	for key, n := range map[string]int{"whole": 1000, "parts": 20 << 20} {
		locationtest.Put(t, l, key, locationtest.Bytes(1, n), location.CreateOptions{Size: -1})
		o, err := raw(t, m).StatObject(t.Context(), m.Bucket, cfg.Prefix+"/"+key, minio.StatObjectOptions{Checksum: true})
		if err != nil || o.ChecksumCRC32C == "" {
			t.Errorf("%s: checksum %q, %v", key, o.ChecksumCRC32C, err)
		}
	}
}

// A server that stops in the middle of an upload loses nothing that it said to
// have.
func TestUpload_SurvivesTheServersRestart(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	l := open(t, configOf(m))
	l.Hasten()
	want := locationtest.Bytes(3, 40<<20)
	o := location.CreateOptions{Size: int64(len(want)), Token: "t"}
	u, err := l.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(want[:20<<20]); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	for at := 20 << 20; err == nil && at < len(want); at += 1 << 20 {
		_, err = u.Write(want[at : at+1<<20])
	}
	if err == nil {
		_, err = u.Commit(t.Context())
	}
	if !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("got %v, want %v", err, location.ErrUnreachable)
	}
	u.Suspend()
	m.Start(t)
	u, err = l.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("went on at %d", u.Offset())
	if _, err := u.Write(want[u.Offset():]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(locationtest.Get(t, l, "k"), want) {
		t.Error("the object differs")
	}
}

// Uploads that other programs have in the bucket are not ours to remove.
func TestLocation_SweepsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	c := raw(t, m)
	cfg := configOf(m)
	l := open(t, cfg)
	other, err := c.NewMultipartUpload(t.Context(), m.Bucket, "other/k", minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	u.Write(make([]byte, 9<<20))
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if _, err := c.ListObjectParts(t.Context(), m.Bucket, "other/k", other, 0, 10); err != nil {
		t.Errorf("another's upload is gone: %v", err)
	}
	if left := leftovers(m, &cfg.Prefix)(t, l); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLocation_DiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	backupservers.MountSmall(t, dir, 200<<20)
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{Data: dir})
	l := open(t, configOf(m))
	var err error
	// The one that meets the end of the room may fail for what the server could
	// not note of it; the next one is told why.
	for i := 0; !errors.Is(err, location.ErrNoSpace) && i < 8; i++ {
		var u location.Upload
		if u, err = l.Create(t.Context(), "k"+string(rune('0'+i)), location.CreateOptions{Size: -1}); err != nil {
			break
		}
		if _, err = io.Copy(u, io.LimitReader(rand.Reader, 40<<20)); err == nil {
			_, err = u.Commit(t.Context())
		}
		if err != nil {
			u.Abort()
		}
	}
	if !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("got %v, want %v", err, location.ErrNoSpace)
	}
}

// TestUpload_AlteredOnTheWay: the server compares what comes with its checksum,
// so that bytes which were altered never become an object.
func TestUpload_AlteredOnTheWay(t *testing.T) {
	t.Parallel()
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	p := backupservers.NewProxy(t, m.Address, 0)
	cfg := configOf(m)
	cfg.Endpoint = "http://" + p.Address
	l := open(t, cfg)
	for name, size := range map[string]int64{"Whole": 1 << 20, "InParts": 40 << 20} {
		t.Run(name, func(t *testing.T) {
			p.FlipSent(1)
			u, err := l.Create(t.Context(), "k", location.CreateOptions{Size: -1})
			if err == nil {
				if _, err = io.Copy(u, io.LimitReader(rand.Reader, size)); err == nil {
					_, err = u.Commit(t.Context())
				}
				if aerr := u.Abort(); aerr != nil {
					t.Error(aerr)
				}
			}
			if p.Flips() != 0 || !errors.Is(err, location.ErrDamaged) {
				t.Errorf("%d are still to be altered; got %v, want %v", p.Flips(), err, location.ErrDamaged)
			}
			if _, err := l.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
				t.Errorf("there is an object: %v", err)
			}
		})
	}
}
