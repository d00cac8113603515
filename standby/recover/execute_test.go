package recover_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

func TestMain(m *testing.M) {
	if os.Getenv(childPlan) != "" {
		childExecute()
		return
	}
	goleak.VerifyTestMain(m)
}

// The environment of a test binary that is to restore and be killed.
const (
	childPlan  = "UNDERSTUDY_TEST_PLAN"
	childPlace = "UNDERSTUDY_TEST_PLACE"
	childCalls = "UNDERSTUDY_TEST_CALLS"
)

// childExecute kills its own process at the n-th step or frame.
func childExecute() {
	var p recover.Plan
	b, err := os.ReadFile(os.Getenv(childPlan))
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		panic(err)
	}
	n, _ := strconv.ParseInt(os.Getenv(childCalls), 10, 64)
	var calls atomic.Int64
	_, err = execute(p, sources(local.New(os.Getenv(childPlace))), recover.Options{Volatile: true, Step: func(string) error {
		if calls.Add(1) == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}})
	if err != nil {
		panic(err)
	}
}

func TestExecute_InterruptedAtEveryStep(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(1), place)
	errStop := errors.New("stop")
	for _, mode := range []recover.Mode{recover.Fresh, recover.Delta} {
		for _, at := range append(recover.Steps(), "files 2", "files 4") {
			t.Run(fmt.Sprint(mode, " ", at), func(t *testing.T) {
				t.Parallel()
				r := f.request(t)
				if mode == recover.Delta {
					r = f.over(t, place)
				}
				p := mustPlan(t, r, sources(place))
				step, nText, _ := strings.Cut(at, " ")
				n, _ := strconv.ParseInt(nText, 10, 64)
				var calls atomic.Int64
				_, err := execute(p, sources(place), recover.Options{Volatile: true, Step: func(s string) error {
					if s == step && calls.Add(1) > n {
						return errStop
					}
					return nil
				}})
				if !errors.Is(err, errStop) {
					t.Fatalf("interrupted restore: %v", err)
				}
				marked := exists(filepath.Join(p.DataDir, restore.MarkName))
				if startable(p.DataDir) && !marked && (mode == recover.Fresh || at != recover.StepMark) {
					t.Error("PostgreSQL can be started on half a database")
				}
				if s, err := recover.Inspect(p.DataDir); at != recover.StepMark && (err != nil || s.Startable || s.Plan.ID != p.ID) {
					t.Errorf("inspect: %+v, %v", s, err)
				}
				if at != recover.StepMark && mode == recover.Fresh {
					if _, err := recover.MakePlan(context.Background(), r, sources(place)); !errors.Is(err, recover.ErrOccupied) {
						t.Errorf("another fresh restore: %v", err)
					}
				}
				mustExecute(t, p, sources(place), recover.Options{Volatile: true})
				f.check(t, p)
				if again := mustExecute(t, p, sources(place), recover.Options{Volatile: true}); again.Bytes != 0 {
					t.Errorf("a finished plan did something: %+v", again)
				}
			})
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// over is a request to restore over a stopped database that has changed.
func (f *fake) over(t testing.TB, place location.Location) recover.Request {
	t.Helper()
	r := f.request(t)
	mustExecute(t, mustPlan(t, r, sources(place)), sources(place), recover.Options{Volatile: true})
	os.Remove(filepath.Join(r.DataDir, "understudy.restore"))
	spoil(t, r.DataDir, filepath.Join(r.Tablespaces[f.spaceOf], "PG_15_202209061/5/200"))
	r.Mode = recover.Delta
	return r
}

// spoil changes a database in every way that a restore has to mend.
func spoil(t testing.TB, dir, inSpace string) {
	t.Helper()
	at := func(p string) string { return filepath.Join(dir, p) }
	flip(t, at("base/5/16400"), 5<<20+77)
	flip(t, inSpace, 2<<20+1)
	for _, err := range []error{
		os.Truncate(at("base/5/16402"), 1<<20+5),
		os.Truncate(at("base/5/16400.1"), 4<<20),
		os.Truncate(at("base/5/16401"), 9),
		os.Remove(at("base/5/1003")),
		os.WriteFile(at("base/5/99999"), []byte("x"), 0o600),
		os.MkdirAll(at("base/77/deep"), 0o700),
		os.WriteFile(at("base/77/deep/1"), []byte("x"), 0o600),
		os.Remove(at("base/5/1004")),
		os.MkdirAll(at("base/5/1004/x"), 0o700),
		os.Remove(at("base/5/1005")),
		os.Symlink("1006", at("base/5/1005")),
		os.Chmod(at("base/5/1007"), 0o644),
		os.WriteFile(at("pg_wal/000000010000000000000009"), []byte("log"), 0o600),
		os.WriteFile(at("postmaster.pid"), []byte("999999999\n"), 0o600),
		os.WriteFile(at("standby.signal"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func TestExecute_DeltaFetchesWhatDiffers(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(2), place)
	r := f.over(t, place)
	for _, trust := range []bool{false, true} {
		r.TrustTimes = trust
		p := mustPlan(t, r, sources(place))
		res := mustExecute(t, p, sources(place), recover.Options{Volatile: true})
		f.check(t, p)
		if p.Bytes != res.Bytes || res.SameBytes < p.Bytes/2 || res.SameBytes == p.Bytes {
			t.Errorf("same %d of %d bytes, done %d", res.SameBytes, p.Bytes, res.Bytes)
		}
		if fi, _ := os.Stat(filepath.Join(r.DataDir, "base/5/1007")); fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %s", fi.Mode())
		}
		os.Remove(filepath.Join(r.DataDir, "understudy.restore"))
	}
	// By times alone, the damage stays whose trace somebody wiped away.
	name := filepath.Join(r.DataDir, "base/5/16400")
	fi, _ := os.Stat(name)
	flip(t, name, 100)
	os.Chtimes(name, fi.ModTime(), fi.ModTime())
	p := mustPlan(t, r, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	if b, _ := os.ReadFile(name); string(b) == string(f.files["base/5/16400"]) {
		t.Error("a file with the right time was read though times were to be trusted")
	}
	os.Remove(filepath.Join(r.DataDir, "understudy.restore"))
	r.TrustTimes = false
	p = mustPlan(t, r, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	f.check(t, p)
}

// A restore that was interrupted is one that a seed or another restore of any
// set may take over.
func TestExecute_TakenOver(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(3), place)
	r := f.request(t)
	p := mustPlan(t, r, sources(place))
	errStop := errors.New("stop")
	if _, err := execute(p, sources(place), recover.Options{Volatile: true, Step: func(s string) error {
		if s == recover.StepLayout {
			return errStop
		}
		return nil
	}}); !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	if s, err := restore.Inspect(p.DataDir); err != nil || s != restore.Partial {
		t.Fatalf("a seed sees %s, %v", s, err)
	}
	r.Mode = recover.Delta
	other := mustPlan(t, r, sources(place))
	res := mustExecute(t, other, sources(place), recover.Options{Volatile: true})
	f.check(t, other)
	if res.SameBytes < p.Bytes*9/10 {
		t.Errorf("kept %d of %d bytes", res.SameBytes, p.Bytes)
	}
	// The first plan knows that the directory is no longer its own.
	if _, err := execute(p, sources(place), recover.Options{Volatile: true}); err == nil {
		t.Error("the older plan was executed over a finished restore")
	}

	r2 := f.request(t)
	p2 := mustPlan(t, r2, sources(place))
	_, err := execute(p2, sources(place), recover.Options{Volatile: true, Step: func(s string) error {
		if s == recover.StepSync {
			return errStop
		}
		return nil
	}})
	if !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	if err := restore.Wipe(p2.DataDir); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{p2.DataDir, p2.Spaces[0].Dir} {
		if left := readTree(t, dir); len(left) != 0 {
			t.Errorf("a wipe left %d files in %s", len(left), dir)
		}
	}
}

func TestExecute_Killed(t *testing.T) {
	place, dir := newPlace(t)
	f := newFake(t, fakeFiles(4), place)
	seed := time.Now().UnixNano()
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 6 {
		p := mustPlan(t, f.request(t), sources(place))
		b, _ := json.Marshal(p)
		file := filepath.Join(t.TempDir(), "plan")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for kill := range 2 {
			n := 1 + rnd.IntN(18)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childPlan+"="+file, childPlace+"="+dir, childCalls+"="+strconv.Itoa(n))
			out, err := cmd.CombinedOutput()
			if err != nil && !strings.Contains(err.Error(), "killed") {
				t.Fatalf("seed %d, kill %d at call %d: %v\n%s", seed, kill, n, err, out)
			}
			if err != nil && startable(p.DataDir) && !exists(filepath.Join(p.DataDir, restore.MarkName)) {
				t.Fatalf("seed %d: PostgreSQL can be started on half a database", seed)
			}
		}
		mustExecute(t, p, sources(place), recover.Options{Volatile: true})
		f.check(t, p)
	}
}

// faulty is a place that does wrong.
type faulty struct {
	location.Location
	mu    sync.Mutex
	opens int
	fail  func(key string, off int64) error
	spoil func(key string, off int64, b []byte)
}

func (l *faulty) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	l.mu.Lock()
	l.opens++
	l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail(key, off); err != nil {
			return nil, err
		}
	}
	r, err := l.Location.Open(ctx, key, off, n)
	if err != nil || l.spoil == nil {
		return r, err
	}
	b, err := io.ReadAll(r)
	r.Close()
	if err != nil {
		return nil, err
	}
	l.spoil(key, off, b)
	return io.NopCloser(strings.NewReader(string(b))), nil
}

func TestExecute_NextPlace(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(5), place)
	inBase := func(key string) bool { return strings.HasSuffix(key, "/"+backupset.BaseName) }
	for name, bad := range map[string]*faulty{
		"Unreachable": {fail: func(string, int64) error { return location.ErrUnreachable }},
		"UnreachableIn": {fail: func(key string, off int64) error {
			o, _ := f.set.Object(backupset.BaseName)
			return ifErr(inBase(key) && off > 0 && off < o.Bytes-(64<<10), location.ErrUnreachable)
		}},
		"Missing": {fail: func(key string, _ int64) error { return ifErr(inBase(key), location.ErrNotExist) }},
		"FlippedFrames": {spoil: func(key string, off int64, b []byte) {
			if inBase(key) {
				b[len(b)/2] ^= 1
			}
		}},
		"FlippedTable": {spoil: func(key string, off int64, b []byte) {
			if o, _ := f.set.Object(backupset.BaseName); inBase(key) && off+int64(len(b)) == o.Bytes {
				b[len(b)-20] ^= 1
			}
		}},
		"FlippedList": {spoil: func(key string, _ int64, b []byte) {
			if strings.HasSuffix(key, backupset.FilesName) {
				b[len(b)-9] ^= 1
			}
		}},
		"FlippedSet": {spoil: func(key string, _ int64, b []byte) {
			if strings.HasSuffix(key, backupset.SetName) {
				b[40] ^= 1
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad.Location = place
			p := mustPlan(t, f.request(t), sources(bad, place))
			res := mustExecute(t, p, sources(bad, place), recover.Options{Volatile: true})
			f.check(t, p)
			if len(res.Problems) == 0 && name != "FlippedSet" {
				t.Error("nobody was told")
			}
			for _, pr := range res.Problems {
				if pr.Location != "place1" || pr.Damaged != strings.HasPrefix(name, "Flipped") {
					t.Errorf("problem %+v", pr)
				}
			}
			if name == "Unreachable" && bad.opens > 20 {
				t.Errorf("a dead place was asked %d times", bad.opens)
			}
			p = planOf(t, f.request(t), place)
			if _, err := execute(p, sources(bad), recover.Options{Volatile: true}); err == nil && name != "FlippedSet" {
				t.Error("restored from a bad place alone")
			} else if strings.HasPrefix(name, "Flipped") && name != "FlippedSet" && !errors.Is(err, recover.ErrDamaged) {
				t.Errorf("damage without another place: %v", err)
			}
		})
	}
}

func planOf(t *testing.T, r recover.Request, place location.Location) recover.Plan {
	return mustPlan(t, r, sources(place))
}

func ifErr(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

func TestExecute_Settings(t *testing.T) {
	place, _ := newPlace(t)
	f := newFake(t, fakeFiles(6), place)
	r := f.request(t)
	r.Mode, r.Port = recover.Beside, 6543
	p := mustPlan(t, r, sources(place))
	mustExecute(t, p, sources(place), recover.Options{Volatile: true})
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(p.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if conf := read("postgresql.conf"); strings.Contains(conf, "nowhere") || strings.Contains(conf, "\ninclude") || !strings.Contains(conf, "shared_buffers = 1GB") {
		t.Errorf("postgresql.conf:\n%s", conf)
	}
	auto := read("postgresql.auto.conf")
	for _, want := range []string{"work_mem = '8MB'\n", "recovery_target_lsn = '0/2000200'\n", "recovery_target_timeline = '1'\n", "max_connections = '250'\n", "restore_command = 'get %f ''%p'''\n",
		"primary_conninfo = ''\n", "archive_mode = 'off'\n", "port = '6543'\n"} {
		if strings.Count(auto, want) != 1 {
			t.Errorf("not once %q in:\n%s", want, auto)
		}
	}
	if strings.Contains(auto, "host=old") || p.NewSystemID == 0 || p.NewSystemID == p.SystemID {
		t.Errorf("system id %d, postgresql.auto.conf:\n%s", p.NewSystemID, auto)
	}
}
