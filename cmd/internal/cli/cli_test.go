package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/view"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/location"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // golden files name times
	null, err := os.Open(os.DevNull)
	if err != nil {
		panic(err)
	}
	os.Stdin = null // nobody to ask, whoever runs the tests
	goleak.VerifyTestMain(m)
}

// buffer is an io.Writer that a test can read while a command writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func run(ctx context.Context, out io.Writer, args ...string) error {
	root := &cobra.Command{Use: "understudy"}
	root.AddCommand(cli.Commands(cli.Options{Out: out, Version: "9.9"})...)
	cli.Prepare(root)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

type backend struct{ log *eventlog.Log }

func (b backend) Status(context.Context) (view.Status, error) {
	return view.Build(view.Input{Now: time.Now(), Self: decide.Report{Node: "main", Role: decide.RoleNone}}), nil
}
func (b backend) Self() (facts.State, decide.Report)           { return facts.State{}, decide.Report{} }
func (b backend) Events() *eventlog.Log                        { return b.log }
func (b backend) History(context.Context) (doc.History, error) { return doc.History{}, nil }
func (b backend) Plans(context.Context) (doc.Plans, error)     { return doc.Plans{}, nil }
func (b backend) Explain(context.Context, string) (doc.Explanation, error) {
	return doc.Explanation{}, &admin.ActionError{Code: admin.CodeUnknownPlan, Text: "No decision is stored."}
}
func (b backend) Do(_ context.Context, action string, args map[string]string) (any, error) {
	if action == "unsafe" {
		return nil, &admin.ActionError{Code: admin.CodeRefused, Text: "It would lose commits."}
	}
	return args, nil
}
func (b backend) JobDir(string) string                       { return "" }
func (b backend) AuditFile() string                          { return "" }
func (b backend) Retention() retention.Plan                  { return retention.Plan{} }
func (b backend) Needed(context.Context) (doc.Needed, error) { return doc.Needed{}, nil }
func (b backend) Space(context.Context, string) (location.Space, bool) {
	return location.Space{}, false
}
func (b backend) WAL(context.Context, string, io.Writer) error { return admin.ErrNotYet }

// nodeFile writes a node file and returns it with the path of its socket.
func nodeFile(t *testing.T) (config, socket, dir string) {
	t.Helper()
	dir = t.TempDir()
	config = filepath.Join(dir, "understudy.yaml")
	text := "name: main\ngroup: shop\nkind: witness\nstate_dir: state\nrun_dir: .\nlog: {file: u.log}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, filepath.Join(dir, "admin.sock"), dir
}

// daemon serves a backend on the node's socket until the test ends.
func daemon(t *testing.T) (config string, log *eventlog.Log) {
	t.Helper()
	config, socket, dir := nodeFile(t)
	log, err := eventlog.Open(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, socket, admin.Handler(backend{log}, admin.Options{Writable: true}))
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return config, log
}

func serve(t *testing.T, socket string, h http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- admin.ServeUnix(ctx, socket, h, 0o600) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// The file is there a moment before it can be connected to.
	eventually(t, "socket", func() bool {
		c, err := net.Dial("unix", socket)
		return err == nil && c.Close() == nil
	})
}

func TestStatus_TextAndJSON(t *testing.T) {
	config, _ := daemon(t)
	var out buffer
	if err := run(context.Background(), &out, "status", "--config", config); err != nil || !strings.Contains(out.String(), "understudy init") {
		t.Errorf("got %q, %v", out.String(), err)
	}
	out = buffer{}
	err := run(context.Background(), &out, "status", "--json", "--check", "--config", config)
	var st view.Status
	if json.Unmarshal([]byte(out.String()), &st) != nil || st.Group.Safe.Rule != "no-group" {
		t.Errorf("got %q", out.String())
	}
	if cli.Code(err) != cli.ExitNotSafe || !cli.Silent(err) {
		t.Errorf("got %v", err)
	}
}

func TestStatus_Watch(t *testing.T) {
	config, _ := daemon(t)
	ctx, cancel := context.WithCancel(context.Background())
	var out buffer
	done := make(chan error, 1)
	go func() { done <- run(ctx, &out, "status", "--watch", "--json", "--config", config) }()
	eventually(t, "two documents", func() bool { return strings.Count(out.String(), "\n") >= 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCommands_DaemonNotRunning(t *testing.T) {
	config, _, dir := nodeFile(t)
	var log strings.Builder
	for i := range 9 {
		fmt.Fprintf(&log, "time=x level=INFO msg=fine\ntime=x level=ERROR msg=\"bad %d\"\n", i)
	}
	if err := os.WriteFile(filepath.Join(dir, "u.log"), []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []string{"status", "events"} {
		err := run(context.Background(), io.Discard, cmd, "--config", config)
		if cli.Code(err) != cli.ExitNotRunning || !strings.Contains(err.Error(), "node main is not running") ||
			!strings.Contains(err.Error(), "bad 8") || strings.Contains(err.Error(), "bad 3") || strings.Contains(err.Error(), "fine") {
			t.Errorf("%s: %d %v", cmd, cli.Code(err), err)
		}
	}
}

func TestCommands_UsageErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("nmae: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"status", "--nope"}, cli.ExitUsage, "nope"},
		{[]string{"status", "extra"}, cli.ExitUsage, "extra"},
		{[]string{"status", "--config", filepath.Join(dir, "none.yaml")}, cli.ExitUsage, "does not exist"},
		{[]string{"status", "--config", bad}, cli.ExitUsage, "bad.yaml:1: nmae: this key is unknown"},
		{[]string{"events", "--since", "x"}, cli.ExitUsage, "since"},
		{[]string{"wal-get", "x"}, cli.ExitMustStop, "arg"},
		{[]string{"wal-get", "000000010000000000000001", "p"}, cli.ExitMustStop, "--socket"},
		{[]string{"wal-get", "--nope"}, cli.ExitMustStop, "nope"},
		{[]string{"wal-get", "--socket", "s", "000000010000000000000001.partial", "p"}, cli.ExitFailure, "no segment"},
	} {
		err := run(context.Background(), io.Discard, tt.args...)
		if cli.Code(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %d %v", tt.args, cli.Code(err), err)
		}
	}
}

func TestEvents_PrintAndFollow(t *testing.T) {
	config, log := daemon(t)
	for i := range 1500 { // more than one reply
		log.Add(eventlog.Event{Kind: "k", Node: "main", Text: fmt.Sprintf("text %d", i)})
	}
	var out buffer
	if err := run(context.Background(), &out, "events", "--since", "3", "--config", config); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 1497 || !strings.Contains(out.String(), "info     main        text 1499") {
		t.Errorf("%d lines", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out = buffer{}
	done := make(chan error, 1)
	go func() { done <- run(ctx, &out, "events", "--json", "--follow", "--since", "1498", "--config", config) }()
	eventually(t, "past events", func() bool { return strings.Count(out.String(), "\n") == 2 })
	log.Add(eventlog.Event{Kind: "fresh"})
	eventually(t, "a new event", func() bool { return strings.Contains(out.String(), `"n":1501`) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, out.String())
	}
}

func TestVersion_JSON(t *testing.T) {
	var out buffer
	var v cli.Version
	if err := run(context.Background(), &out, "version", "--json"); err != nil || json.Unmarshal([]byte(out.String()), &v) != nil || v.Version != "9.9" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestClient_DoRefused(t *testing.T) {
	config, _ := daemon(t)
	c, err := cli.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got map[string]string
	if err := c.Do(context.Background(), "stop", map[string]string{"mode": "fast"}, &got); err != nil || got["mode"] != "fast" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := c.Do(context.Background(), "unsafe", nil, nil); cli.Code(err) != cli.ExitRefused || err.Error() != "It would lose commits." {
		t.Errorf("got %v", err)
	}
}

func TestWALGet(t *testing.T) {
	const segment, history = "000000010000000000000001", "00000002.history"
	dir := t.TempDir()
	socket := filepath.Join(dir, "get.sock")
	var mu sync.Mutex
	var replies []error // one per attempt, the last for ever; nil sends data
	data := bytes.Repeat([]byte("w"), 1<<20)
	serve(t, socket, admin.WALHandler(func(_ context.Context, _ string, w io.Writer) error {
		mu.Lock()
		defer mu.Unlock()
		err := replies[0]
		if len(replies) > 1 {
			replies = replies[1:]
		}
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			if _, werr := w.Write(data); werr != nil {
				return werr
			}
		}
		return err
	}))
	for name, tt := range map[string]struct {
		file    string
		data    []byte
		replies []error
		code    int
	}{
		"Segment":           {segment, data, []error{nil}, cli.ExitOK},
		"History":           {history, []byte("1\t0/3000000\tx\n"), []error{nil}, cli.ExitOK},
		"NotYet":            {segment, data, []error{admin.ErrNotYet}, cli.ExitFailure},
		"LedgerComesBack":   {segment, data, []error{admin.ErrLedgerUnknown, admin.ErrLedgerUnknown, nil}, cli.ExitOK},
		"LedgerUnknown":     {segment, data, []error{admin.ErrLedgerUnknown}, cli.ExitMustStop},
		"LedgerThenNotYet":  {segment, data, []error{admin.ErrLedgerUnknown, admin.ErrNotYet}, cli.ExitFailure},
		"CutOff":            {segment, data, []error{io.ErrUnexpectedEOF}, cli.ExitMustStop},
		"CutOffOnce":        {segment, data, []error{io.ErrUnexpectedEOF, nil}, cli.ExitOK},
		"DiskError":         {segment, data, []error{os.ErrPermission}, cli.ExitMustStop},
		"NotAWholeSegment":  {segment, data[:1<<20-1], []error{nil}, cli.ExitMustStop},
		"HistoryWithoutEnd": {history, bytes.Repeat(data, 2), []error{nil}, cli.ExitMustStop},
	} {
		t.Run(name, func(t *testing.T) {
			mu.Lock()
			replies = tt.replies
			old := data
			data = tt.data
			mu.Unlock()
			defer func() { data = old }()
			target := t.TempDir()
			path := filepath.Join(target, "RECOVERYXLOG")
			if err := os.WriteFile(path, []byte("older"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := run(context.Background(), io.Discard, "wal-get", "--socket", socket, "--wait", "1s", tt.file, path)
			if cli.Code(err) != tt.code {
				t.Errorf("got %d %v", cli.Code(err), err)
			}
			want := []byte("older")
			if tt.code == cli.ExitOK {
				want = tt.data
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if entries, _ := os.ReadDir(target); len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	if err := run(context.Background(), io.Discard, "wal-get", "--socket", filepath.Join(dir, "none"), "--wait", "1s", segment, "p"); cli.Code(err) != cli.ExitMustStop {
		t.Errorf("no daemon: %v", err)
	}
}
