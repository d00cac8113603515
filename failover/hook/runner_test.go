package hook_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"understudy/failover/hook"
	"understudy/shipper/pos"
)

// gate is a hook that waits until its file go exists, and writes down when it
// began and ended.
const gate = `echo "+$UNDERSTUDY_EVENT $UNDERSTUDY_EPOCH" >>$D/log
while ! test -e $D/go; do sleep 0.01; done
echo "-$UNDERSTUDY_EVENT $UNDERSTUDY_EPOCH" >>$D/log`

func open(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func numbered(n hook.Name, num int) hook.Event {
	ev := event(n)
	ev.Epoch = pos.Epoch{Gen: 1, Num: uint64(num)}
	return ev
}

func TestRunner_OneAtATimeInOrder(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", gate)
	r, _ := runner(t, hook.Config{Commands: map[string]string{"after_demotion": p, "before_promotion": p, "after_promotion": p, "after_standby": p}})
	r.Post(numbered(hook.AfterDemotion, 1))
	r.Post(numbered(hook.AfterStandby, 1))
	until(t, "the first begins", func() bool { return exists(d + "/log") })
	if got := read(t, d+"/log"); got != "+after_demotion 1.1\n" {
		t.Fatalf("got %q", got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(context.Background(), numbered(hook.BeforePromotion, 2))
		r.Post(numbered(hook.AfterPromotion, 2))
		done <- err
	}()
	open(t, d)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil { // drains
		t.Fatal(err)
	}
	var want strings.Builder
	for _, e := range []string{"after_demotion 1.1", "after_standby 1.1", "before_promotion 1.2", "after_promotion 1.2"} {
		fmt.Fprintf(&want, "+%s\n-%s\n", e, e)
	}
	if got := read(t, d+"/log"); got != want.String() {
		t.Errorf("got %q, want %q", got, want.String())
	}
}

// Whoever waits in a promotion does not wait longer for the hooks of others.
func TestRunner_LimitCountsTheWaitForATurn(t *testing.T) {
	d := folder(t)
	slow, quick := script(t, d, "slow", gate), script(t, d, "quick", "true")
	r, j := runner(t, hook.Config{Timeout: 2 * time.Second, Commands: map[string]string{"after_standby": slow, "before_promotion": quick}})
	r.Post(event(hook.AfterStandby))
	until(t, "the first begins", func() bool { return exists(d + "/log") })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	res, err := r.Run(ctx, event(hook.BeforePromotion))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hooks before it took too long") || res.Ran {
		t.Errorf("got %+v, %v", res, err)
	}
	if time.Since(began) > time.Second {
		t.Errorf("took %s", time.Since(began))
	}
	open(t, d)
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if l := j.all(); len(l) != 2 || l[0].ev.Hook != hook.BeforePromotion || l[1].err != nil {
		t.Errorf("reported %+v", l)
	}
}

func TestRunner_QueueIsBounded(t *testing.T) {
	d := folder(t)
	r, j := runner(t, hook.Config{Commands: map[string]string{"after_standby": script(t, d, "h", gate)}})
	r.Post(numbered(hook.AfterStandby, 0))
	until(t, "the first begins", func() bool { return exists(d + "/log") })
	for i := range 20 { // 16 wait
		r.Post(numbered(hook.AfterStandby, i+1))
	}
	dropped := j.all()
	for i, e := range dropped {
		if !errors.Is(e.err, hook.ErrDropped) || e.ev.Epoch.Num != uint64(i+1) {
			t.Errorf("reported %+v", e)
		}
	}
	if len(dropped) != 4 {
		t.Errorf("%d dropped", len(dropped))
	}
	open(t, d)
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	rest := j.all()[len(dropped):]
	for i, e := range rest {
		want := uint64(i)
		if i > 0 {
			want += 4
		}
		if e.err != nil || e.ev.Epoch.Num != want {
			t.Errorf("%d: reported %+v", i, e)
		}
	}
	if len(rest) != 17 {
		t.Errorf("%d ran", len(rest))
	}
}

func TestRunner_CloseHasADeadline(t *testing.T) {
	d := folder(t)
	r, j := runner(t, hook.Config{Timeout: time.Minute, Commands: map[string]string{"after_standby": script(t, d, "h", gate)}})
	for i := range 3 {
		r.Post(numbered(hook.AfterStandby, i))
	}
	until(t, "the first begins", func() bool { return exists(d + "/log") })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := r.Close(ctx)
	if !errors.Is(err, hook.ErrClosed) || !strings.HasPrefix(err.Error(), "2 hooks were not run") || time.Since(began) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, err := r.Run(t.Context(), event(hook.AfterStandby)); !errors.Is(err, hook.ErrClosed) {
		t.Errorf("got %v", err)
	}
	l := j.all()
	if len(l) != 4 || !l[0].r.Ran || l[1].r.Ran || l[2].r.Ran || l[3].r.Ran {
		t.Fatalf("reported %+v", l)
	}
	for _, e := range l {
		if !errors.Is(e.err, hook.ErrClosed) {
			t.Errorf("reported %v", e.err)
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Many callers at once: each hears of its own hook, and none overlap.
func TestRunner_ManyCallers(t *testing.T) {
	d := folder(t)
	p := script(t, d, "h", `mkdir $D/inside || exit 9
echo $UNDERSTUDY_EPOCH; rmdir $D/inside`)
	r, j := runner(t, hook.Config{Commands: map[string]string{"before_switchover": p, "after_standby": p}})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			r.Post(numbered(hook.AfterStandby, 100+i))
			res, err := r.Run(context.Background(), numbered(hook.BeforeSwitchover, i))
			if err != nil || res.First != fmt.Sprintf("1.%d", i) {
				t.Errorf("%d: got %+v, %v", i, res, err)
			}
		})
	}
	wg.Wait()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, e := range j.all() {
		if e.err != nil {
			t.Error(e.err)
		}
	}
	if n := len(j.all()); n != 24 {
		t.Errorf("%d reports", n)
	}
}

// A killed daemon takes the program of its running hook along.
func TestRunner_DaemonKilled(t *testing.T) {
	if file := os.Getenv("HOOK_TEST_DAEMON"); file != "" {
		a := me(t)
		if a.Switch { // the kernel forgets the signal when the account changes, unless it is asked for last
			a = hook.Account{Name: "stranger", UID: stranger, GID: stranger, Switch: true}
		}
		r, _ := runner(t, hook.Config{Timeout: time.Minute, Account: a, Commands: map[string]string{"after_promotion": file}})
		r.Run(context.Background(), event(hook.AfterPromotion))
		return
	}
	d := folder(t)
	out := d + "/out"
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(out, 0o777); err != nil { // for what the hook writes
		t.Fatal(err)
	}
	p := script(t, d, "h", `echo $$ >$D/out/new; mv $D/out/new $D/out/pid; exec sleep 60`)
	daemon := exec.Command(os.Args[0], "-test.run=^TestRunner_DaemonKilled$")
	daemon.Env = append(os.Environ(), "HOOK_TEST_DAEMON="+p)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the hook runs", func() bool { return exists(out + "/pid") })
	pid := pidIn(t, out+"/pid")
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	if !alive(pid) {
		t.Fatal("the hook does not run")
	}
	daemon.Process.Kill()
	daemon.Wait()
	until(t, "the hook is gone", func() bool { return !alive(pid) })
}
