package hook_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/failover/hook"
)

func TestRunner_Veto(t *testing.T) {
	d := folder(t)
	p := script(t, d, "drain.sh", `printf '\n  3 sessions\thang \nmore\n' >&2; echo last; exit 3`)
	r, j := runner(t, hook.Config{Commands: map[string]string{"before_switchover": p + " a  b"}})
	res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
	var he *hook.Error
	if !errors.As(err, &he) || he.Reason != "3 sessions hang" || he.Hook != hook.BeforeSwitchover || he.File != p {
		t.Fatalf("got %#v", err)
	}
	if want := "hook before_switchover (" + p + "): it ended with status 3: 3 sessions hang"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !res.Ran || res.Status != 3 || res.Took <= 0 || res.Output != "\n  3 sessions\thang \nmore\nlast\n" {
		t.Errorf("got %+v", res)
	}
	if l := j.all(); len(l) != 1 || l[0].err != err || l[0].ev != event(hook.BeforeSwitchover) {
		t.Errorf("reported %+v", l)
	}
}

func TestRunner_Success(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", `echo "$#:$1:$2:$3"; pwd; cat; test ! -t 0`)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"after_standby": p + " 'a \t b' $HOME;x"}})
	res, err := r.Run(t.Context(), event(hook.AfterStandby))
	if err != nil || res.Status != 0 || res.Output != "3:'a:b':$HOME;x\n/\n" {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestRunner_NoSuchHook(t *testing.T) {
	r, j := runner(t, hook.Config{})
	var none *hook.Runner
	for _, r := range []*hook.Runner{r, none} {
		res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
		if err != nil || res.Ran || r.Has(hook.BeforeSwitchover) {
			t.Errorf("got %+v, %v", res, err)
		}
		r.Post(event(hook.AfterPromotion))
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if l := j.all(); len(l) != 0 {
		t.Errorf("reported %+v", l)
	}
}

func TestNew_Refuses(t *testing.T) {
	for name, cfg := range map[string]hook.Config{
		"UnknownHook":  {Commands: map[string]string{"on_promote": "/bin/true"}},
		"RelativePath": {Commands: map[string]string{"after_standby": "bin/true"}},
		"Empty":        {Commands: map[string]string{"after_standby": " "}},
		"TooShort":     {Timeout: time.Millisecond},
		"TooLong":      {Timeout: time.Hour},
	} {
		if r, err := hook.New(cfg); err == nil {
			closeNow(r)
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRunner_EnvironmentIsExact(t *testing.T) {
	t.Setenv("PGPASSWORD", "secret")
	t.Setenv("LD_PRELOAD", "")
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	full := event(hook.AfterPromotion)
	full.PrimaryHost, full.PrimaryPort = "10.0.0.5", 5432
	full.Cause = "two\nlines\x00 and \xff" + strings.Repeat("x", 3000)
	cause := ("two lines  and ?" + strings.Repeat("x", 3000))[:1024]
	for name, tt := range map[string]struct {
		ev   hook.Event
		want []string
	}{
		"Full": {full, []string{path, "LC_ALL=C", "UNDERSTUDY_EVENT=after_promotion", "UNDERSTUDY_GROUP=shop", "UNDERSTUDY_NODE=main",
			"UNDERSTUDY_EPOCH=1.7", "UNDERSTUDY_TIMELINE=4", "UNDERSTUDY_FROM=backup", "UNDERSTUDY_TO=main", "UNDERSTUDY_CAUSE=" + cause,
			"UNDERSTUDY_PRIMARY_HOST=10.0.0.5", "UNDERSTUDY_PRIMARY_PORT=5432"}},
		"Unknown": {hook.Event{Hook: hook.AfterPromotion}, []string{path, "LC_ALL=C", "UNDERSTUDY_EVENT=after_promotion",
			"UNDERSTUDY_GROUP=shop", "UNDERSTUDY_NODE=main", "UNDERSTUDY_EPOCH=", "UNDERSTUDY_TIMELINE=", "UNDERSTUDY_FROM=",
			"UNDERSTUDY_TO=", "UNDERSTUDY_CAUSE="}},
	} {
		t.Run(name, func(t *testing.T) {
			// No shell, which would add variables of its own.
			r, _ := runner(t, hook.Config{Commands: map[string]string{"after_promotion": realPath(t, "/usr/bin/env") + " -0"}})
			res, err := r.Run(t.Context(), tt.ev)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.TrimSuffix(res.Output, "\x00"), "\x00")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func realPath(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Skip(err)
	}
	return p
}

func TestRunner_TimeLimitKillsTheWholeGroup(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", `echo waiting; trap '' TERM INT HUP
sh -c 'echo $$ >$0/child; sleep 60 & echo $! >$0/grandchild; wait' $D & wait`)
	r, _ := runner(t, hook.Config{Timeout: 500 * time.Millisecond, Commands: map[string]string{"before_switchover": p}})
	began := time.Now()
	res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not end in time and was killed after") ||
		!strings.HasSuffix(err.Error(), ": waiting") || res.Status != -1 || !res.Ran {
		t.Fatalf("got %+v, %v", res, err)
	}
	for _, name := range []string{"child", "grandchild"} {
		pid := pidIn(t, filepath.Join(d, name))
		until(t, name+" is gone", func() bool { return !alive(pid) })
	}
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, file)))
	if err != nil || pid < 2 {
		t.Fatalf("%s: %d, %v", file, pid, err)
	}
	return pid
}

// alive tells whether a process runs; one that waits to be collected does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	s := string(b)
	s = s[strings.LastIndexByte(s, ')')+1:]
	return !strings.HasPrefix(s, " Z")
}

func TestRunner_EndOfContextKills(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", `echo $$ >$D/pid.new; mv $D/pid.new $D/pid; exec sleep 60`)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"before_promotion": p}})
	why := errors.New("the role has ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for !exists(d + "/pid") {
			time.Sleep(5 * time.Millisecond)
		}
		cancel(why)
	}()
	_, err := r.Run(ctx, event(hook.BeforePromotion))
	if !errors.Is(err, why) || !strings.Contains(err.Error(), why.Error()) {
		t.Errorf("got %v", err)
	}
	if alive(pidIn(t, d+"/pid")) {
		t.Error("it lives on")
	}
}

// A hook that has ended leaves nothing behind, and does not keep its caller
// waiting through the pipe it gave away.
func TestRunner_WhatIsLeftBehind(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", `sleep 60 & echo $! >$D/group
setsid sh -c 'echo $$ >$0/own.new; mv $0/own.new $0/own; exec sleep 60' $D &
while ! test -e $D/own; do sleep 0.01; done; echo ready`)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"after_demotion": p}})
	began := time.Now()
	res, err := r.Run(t.Context(), event(hook.AfterDemotion))
	if err != nil || res.First != "ready" || time.Since(began) > 5*time.Second {
		t.Fatalf("got %+v, %v", res, err)
	}
	own := pidIn(t, d+"/own")
	t.Cleanup(func() { syscall.Kill(own, syscall.SIGKILL) })
	if !alive(own) {
		t.Error("a process in its own session was killed")
	}
	group := pidIn(t, d+"/group")
	until(t, "the process of the group is gone", func() bool { return !alive(group) })
}

func TestRunner_EndedBySignal(t *testing.T) {
	p := script(t, folder(t), "h", `kill -TERM $$`)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"before_switchover": p}})
	res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
	if err == nil || !strings.Contains(err.Error(), "signal: terminated") || res.Status != -1 {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestRunner_OutputIsBounded(t *testing.T) {
	p := script(t, folder(t), "h", `echo first; yes 0123456789 | head -c 3000000; echo last; exit 1`)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"before_switchover": p}})
	res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
	if err == nil || res.First != "first" || !strings.HasPrefix(res.Output, "first\n") || !strings.HasSuffix(res.Output, "last\n") {
		t.Fatalf("got %v, %.80q", err, res.Output)
	}
	missing := fmt.Sprintf("\n[%d bytes left out]\n", 3000000+len("first\nlast\n")-(8<<10))
	if len(res.Output) != 8<<10+len(missing) || !strings.Contains(res.Output, missing) {
		t.Errorf("kept %d bytes: %.200q", len(res.Output), res.Output[2000:])
	}
	p = script(t, folder(t), "h", `yes | tr -d '\n' | head -c 5000; exit 1`)
	r, _ = runner(t, hook.Config{Commands: map[string]string{"before_switchover": p}})
	res, _ = r.Run(t.Context(), event(hook.BeforeSwitchover))
	if len(res.First) != 300 || len(res.Output) != 5000 {
		t.Errorf("first line of %d bytes, output of %d", len(res.First), len(res.Output))
	}
}

func TestRunner_CannotBeStarted(t *testing.T) {
	d := folder(t)
	bad := script(t, d, "bad", "")
	if err := os.WriteFile(bad, []byte("#!/nowhere/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{bad: "cannot be started: no such file", d + "/none": d + "/none: no such file"} {
		r, j := runner(t, hook.Config{Commands: map[string]string{"before_switchover": file}})
		res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
		if err == nil || res.Ran || !strings.Contains(err.Error(), want) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %+v, %v", res, err)
		}
		if len(j.all()) != 1 {
			t.Errorf("reported %+v", j.all())
		}
	}
}

func TestRunner_FileBeingWritten(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", "echo done")
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := runner(t, hook.Config{Commands: map[string]string{"before_switchover": p}})
	_, err = r.Run(t.Context(), event(hook.BeforeSwitchover))
	if !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(30*time.Millisecond, func() { f.Close() })
	if res, err := r.Run(t.Context(), event(hook.BeforeSwitchover)); err != nil || res.First != "done" {
		t.Errorf("got %+v, %v", res, err)
	}
}

// A folder that hangs costs the caller no more than the limit, and what starts
// after it is killed.
func TestRunner_HungStart(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", "echo $$ >$D/pid.new; mv $D/pid.new $D/pid; exec sleep 60")
	release := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	res, gone, err := hook.RunHung(ctx, p, me(t), release)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "its start hangs") || res.Ran || time.Since(began) > 4*time.Second {
		t.Errorf("after %s: %+v, %v", time.Since(began), res, err)
	}
	close(release)
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("it was not killed")
	}
	if exists(d+"/pid") && alive(pidIn(t, d+"/pid")) {
		t.Error("it runs")
	}
}

func TestRunner_RunsAsItsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run hooks as another user")
	}
	d := folder(t)
	p := script(t, d, "h", `id -u; id -g; id -G; cat $D/secret`)
	if err := os.WriteFile(d+"/secret", []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ user, database string }{{"nobody", "root"}, {"", "nobody"}} {
		a, err := hook.ResolveAccount(tt.user, tt.database)
		if err != nil {
			t.Fatal(err)
		}
		u, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		groups, err := u.GroupIds()
		if err != nil {
			t.Fatal(err)
		}
		r, _ := runner(t, hook.Config{Account: a, Commands: map[string]string{"before_promotion": p}})
		res, err := r.Run(t.Context(), event(hook.BeforePromotion))
		want := u.Uid + "\n" + u.Gid + "\n" + strings.Join(groups, " ") + "\n"
		if err == nil || !strings.HasPrefix(res.Output, want) || !strings.Contains(res.Output, "ermission denied") {
			t.Errorf("got %+v, %v; want %q", res, err, want)
		}
	}
	if _, err := hook.ResolveAccount("no-such-account", ""); err == nil || !strings.Contains(err.Error(), "no-such-account") {
		t.Errorf("got %v", err)
	}
}
