package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// hookTrace is where the hooks of a group write down that they were run, and
// whether they refuse.
type hookTrace struct{ dir string }

// hookRun is one run of a hook.
type hookRun struct {
	Event, Node, Group, Epoch, From, To string
	Timeline, Cause, Host, Port         string
}

// String is it without what differs from run to run.
func (r hookRun) String() string {
	return fmt.Sprintf("%s %s on %s: %s to %s", r.Epoch, r.Event, r.Node, r.From, r.To)
}

const hookScript = `#!/bin/sh
set -u
# One write, since hooks of two nodes may run at the same time.
printf '%%s|%%s|%%s|%%s|%%s|%%s|%%s|%%s|%%s|%%s\n' "$UNDERSTUDY_EVENT" "$UNDERSTUDY_NODE" "$UNDERSTUDY_GROUP" "$UNDERSTUDY_EPOCH" \
  "$UNDERSTUDY_FROM" "$UNDERSTUDY_TO" "$UNDERSTUDY_TIMELINE" "$UNDERSTUDY_CAUSE" "${UNDERSTUDY_PRIMARY_HOST-}" "${UNDERSTUDY_PRIMARY_PORT-}" >> %[1]s/trace
if [ "$UNDERSTUDY_EVENT" = before_switchover ] && [ -e %[1]s/veto ]; then
  echo "the nightly batch is not through"
  exit 3
fi
`

// withHooks gives every hook of both data nodes a script that writes down that
// it was run. The daemons must not run yet.
func withHooks(t *testing.T, g *cluster.Group) hookTrace {
	t.Helper()
	h := hookTrace{filepath.Join(g.Dir, "hooks")}
	script := filepath.Join(h.dir, "hook.sh")
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, fmt.Appendf(nil, hookScript, h.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	// The hooks run with the account of the database.
	trace := filepath.Join(h.dir, "trace")
	if err := os.WriteFile(trace, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(trace, 0o666); err != nil {
		t.Fatal(err)
	}
	hooks := "hooks:\n"
	for _, name := range []string{"before_switchover", "before_promotion", "after_promotion", "after_demotion", "after_standby"} {
		hooks += fmt.Sprintf("  %s: %s\n", name, script)
	}
	for _, n := range []*cluster.Node{g.Main, g.Backup} {
		n.Edit(t, "postgresql:\n", hooks+"postgresql:\n")
	}
	return h
}

// runs are the runs so far.
func (h hookTrace) runs(t *testing.T) []hookRun {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	var out []hookRun
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(f) != 10 {
			t.Fatalf("a hook wrote %q", line)
		}
		out = append(out, hookRun{Event: f[0], Node: f[1], Group: f[2], Epoch: f[3], From: f[4], To: f[5], Timeline: f[6], Cause: f[7], Host: f[8], Port: f[9]})
	}
	return out
}

// wait waits until n hooks have run after the first skip ones, and checks that
// they are the wanted ones, each once, in any order.
func (h hookTrace) wait(t *testing.T, skip int, want ...string) []hookRun {
	t.Helper()
	cluster.Eventually(t, 20*time.Second, fmt.Sprintf("%d hooks", len(want)), func() bool { return len(h.runs(t)) >= skip+len(want) })
	runs := h.runs(t)[skip:]
	var got []string
	for _, r := range runs {
		got = append(got, r.String())
		if r.Group != "test" || r.Timeline == "" || r.Cause == "" {
			t.Errorf("hook without its environment: %+v", r)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("hooks\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return runs
}

// do posts a command to a daemon's own socket.
func do(t *testing.T, n *cluster.Node, action string, args map[string]string) (result string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.RunDir(), "admin.sock"))
	}}
	defer tr.CloseIdleConnections()
	body, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post("http://understudy/api/v1/do/"+action, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s on %s: %s %v\n%s", action, n.Name, resp.Status, err, b)
	}
	var reply struct{ Result string }
	if err := json.Unmarshal(b, &reply); err != nil {
		t.Fatal(err)
	}
	return reply.Result
}

// TestAuto_Planned hands the primary over because a node stops or a time has
// come, with hooks that are told and one that may refuse.
func TestAuto_Planned(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithPolicy("failover: automatic\n"), cluster.WithoutStart())
	h := withHooks(t, g)
	g.Start(t)
	st := g.WaitHealthy(t)
	h.wait(t, 0, fmt.Sprintf("%s after_promotion on main:  to main", st.Group.Epoch))

	run(t, "Vetoed", func(t *testing.T) { vetoed(t, g, h) })
	run(t, "Allowed", func(t *testing.T) { allowed(t, g, h) })
	run(t, "Scheduled", func(t *testing.T) { scheduled(t, g) })
	run(t, "StopHandsOver", func(t *testing.T) {
		c := stopped(t, g, nil, func(result string, to *cluster.Node) bool {
			return strings.HasPrefix(result, "handing over to "+to.Name)
		})
		if c.Kind != "switchover" || !slices.Contains(phases(c), "frozen") || !strings.Contains(c.Cause, "stop") {
			t.Errorf("change %s", c)
		}
		closed(t, c, "follow")
	})
	run(t, "StopWithoutHandOver", func(t *testing.T) { stopsWithoutHandOver(t, g, h) })
	run(t, "StopOfAStandby", func(t *testing.T) { standbyStops(t, g) })
}

// vetoed has the hook refuse a switchover: the primary serves on, and what was
// prepared is undone.
func vetoed(t *testing.T, g *cluster.Group, h hookTrace) {
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, ran, began := epoch(t, g), len(h.runs(t)), time.Now()
	veto := filepath.Join(h.dir, "veto")
	if err := os.WriteFile(veto, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g.Witness.WaitPossible(t, "switchover", "--to", s.Name)
	out, code := g.Witness.Run(t, "switchover", "--to", s.Name)
	if code != 1 || !strings.Contains(out, "given up") {
		t.Errorf("a switchover that was vetoed ended with %d:\n%s", code, out)
	}
	h.wait(t, ran, fmt.Sprintf("%s before_switchover on %s: %[2]s to %s", before, p.Name, s.Name), after(before, "after_promotion", p, "", p))
	pausedFor(t, w, began, unnoticed)
	if now := epoch(t, g); now != before || g.Primary(t) != p {
		t.Errorf("epoch %s after a veto, %s before", now, before)
	}
	for _, n := range g.Nodes() {
		cluster.Eventually(t, 10*time.Second, "the reason among the events of "+n.Name, func() bool {
			events, err := n.Events(t.Context())
			return err == nil && slices.ContainsFunc(events, func(e cluster.Event) bool { return strings.Contains(e.Text, "the nightly batch is not through") })
		})
	}
	if err := os.Remove(veto); err != nil {
		t.Fatal(err)
	}
	noneLost(t, g, w)
}

// after is a hook's run in an epoch.
func after(e pos.Epoch, event string, on *cluster.Node, from string, to *cluster.Node) string {
	return fmt.Sprintf("%s %s on %s: %s to %s", e, event, on.Name, from, to.Name)
}

// allowed hands over there, with every hook run once and told what it may ask.
func allowed(t *testing.T, g *cluster.Group, h hookTrace) {
	g.WaitHealthy(t)
	p, s := primaryAndStandby(t, g)
	before, ran := epoch(t, g), len(h.runs(t))
	c := g.WaitReturned(t, g.Switchover(t, s).Epoch)
	runs := h.wait(t, ran,
		after(before, "before_switchover", p, p.Name, s),
		fmt.Sprintf("%s after_demotion on %s: %[2]s to ", before, p.Name),
		after(c.Epoch, "before_promotion", s, p.Name, s),
		after(c.Epoch, "after_promotion", s, p.Name, s),
		after(c.Epoch, "after_standby", p, p.Name, s))
	for _, r := range runs {
		if r.Event == "after_promotion" && (r.Host != "127.0.0.1" || r.Port != fmt.Sprint(s.Port) || r.Timeline != fmt.Sprint(c.Timeline)) {
			t.Errorf("the hook of the new primary was told %+v", r)
		}
	}
}

// scheduled has a switchover begin by itself when its time has come.
func scheduled(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	_, s := primaryAndStandby(t, g)
	before, ordered := epoch(t, g), time.Now()
	g.Witness.MustRun(t, "switchover", "--to", s.Name, "--at", "+1h")
	g.Witness.MustRun(t, "switchover", "--cancel")
	g.Witness.MustRun(t, "switchover", "--to", s.Name, "--at", "+3s")
	c := takenOver(t, s, before)
	if d := time.Since(ordered); d < 3*time.Second {
		t.Errorf("it was done after %s", d)
	}
	pausedFor(t, w, ordered, handedOverWithin)
	if c.Kind != "switchover" || c.To != s.Name {
		t.Errorf("change %s", c)
	}
	if out := g.Witness.MustRun(t, "explain", c.Plan); !strings.Contains(out, "switchover to "+s.Name) {
		t.Errorf("explained as\n%s", out)
	}
	closed(t, g.WaitReturned(t, c.Epoch), "follow")
	stays(t, g.Witness, c.Epoch, time.Second)
	noneLost(t, g, w)
}

// stopped stops the primary by a command and starts it again when another one is
// open.
func stopped(t *testing.T, g *cluster.Group, args map[string]string, answer func(result string, to *cluster.Node) bool) cluster.Change {
	t.Helper()
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	g.Witness.WaitPossible(t, "switchover", "--to", s.Name)
	before, began := epoch(t, g), time.Now()
	if result := do(t, p, "stop", args); !answer(result, s) {
		t.Errorf("stop answers %q", result)
	}
	c := takenOver(t, s, before)
	pausedFor(t, w, began, handedOverWithin)
	p.WaitExit(t, 20*time.Second)
	if code := p.ExitCode(); code != 0 || p.PostgresPID() != 0 {
		t.Errorf("exit code %d, postmaster %d after a stop", code, p.PostgresPID())
	}
	stays(t, s, c.Epoch, time.Second)
	p.Start(t)
	c = g.WaitReturned(t, c.Epoch)
	noneLost(t, g, w)
	return c
}

// standbyStops stops the standby: nothing changes for anybody else.
func standbyStops(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, began := epoch(t, g), time.Now()
	if out := s.MustRun(t, "stop"); !strings.Contains(out, "Stopped.") {
		t.Errorf("stop says %q", out)
	}
	s.WaitExit(t, 5*time.Second)
	if code := s.ExitCode(); code != 0 || s.PostgresPID() != 0 {
		t.Errorf("exit code %d, postmaster %d after a stop", code, s.PostgresPID())
	}
	pausedFor(t, w, began, unnoticed)
	s.Start(t)
	g.WaitHealthy(t)
	if now := epoch(t, g); now != before || g.Primary(t) != p {
		t.Errorf("epoch %s after the stop of a standby, %s before", now, before)
	}
	noneLost(t, g, w)
}

// stopsWithoutHandOver stops the primary of an operator who wants no switchover.
// It is lost then, and replaced.
func stopsWithoutHandOver(t *testing.T, g *cluster.Group, h hookTrace) {
	g.WaitHealthy(t)
	p, s := primaryAndStandby(t, g)
	before, ran := epoch(t, g), len(h.runs(t))
	c := stopped(t, g, map[string]string{"hand_over": "no"}, func(result string, _ *cluster.Node) bool { return strings.HasPrefix(result, "stopping") })
	if c.Kind == "switchover" || slices.Contains(phases(c), "ordered") {
		t.Errorf("handed over although it was not to: %s", c)
	}
	// Nobody could have refused it.
	h.wait(t, ran,
		fmt.Sprintf("%s after_demotion on %s: %[2]s to ", before, p.Name),
		after(c.Epoch, "before_promotion", s, p.Name, s),
		after(c.Epoch, "after_promotion", s, p.Name, s),
		after(c.Epoch, "after_standby", p, p.Name, s))
}
