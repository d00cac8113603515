package pgctl_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

func TestParseHistory_AcceptsWhatPostgreSQLWrites(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []pgctl.HistoryLine
	}{
		"Empty":           {"", nil},
		"BlanksOnly":      {"\n \t\n# a comment 1\t0/1\n", nil},
		"One":             {"1\t0/3000148\tno recovery target specified\n", []pgctl.HistoryLine{{1, 0x3000148, "no recovery target specified"}}},
		"CopiedParent":    {"1\t0/3000148\ta\n\n6\t1F/A0\tb\n", []pgctl.HistoryLine{{1, 0x3000148, "a"}, {6, 0x1F_000000A0, "b"}}},
		"NoNewline":       {"1\t0/1", []pgctl.HistoryLine{{1, 1, ""}}},
		"CarriageReturn":  {"1\t0/1\tx\r\n", []pgctl.HistoryLine{{1, 1, "x"}}},
		"Spaces":          {"  4294967295   ffffffff/FFFFFFFF  y z ", []pgctl.HistoryLine{{4294967295, 0xFFFFFFFF_FFFFFFFF, "y z"}}},
		"CommentAtTheEnd": {"1\t0/1\tx # y\n#z", []pgctl.HistoryLine{{1, 1, "x # y"}}},
		"LeadingZeroes":   {"0001 0000000000/0000000001", []pgctl.HistoryLine{{1, 1, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pgctl.ParseHistory([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseHistory_Refuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"NoID":        {"x\t0/1\n", "no timeline id"},
		"ZeroID":      {"0\t0/1\n", "no timeline id"},
		"Sign":        {"-1\t0/1\n", "no timeline id"},
		"HugeID":      {"4294967296\t0/1\n", "no timeline id"},
		"NoPosition":  {"1\n", "no position"},
		"NoSlash":     {"1\t00000001\n", "no position"},
		"HalfLSN":     {"1\t0/\n", "no position"},
		"HugeLSN":     {"1\t0/100000000\n", "no position"},
		"NotGrowing":  {"2\t0/1\n2\t0/2\n", "line 2: timeline 2 after 2"},
		"ZeroByte":    {"1\t0/1\tx\x00\n", "zero byte"},
		"LongLine":    {"1\t0/1\t" + strings.Repeat("x", 1020) + "\n", "too long"},
		"LongComment": {"#" + strings.Repeat("x", 1023), "too long"},
		"Huge":        {strings.Repeat("\n", 1<<20+1), "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := pgctl.ParseHistory([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestRenderHistory_KeepsAReasonOnItsLine(t *testing.T) {
	in := []pgctl.HistoryLine{{1, 0xA_00000010, "line\n2\t0/1\tinjected"}, {3, 0xB_0, strings.Repeat("y", 2000)}}
	got, err := pgctl.ParseHistory(pgctl.RenderHistory(in))
	if err != nil || len(got) != 2 || got[0].Reason != "line 2\t0/1\tinjected" || got[1].End != 0xB_0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzParseHistory(f *testing.F) {
	for _, seed := range []string{"", "1\t0/3000148\tno recovery target specified\n\n2\tFF/A0\tx\n", "# c\n7 1/2", "1A/5", "4294967295\tFFFFFFFF/FFFFFFFF\t\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := pgctl.ParseHistory(b)
		if err != nil {
			return
		}
		for i, l := range lines {
			if l.Timeline == 0 || i > 0 && l.Timeline <= lines[i-1].Timeline {
				t.Fatalf("ids do not grow: %v", lines)
			}
		}
		again, err := pgctl.ParseHistory(pgctl.RenderHistory(lines))
		if err != nil {
			t.Fatalf("own rendering of %v: %v", lines, err)
		}
		if d := cmp.Diff(lines, again); d != "" {
			t.Fatal(d)
		}
	})
}

// histories lists the history files with their contents.
func histories(t *testing.T, s *pgctl.Server) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.DataDir, "pg_wal", "*.history"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, f := range files {
		out[strings.TrimSuffix(filepath.Base(f), ".history")] = read(t, f)
	}
	return out
}

func TestServer_BurnTimelines(t *testing.T) {
	const parent = "1\t0/1\tx\n"
	for name, tt := range map[string]struct {
		before          map[string]string
		current, wanted pos.Timeline
		after           map[string]string
		refused         bool
		unburned        map[string]string
	}{
		"Next":        {nil, 1, 2, map[string]string{}, false, map[string]string{}},
		"Between":     {nil, 14, 17, map[string]string{"0000000F": "", "00000010": ""}, false, map[string]string{}},
		"KeepsParent": {map[string]string{"00000002": parent}, 1, 4, map[string]string{"00000002": parent, "00000003": ""}, false, map[string]string{"00000002": parent}},
		"WantedWasBurned": {map[string]string{"00000003": "", "00000004": ""}, 2, 3,
			map[string]string{"00000004": ""}, false, map[string]string{"00000004": ""}},
		"WantedExists": {map[string]string{"00000004": parent}, 1, 4, map[string]string{"00000004": parent}, true, map[string]string{"00000004": parent}},
		"Backwards":    {nil, 4, 4, map[string]string{}, true, map[string]string{}},
		"NoCurrent":    {nil, 0, 4, map[string]string{}, true, map[string]string{}},
		"TooMany":      {nil, 1, 1027, map[string]string{}, true, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(t, "", "")
			if err := os.MkdirAll(filepath.Join(s.DataDir, "pg_wal"), 0o755); err != nil {
				t.Fatal(err)
			}
			for id, text := range tt.before {
				write(t, filepath.Join(s.DataDir, "pg_wal", id+".history"), text)
			}
			for range 2 {
				if err := s.BurnTimelines(tt.current, tt.wanted); errors.Is(err, pgctl.ErrTimelineTaken) != tt.refused || (err != nil) != tt.refused {
					t.Errorf("burn: %v", err)
				}
			}
			if d := cmp.Diff(tt.after, histories(t, s)); d != "" {
				t.Errorf("burned: %s", d)
			}
			for range 2 {
				s.UnburnTimelines(tt.current, tt.wanted)
			}
			if d := cmp.Diff(tt.unburned, histories(t, s)); d != "" {
				t.Errorf("unburned: %s", d)
			}
		})
	}
}

// TestServer_BurnTimelinesIsReadableAtOnce watches the directory as a standby
// does, which ends when it finds a history that it may not read.
func TestServer_BurnTimelinesIsReadableAtOnce(t *testing.T) {
	s := fake(t, "", "")
	dir := filepath.Join(s.DataDir, "pg_wal")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.BurnTimelines(1, 400) }()
	for id := 2; id < 400; id++ {
		path := filepath.Join(dir, fmt.Sprintf("%08X.history", id))
		for {
			fi, err := os.Lstat(path)
			if errors.Is(err, os.ErrNotExist) {
				select {
				case err := <-done:
					done <- err
					if _, serr := os.Lstat(path); err != nil || serr != nil {
						t.Fatalf("timeline %d: %v, %v", id, err, serr)
					}
				default:
				}
				continue
			}
			if st := fi.Sys().(*syscall.Stat_t); err != nil || st.Uid != s.UID {
				t.Fatalf("timeline %d: owner %d, %v", id, st.Uid, err)
			}
			break
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
