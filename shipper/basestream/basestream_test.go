package basestream_test

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"understudy/shipper/basestream"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, c *pgtest.Cluster, cfg basestream.Config) *basestream.Stream {
	t.Helper()
	cfg.ConnString = c.DSN()
	s, err := basestream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestStream_ReadsWholeServer(t *testing.T) {
	space := pgtest.Dir(t)
	c := pgtest.New(t, "--data-checksums")
	c.Exec(t, "create tablespace far location '"+space+"'")
	c.Exec(t, "create table x tablespace far as select i from generate_series(1, 50000) i")
	for name, cfg := range map[string]basestream.Config{"Plain": {Label: "it's"}, "UnverifiedAndBounded": {Unverified: true, RateKB: basestream.MaxRate}} {
		t.Run(name, func(t *testing.T) {
			s := open(t, c, cfg)
			plan, err := s.Start()
			if err != nil {
				t.Fatal(err)
			}
			if plan.Start == 0 || plan.Timeline != 1 || plan.Estimate < 1<<20 || len(plan.Spaces) != 1 || plan.Spaces[0].Location != space || plan.Spaces[0].InPlace {
				t.Errorf("plan %+v", plan)
			}
			parts, files, manifest := readAll(t, s)
			end, timeline, err := s.Finish()
			if err != nil || end < plan.Start || timeline != 1 {
				t.Errorf("end %s on %d, %v", end, timeline, err)
			}
			if parts != 2 || files["PG_VERSION"] != 1 || files["backup_label"] != 1 || files["global/pg_control"] != 1 || !strings.Contains(manifest, "PostgreSQL-Backup-Manifest-Version") {
				t.Errorf("%d archives, %d files, manifest of %d bytes", parts, len(files), len(manifest))
			}
		})
	}
}

// readAll counts the archives and their files, and keeps the manifest.
func readAll(t *testing.T, s *basestream.Stream) (parts int, files map[string]int, manifest string) {
	t.Helper()
	files = map[string]int{}
	for {
		p, err := s.Next()
		if errors.Is(err, io.EOF) {
			return parts, files, manifest
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Manifest {
			b, err := io.ReadAll(s)
			if err != nil {
				t.Fatal(err)
			}
			manifest = string(b)
			continue
		}
		parts++
		for r := tar.NewReader(s); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name]++
		}
	}
}

func TestStream_ServerEndsOrIsCut(t *testing.T) {
	c := pgtest.New(t)
	for _, tt := range []struct {
		name string
		cut  func(s *basestream.Stream)
	}{
		{"Aborted", func(s *basestream.Stream) { s.Abort() }},
		{"Crashed", func(*basestream.Stream) { c.Stop(syscall.SIGQUIT) }}, // the last: the server is gone
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, c, basestream.Config{Label: "x"})
			if _, err := s.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			tt.cut(s)
			if _, err := io.Copy(io.Discard, s); !errors.Is(err, basestream.ErrServer) {
				t.Errorf("got %v, want %v", err, basestream.ErrServer)
			}
		})
	}
}

func TestConfig_Validate(t *testing.T) {
	for name, cfg := range map[string]basestream.Config{
		"NoServer": {}, "SlowRate": {ConnString: "x", RateKB: 31}, "FastRate": {ConnString: "x", RateKB: 1 << 21}, "LabelBreak": {ConnString: "x", Label: "a\nb"},
	} {
		if cfg.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParsePart(f *testing.F) {
	f.Add([]byte("base.tar\x00\x00"))
	f.Add([]byte("16400.tar\x00/space\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := basestream.ParsePart(b); err == nil && p.Manifest {
			t.Fatal("an archive that is a manifest")
		}
	})
}
