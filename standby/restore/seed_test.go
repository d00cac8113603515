package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/primary/basebackup"
	"understudy/standby/restore"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childStep) != "" {
		childSeed()
		return
	}
	goleak.VerifyTestMain(m)
}

// The environment of a test binary that is to seed and be killed.
const (
	childStep = "UNDERSTUDY_TEST_SEED_STEP"
	childAddr = "UNDERSTUDY_TEST_SEED_ADDR"
	childDir  = "UNDERSTUDY_TEST_SEED_DIR"
)

// childSeed kills its own process at a step; at the 300th file for files.
func childSeed() {
	c, err := net.Dial("tcp", os.Getenv(childAddr))
	if err != nil {
		panic(err)
	}
	dir, calls := os.Getenv(childDir), 0
	_, err = restore.Seed(context.Background(), c, restore.Config{
		DataDir:       dir,
		TablespaceMap: func(oid uint32, _ string) (string, error) { return placeBeside(dir, oid), nil },
		Step: func(s string) error {
			if s == os.Getenv(childStep) {
				if calls++; s != restore.StepFiles || calls == 300 {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
			}
			return nil
		},
	})
	panic(fmt.Sprint("the child was not killed: ", err))
}

func placeBeside(dataDir string, oid uint32) string {
	return filepath.Join(filepath.Dir(dataDir), fmt.Sprint("ts", oid))
}

// origin is a server with an in-place and an out-of-place tablespace.
type origin struct {
	*pgtest.Cluster
	space    string
	systemID uint64
	major    int
}

// newOrigin makes about mb MiB of data.
func newOrigin(t *testing.T, mb int) *origin {
	t.Helper()
	o := &origin{space: pgtest.Dir(t)}
	o.Cluster = pgtest.New(t, "allow_in_place_tablespaces=on", "wal_level=replica", "max_wal_senders=30", "wal_keep_size=512", "fsync=off", "max_wal_size=1GB")
	o.Exec(t, "create tablespace inside location ''")
	o.Exec(t, "create tablespace outside location '"+o.space+"'")
	rows := strconv.Itoa(mb * 1024 / 3)
	for name, where := range map[string]string{"a": "", "b": " tablespace inside", "c": " tablespace outside"} {
		o.Exec(t, "create table "+name+"(i int, f text)"+where)
		o.Exec(t, "insert into "+name+" select i, repeat(md5(i::text), 30) from generate_series(1, "+rows+") i")
	}
	o.systemID, _ = strconv.ParseUint(o.Query(t, "select system_identifier from pg_control_system()"), 10, 64)
	o.major, _ = strconv.Atoi(o.Query(t, "select current_setting('server_version_num')::int / 10000"))
	return o
}

func (o *origin) sender() basebackup.Config {
	return basebackup.Config{ConnString: o.DSN(), SystemID: o.systemID, Major: o.major}
}

// target is an empty place for a seed of o.
func (o *origin) target(t *testing.T) restore.Config {
	t.Helper()
	d := pgtest.Dir(t)
	cfg := restore.Config{
		DataDir: filepath.Join(d, "data"), Major: o.major, SystemID: o.systemID, Node: "backup",
		TablespaceMap: func(oid uint32, _ string) (string, error) { return placeBeside(filepath.Join(d, "data"), oid), nil },
	}
	if c := pgtest.Credential(t); c != nil {
		cfg.Owner = &restore.Owner{UID: int(c.Uid), GID: int(c.Gid)}
	}
	return cfg
}

// cutConn breaks after a number of bytes were read.
type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int64
}

var errCut = errors.New("cut")

func (c *cutConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		c.Conn.Close()
		return 0, errCut
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// run does one seed over loopback TCP and returns both ends' outcomes; cut > 0
// breaks the line after so many bytes.
func run(t *testing.T, from basebackup.Config, to restore.Config, cut int64) (res restore.Result, recvErr, sendErr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			sendErr = err
			return
		}
		defer c.Close()
		sendErr = basebackup.Serve(ctx, c, from)
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := c
	if cut > 0 {
		conn = &cutConn{Conn: c, left: cut}
	}
	res, recvErr = restore.Seed(ctx, conn, to)
	c.Close()
	wg.Wait()
	return res, recvErr, sendErr
}

// check verifies a finished base with PostgreSQL's own tool and by running it
// as a standby of o.
func (o *origin) check(t *testing.T, dir string) {
	t.Helper()
	state, err := restore.Inspect(dir)
	if err != nil || state != restore.Cluster {
		t.Fatalf("Inspect = %v, %v, want a cluster", state, err)
	}
	out, err := o.Command(t, "pg_verifybackup", "--no-parse-wal", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_verifybackup: %v\n%s", err, out)
	}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if strings.Contains(d.Name(), "understudy") {
			t.Errorf("%s is left over", p)
		}
		return err
	})
}

// startStandby runs the base as a standby of o and compares the tables.
func (o *origin) startStandby(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, filepath.Join(dir, "standby.signal"))
	sock := pgtest.Dir(t)
	s := *o.Cluster
	s.Data, s.Socket, s.Port = dir, sock, pgtest.FreePort(t)
	s.AppendConf(t, "primary_conninfo = '"+o.DSN()+"'\nhot_standby = on")
	s.Start(t)
	defer s.Stop(syscall.SIGINT)
	for _, table := range []string{"a", "b", "c"} {
		q := "select count(*) || ' ' || md5(string_agg(f, '' order by i)) from " + table
		want := o.Query(t, q)
		pgtest.Eventually(t, 20*time.Second, "table "+table+" equal", func() bool { return s.Query(t, q) == want })
	}
	s.Stop(syscall.SIGINT)
}

func TestSeed_WholeClusterStartsAsStandby(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 40)
	cfg := o.target(t)
	var last restore.Progress
	cfg.Progress = func(p restore.Progress) { last = p }
	res, err, serr := run(t, o.sender(), cfg, 0)
	if err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	if res.StartLSN == 0 || res.EndLSN < res.StartLSN || res.Timeline != 1 || res.SameBytes != 0 || res.Bytes < 60<<20 {
		t.Errorf("result %+v", res)
	}
	if last.Step != restore.StepUnmark || last.DoneBytes != res.Bytes {
		t.Errorf("last progress %+v", last)
	}
	o.check(t, cfg.DataDir)
	fi, err := os.Stat(cfg.DataDir)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode of the data directory: %v, %v", fi.Mode(), err)
	}
	o.startStandby(t, cfg.DataDir)
}

func TestSeed_CutAnywhereGoesOn(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 8)
	cfg := o.target(t)
	rng := rand.New(rand.NewPCG(1, 2))
	cuts := []int64{1, 300, 5000}
	for range 4 {
		cuts = append(cuts, rng.Int64N(5<<20))
	}
	for _, cut := range cuts {
		_, err, serr := run(t, o.sender(), cfg, cut)
		if err == nil || serr == nil {
			t.Fatalf("cut at %d: Seed %v, Serve %v", cut, err, serr)
		}
		if state, err := restore.Inspect(cfg.DataDir); err != nil || state == restore.Foreign || state == restore.Cluster {
			t.Fatalf("cut at %d leaves %v, %v", cut, state, err)
		}
		if _, err := os.Lstat(filepath.Join(cfg.DataDir, "global/pg_control")); err == nil {
			t.Fatalf("cut at %d leaves a directory that could start", cut)
		}
	}
	o.Exec(t, "drop table if exists x; create table x(i int); update a set f = 'changed' where i % 1000 = 0; checkpoint")
	res, err, serr := run(t, o.sender(), cfg, 0)
	if err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	if res.SameBytes == 0 || res.SameBytes >= res.Bytes {
		t.Errorf("%d of %d bytes were not sent again", res.SameBytes, res.Bytes)
	}
	o.check(t, cfg.DataDir)
	o.startStandby(t, cfg.DataDir)
}

// TestSeed_SmallCluster runs everything that needs little data on one server.
func TestSeed_SmallCluster(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 1)
	for name, f := range map[string]func(*testing.T, *origin){
		"FailureAtEveryStepGoesOn":   failureAtEveryStep,
		"Refuses":                    refuses,
		"DamageIsNoticedAndRepaired": damaged,
		"WipeRemovesOnlyWhatIsOurs":  wipe,
		"LinkIsReplacedNotFollowed":  link,
	} {
		t.Run(name, func(t *testing.T) { f(t, o) })
	}
}

func failureAtEveryStep(t *testing.T, o *origin) {
	fault := errors.New("fault")
	for _, step := range restore.Steps() {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			cfg := o.target(t)
			calls := 0
			cfg.Step = func(s string) error {
				if s == step {
					if calls++; s != restore.StepFiles || calls == 300 {
						return fault
					}
				}
				return nil
			}
			if _, err, _ := run(t, o.sender(), cfg, 0); !errors.Is(err, fault) {
				t.Fatalf("got %v, want the fault", err)
			}
			if state, err := restore.Inspect(cfg.DataDir); err != nil || state == restore.Cluster || state == restore.Foreign {
				t.Fatalf("left %v, %v", state, err)
			}
			leave := filepath.Join(cfg.DataDir, "base", "stale")
			if os.MkdirAll(filepath.Dir(leave), 0o700) == nil {
				if st, _ := restore.Inspect(cfg.DataDir); st == restore.Partial {
					os.WriteFile(leave, []byte("x"), 0o600)
					os.WriteFile(filepath.Join(cfg.DataDir, "postmaster.pid"), []byte("1\n"), 0o600)
				} else {
					os.Remove(filepath.Dir(leave))
				}
			}
			cfg.Step = nil
			if _, err, serr := run(t, o.sender(), cfg, 0); err != nil || serr != nil {
				t.Fatalf("second Seed: %v; Serve: %v", err, serr)
			}
			for _, gone := range []string{leave, filepath.Join(cfg.DataDir, "postmaster.pid")} {
				if _, err := os.Lstat(gone); err == nil {
					t.Errorf("%s is still there", gone)
				}
			}
			o.check(t, cfg.DataDir)
		})
	}
}

// The receiving daemon is killed at each step; the next one finishes.
func TestSeed_KilledAtEveryStep(t *testing.T) {
	o := newOrigin(t, 1)
	for _, step := range restore.Steps() {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			cfg := o.target(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childStep+"="+step, childAddr+"="+l.Addr().String(), childDir+"="+cfg.DataDir)
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			basebackup.Serve(t.Context(), c, o.sender())
			c.Close()
			var exit *exec.ExitError
			if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child ended with %v", err)
			}
			if _, err, serr := run(t, o.sender(), cfg, 0); err != nil || serr != nil {
				t.Fatalf("second Seed: %v; Serve: %v", err, serr)
			}
			o.check(t, cfg.DataDir)
		})
	}
}
