package rescue_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/rescue"
	"understudy/standby/recover"
	"understudy/test/backupservers"
	"understudy/test/pgtest"
)

// One server does for all, as making it takes longest.
func TestRestore_RealDatabase(t *testing.T) {
	o := newOrigin(t)
	for name, f := range map[string]func(*testing.T){
		"BareMachine": o.bareMachine, "Moments": o.moments, "StoppedAtTarget": o.stoppedAtTarget, "Beside": o.beside,
		"Impossible": o.impossible, "DropDirectory": o.dropDirectory, "Killed": o.killed, "InUse": o.inUse, "Ledger": o.ledger, "SFTP": o.sftp, "JSON": o.jsonDocument,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t) })
	}
}

// bareMachine has one directory and nothing else. Then the restored directory is
// damaged, and restored over.
func (o *origin) bareMachine(t *testing.T) {
	from, to := o.copyOf(t), target(t)
	text := o.restore(t, cli.ExitOK, from, to)
	for _, want := range []string{"group shop", o.label, "new timeline 2", "at the end of the log", "pg_ctl"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said in\n%s", want, text)
		}
	}
	if got := o.query(t, to, rowsSQL); got != o.atEnd {
		t.Errorf("rows %s, want %s", got, o.atEnd)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(to), ".*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	o.deltaOver(t, from, to)
}

func (o *origin) deltaOver(t *testing.T, from, to string) {
	if text := o.restore(t, cli.ExitRefused, from, to, "--target", o.early); !strings.Contains(text, "--delta") {
		t.Errorf("restore over a database: %s", text)
	}
	table := strings.TrimSpace(o.Query(t, "select pg_relation_filepath('bulk')"))
	b, err := os.ReadFile(filepath.Join(to, table))
	if err != nil {
		t.Fatal(err)
	}
	b[8192+99] ^= 0x40
	for _, err := range []error{
		os.WriteFile(filepath.Join(to, table), b, 0o600), os.Truncate(filepath.Join(to, "global/1262"), 0),
		os.Remove(filepath.Join(to, "PG_VERSION")), os.WriteFile(filepath.Join(to, "base/strange"), []byte("x"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if text := o.restore(t, cli.ExitRefused, from, to, "--delta"); !strings.Contains(text, "no database") {
		t.Errorf("restore over a directory without PG_VERSION: %s", text)
	}
	if err := os.WriteFile(filepath.Join(to, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, filepath.Join(to, "PG_VERSION"))
	text := o.restore(t, cli.ExitOK, from, to, "--delta")
	if !strings.Contains(text, "overwrites") || regexp.MustCompile(`of which 0 B were there`).MatchString(text) {
		t.Errorf("delta said\n%s", text)
	}
	if got := o.query(t, to, rowsSQL); got != o.atEnd {
		t.Errorf("rows %s, want %s", got, o.atEnd)
	}
	if _, err := os.Stat(filepath.Join(to, "base/strange")); err == nil {
		t.Error("a file too much is still there")
	}
	o.Tool(t, "pg_checksums", "--check", "-D", to)
}

// moments are all kinds of targets, opened.
func (o *origin) moments(t *testing.T) {
	for target, rows := range map[string]string{
		"lsn:" + o.point.String(): "2", "xid:" + o.xid: "3", "name:second": "2", "immediate": "1",
	} {
		t.Run(strings.NewReplacer("/", "_", ":", "_").Replace(target), func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(pgtest.Dir(t), "data")
			text := o.restore(t, cli.ExitOK, o.dir, to, "--target", target, "--promote")
			if !strings.Contains(text, "opened      yes") {
				t.Error(text)
			}
			if got := o.query(t, to, "select count(*) from moments"); got != rows {
				t.Errorf("%s moments, want %s\n%s", got, rows, text)
			}
		})
	}
}

// stoppedAtTarget goes on to a later target, is not taken back, and is opened.
func (o *origin) stoppedAtTarget(t *testing.T) {
	to := target(t)
	text := o.restore(t, cli.ExitOK, o.dir, to, "--target", o.early)
	if !strings.Contains(text, "not opened") || !regexp.MustCompile(`last commit 2\d\d\d-`).MatchString(text) {
		t.Errorf("stopped: %s", text)
	}
	if status := command(t, cli.ExitOK, "restore", "--status", "--to", to); !strings.Contains(status, "stopped at its target") || !regexp.MustCompile(`last commit 2\d\d\d-`).MatchString(status) {
		t.Errorf("status: %s", status)
	}
	if text = o.restore(t, cli.ExitOK, o.dir, to, "--target", o.late); !strings.Contains(text, "continues") {
		t.Errorf("gone on: %s", text)
	}
	if text = o.restore(t, cli.ExitRefused, o.dir, to, "--target", o.early); !strings.Contains(text, "cannot go back") {
		t.Errorf("taken back: %s", text)
	}
	o.restore(t, cli.ExitOK, o.dir, to, "--target", o.late, "--promote")
	if got := o.query(t, to, "select count(*) from moments"); got != "3" {
		t.Errorf("%s moments", got)
	}
	if text = o.restore(t, cli.ExitOK, o.dir, to, "--target", o.late, "--promote"); !strings.Contains(text, "is done") {
		t.Errorf("once more: %s", text)
	}
}

// beside is another database while the original runs.
func (o *origin) beside(t *testing.T) {
	to, port := target(t), pgtest.FreePort(t)
	if text := o.restore(t, cli.ExitRefused, o.dir, to, "--beside", "--port", strconv.Itoa(o.Port)); !strings.Contains(text, "is taken") {
		t.Errorf("port of the original: %s", text)
	}
	o.restore(t, cli.ExitOK, o.dir, to, "--beside", "--port", strconv.Itoa(port), "--target", o.late)
	if got := o.query(t, to, "select count(*) || ' ' || (system_identifier = "+strconv.FormatUint(o.sysid, 10)+") from moments, pg_control_system() group by system_identifier"); got != "3 false" {
		t.Errorf("beside: %s", got)
	}
	conf, err := os.ReadFile(filepath.Join(to, "postgresql.auto.conf"))
	if err != nil || !strings.Contains(string(conf), "port = '"+strconv.Itoa(port)+"'") || strings.Contains(string(conf), "recovery_target") {
		t.Errorf("its configuration: %v\n%s", err, conf)
	}
	if got := o.rows(t); got != o.atEnd {
		t.Errorf("the original has %s, not %s", got, o.atEnd)
	}
}

// impossible targets are refused before anything is touched.
func (o *origin) impossible(t *testing.T) {
	gap := o.copyOf(t)
	if err := os.Remove(o.segment(gap, o.middle)); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		from, target string
		want         []string
		code         int
	}{
		"BeforeTheSet": {o.dir, "2001-01-01 00:00:00+00", []string{"the oldest set", "nearest that can be reached", "after it"}, cli.ExitRefused},
		"AfterTheLog":  {o.dir, "2099-01-01 00:00:00+00", []string{"the last commit", "nearest that can be reached", "before it"}, cli.ExitRefused},
		"LSNTooEarly":  {o.dir, "lsn:0/28", []string{"nearest", "after it"}, cli.ExitRefused},
		"Gap":          {gap, "lsn:" + (o.middle + 3*segSize/2).String(), []string{"missing", "before it"}, cli.ExitRefused},
		"Timeline":     {o.dir, "latest --timeline 9", []string{"timeline 9 is not known"}, cli.ExitRefused},
		"NoZone":       {o.dir, "2026-01-01 00:00:00", []string{"offset from UTC"}, cli.ExitUsage},
		"NoTarget":     {o.dir, "!", []string{"not a target"}, cli.ExitUsage},
		"NoSet":        {o.dir, "latest --set 20010101-000000F", []string{"is not known"}, cli.ExitRefused},
		"NotALocation": {t.TempDir(), "latest", []string{"there are no backups"}, cli.ExitUsage},
		"WrongGroup":   {o.dir, "latest --group-name other", []string{"no backups of group other, only of shop"}, cli.ExitUsage},
		"NotThere":     {"/nowhere/at/all", "latest", []string{"no such file"}, cli.ExitUsage},
		"IntoLocation": {o.dir, "latest --to " + filepath.Join(o.dir, "x"), []string{"is a location of backups"}, cli.ExitRefused},
	} {
		t.Run(name, func(t *testing.T) {
			to := target(t)
			args := []string{"--target"}
			value, more, _ := strings.Cut(row.target, " --")
			args = append(args, value)
			if more != "" {
				flag, v, _ := strings.Cut(more, " ")
				args = append(args, "--"+flag, v)
			}
			text := o.restore(t, row.code, row.from, to, args...)
			for _, w := range row.want {
				if !strings.Contains(text, w) {
					t.Errorf("%q is not said in %s", w, text)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(to), "*")); len(left) > 0 {
				t.Errorf("touched: %s", left)
			}
		})
	}
}

// dropDirectory brings log that the location lacks.
func (o *origin) dropDirectory(t *testing.T) {
	from, drop, to := o.copyOf(t), filepath.Join(pgtest.Dir(t), "from-archive"), target(t)
	if err := os.Mkdir(drop, 0o755); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(from, filepath.FromSlash(root().Timeline(1)))
	segments, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Base(o.segment(from, o.middle))
	stock := 0
	for _, s := range segments {
		if s.Name() < first {
			continue
		}
		if err := os.Remove(filepath.Join(folder, s.Name())); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimSuffix(s.Name(), ".zst"), ".partial")
		b, err := os.ReadFile(filepath.Join(o.Data, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(drop, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		stock++
	}
	if stock < 2 {
		t.Fatalf("only %d segments were dropped", stock)
	}
	other := filepath.Join(drop, "README")
	if err := os.WriteFile(other, []byte("brought from the vault"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A failure keeps what was brought: a point that no log has.
	o.restore(t, cli.ExitFailure, from, to, "--drop", drop, "--target", "name:never", "--promote")
	if n := len(dirNames(t, drop)); n != stock+1 {
		t.Errorf("%d files are left after a failure, want %d", n, stock+1)
	}
	text := o.restore(t, cli.ExitOK, from, to, "--drop", drop, "--delta")
	if got := o.query(t, to, rowsSQL); got != o.atEnd {
		t.Errorf("rows %s, want %s\n%s", got, o.atEnd, text)
	}
	if left := dirNames(t, drop); len(left) != 1 || left[0] != "README" {
		t.Errorf("left after success: %s", left)
	}
}

func dirNames(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// killed is the command, killed at several points and repeated.
func (o *origin) killed(t *testing.T) {
	to := target(t)
	run := filepath.Join(filepath.Dir(to), ".data.restore")
	marked := func() bool { _, err := os.Stat(filepath.Join(to, "understudy.restore")); return err == nil }
	files := func() bool { s, err := recover.Inspect(to); return err == nil && s.Step == recover.StepFiles }
	replay := func() bool {
		fi, err := os.Stat(filepath.Join(run, "postgresql.log"))
		return err == nil && fi.Size() > 0
	}
	args := o.args(o.dir, to, "--target", o.late, "--promote")
	for _, at := range []func() bool{marked, files, replay, replay} {
		_ = os.Remove(filepath.Join(run, "postgresql.log"))
		cmd := program(t, args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		hit, over := false, false
		for deadline := time.Now().Add(60 * time.Second); !hit && !over && time.Now().Before(deadline); {
			select {
			case <-ended:
				over = true // it was faster than we looked
			case <-time.After(200 * time.Microsecond):
				hit = at()
			}
		}
		if !over {
			_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if !hit && !over {
			t.Fatalf("the point was not reached:\n%s", out.String())
		}
		if _, err := rescue.Inspect(to); err != nil && over {
			t.Errorf("%v\n%s", err, out.String())
		}
	}
	text := o.restore(t, cli.ExitOK, o.dir, to, "--target", o.late, "--promote")
	if !strings.Contains(text, "continues") {
		t.Errorf("it does not go on:\n%s", text)
	}
	if got := o.query(t, to, "select count(*) from moments"); got != "3" {
		t.Errorf("%s moments\n%s", got, text)
	}
}

// inUse is the data directory of a server that runs.
func (o *origin) inUse(t *testing.T) {
	for _, mode := range [][]string{nil, {"--delta"}} {
		if text := o.restore(t, cli.ExitRefused, o.dir, o.Data, mode...); !strings.Contains(text, "a PostgreSQL runs on") {
			t.Errorf("%v: %s", mode, text)
		}
	}
	if got := o.rows(t); got != o.atEnd {
		t.Errorf("rows %s, want %s", got, o.atEnd)
	}
	// A daemon whose PostgreSQL is down at the moment.
	dir := pgtest.Dir(t)
	config, data := filepath.Join(dir, "node.yaml"), filepath.Join(dir, "data")
	text := "name: main\ngroup: shop\nstate_dir: state\nrun_dir: .\npostgresql: {bin_dir: " + o.Bin + ", data_dir: data}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "daemon.pid"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{data, filepath.Join(data, "below"), dir} {
		if text := o.restore(t, cli.ExitRefused, o.dir, to, "--config", config); !strings.Contains(text, "whose daemon runs") {
			t.Errorf("%s: %s", to, text)
		}
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if text := o.restore(t, cli.ExitOK, o.dir, data, "--config", config, "--dry-run"); !strings.Contains(text, "restore --group") {
		t.Errorf("after the daemon has ended: %s", text)
	}
	if text := o.restore(t, cli.ExitRefused, o.dir, filepath.Join(dir, "state", "x"), "--config", config); !strings.Contains(text, "its ledger") {
		t.Errorf("into the state directory: %s", text)
	}
}

func (o *origin) jsonDocument(t *testing.T) {
	to := target(t)
	var d struct {
		Plan    rescue.Plan
		Outcome rescue.Outcome
		Refused bool
		Error   string
		After   map[string]any
	}
	parse := func(text string) {
		t.Helper()
		d.Refused, d.Error = false, ""
		if err := json.NewDecoder(strings.NewReader(text)).Decode(&d); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	parse(o.restore(t, cli.ExitRefused, o.dir, to, "--json", "--target", "2001-01-01T00:00:00Z"))
	if !d.Refused || d.Error == "" || d.After["at"] == nil {
		t.Errorf("refused: %+v", d)
	}
	parse(o.restore(t, cli.ExitOK, o.dir, to, "--json", "--dry-run"))
	if d.Plan.Set != o.label || d.Plan.WALBytes == 0 || !d.Plan.Promotes || d.Outcome.Set != "" {
		t.Errorf("plan: %+v", d)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("a dry run made the directory")
	}
	parse(o.restore(t, cli.ExitOK, o.dir, to, "--json"))
	if d.Outcome.Set != o.label || d.Outcome.Reached.Timeline != 2 || d.Outcome.Reached.Time.IsZero() || d.Outcome.SystemID != o.sysid {
		t.Errorf("outcome: %+v", d)
	}
	var points struct{ Intervals []map[string]any }
	if err := json.Unmarshal([]byte(command(t, cli.ExitOK, "points", "--json", "--from", o.dir)), &points); err != nil || len(points.Intervals) != 1 {
		t.Errorf("points: %v %v", points, err)
	}
}

// sftp has nothing but an address, with its key in a file.
func (o *origin) sftp(t *testing.T) {
	server := backupservers.NewSSHD(t)
	dir := server.NewDir(t)
	if err := os.CopyFS(dir, os.DirFS(o.dir)); err != nil {
		t.Fatal(err)
	}
	key, to := filepath.Join(t.TempDir(), "key"), target(t)
	if err := os.WriteFile(key, server.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	from := "sftp://" + server.User + "@" + server.Address + dir + "?host_key=" + url.QueryEscape(server.HostKey)
	if text := o.restore(t, cli.ExitOK, from, to, "--secret", "from="+key); !strings.Contains(text, "opened      yes") {
		t.Error(text)
	}
}
