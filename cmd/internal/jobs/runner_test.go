package jobs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/cmd/internal/jobs"
	"understudy/cmd/internal/worker"
	"understudy/ledger"
	"understudy/ledger/facts"
)

// TestMain is also the worker that the tests start: the label of its job says
// how it behaves.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		actWorker()
		return
	}
	os.Exit(m.Run())
}

// actWorker plays a worker.
func actWorker() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	in.Scan()
	var spec worker.Spec
	if err := json.Unmarshal(in.Bytes(), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	say := func(m worker.Message) { _ = json.NewEncoder(os.Stdout).Encode(m) }
	switch spec.Program {
	case "done":
		say(worker.Message{Progress: &worker.Progress{Step: "half", Done: 1, Total: 2}})
		say(worker.Message{File: &worker.File{Location: "disk", Key: "k", Bytes: 3}})
		say(worker.Message{N: 7, Propose: &facts.Command{ClearIncident: &facts.ClearIncident{Key: "asked"}}})
		in.Scan() // the answer
		say(worker.Message{Done: &worker.Done{Result: "answered " + in.Text(), Bytes: 5}})
	case "fails":
		say(worker.Message{Done: &worker.Done{Problem: "the disk is full"}})
	case "dies":
		os.Exit(9)
	case "garbage":
		fmt.Println("{")
	case "waits":
		for in.Scan() { // until the input ends
		}
		fmt.Fprintln(os.Stderr, "cleaned up")
	case "hangs":
		for in.Scan() {
		}
		select {}
	}
}

// book is a ledger that takes everything but what refuse names.
type book struct {
	mu      sync.Mutex
	st      facts.State
	changed chan struct{}
	said    []facts.Command
	refuse  func(facts.Command) error
}

func newBook(js ...facts.Job) *book {
	b := &book{changed: make(chan struct{})}
	b.st.Group.ID = "g"
	b.st.Backups.Jobs = map[string]facts.Job{}
	for _, j := range js {
		b.st.Backups.Jobs[j.ID] = j
	}
	return b
}

func (b *book) State() facts.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.st
}

func (b *book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) Propose(_ context.Context, c facts.Command) (facts.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, c)
	if b.refuse != nil {
		if err := b.refuse(c); err != nil {
			return facts.Outcome{}, err
		}
	}
	all := map[string]facts.Job{}
	for id, j := range b.st.Backups.Jobs {
		if c.EndJob == nil || id != c.EndJob.Job.ID {
			all[id] = j
		}
	}
	b.st.Backups.Jobs = all
	close(b.changed)
	b.changed = make(chan struct{})
	return facts.Outcome{}, nil
}

// cancel asks for the end of a job.
func (b *book) cancel(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]facts.Job{}
	for k, j := range b.st.Backups.Jobs {
		if k == id {
			j.Cancel = "the operator said so"
		}
		all[k] = j
	}
	b.st.Backups.Jobs = all
	close(b.changed)
	b.changed = make(chan struct{})
}

// ends are the jobs that were said to have ended.
func (b *book) ends() (out []facts.EndJob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.said {
		if c.EndJob != nil {
			out = append(out, *c.EndJob)
		}
	}
	return out
}

// start runs the jobs of a book with a worker that behaves as how says.
func start(t *testing.T, b *book, how string) (r *jobs.Runner, dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r = jobs.New(jobs.Config{
		Node: "main", Store: "m", Boot: "boot", Binary: self, Dir: dir, Ledger: b,
		Spec: func(_ facts.State, _ facts.Job, s *worker.Spec) error {
			if how == "unspecified" {
				return errors.New("nobody can say what to do")
			}
			s.Program = how
			return nil
		},
		Archive: func(facts.State, []string) *worker.Spec { return nil },
		Update:  func(facts.State) worker.Update { return worker.Update{} },
		Observe: func(facts.State) jobs.View { return jobs.View{} },
		Leads:   func() bool { return false },
		Log:     slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return r, dir, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s in time", what)
		}
	}
}

func job(id string) facts.Job {
	return facts.Job{ID: id, Kind: facts.JobPrune, Store: "m", Lease: "boot", State: facts.JobRunning}
}

func TestRunner_Ends(t *testing.T) {
	for how, want := range map[string]struct {
		state   facts.JobState
		problem string
	}{
		"done":        {facts.JobDone, ""},
		"fails":       {facts.JobFailed, "the disk is full"},
		"dies":        {facts.JobFailed, "exit status 9"},
		"garbage":     {facts.JobFailed, "read a worker's message"},
		"unspecified": {facts.JobFailed, "nobody can say what to do"},
	} {
		t.Run(how, func(t *testing.T) {
			b := newBook(job("one"))
			start(t, b, how)
			until(t, "end", func() bool { return len(b.ends()) > 0 })
			got := b.ends()[0]
			if got.State != want.state || !strings.Contains(got.Problem, want.problem) || want.problem == "" && got.Problem != "" {
				t.Errorf("it ended %s with %q, want %s with %q", got.State, got.Problem, want.state, want.problem)
			}
			if got.Job != (facts.JobRef{ID: "one", Lease: "boot"}) {
				t.Errorf("the end is of %+v", got.Job)
			}
		})
	}
}

// What a worker asks to propose is proposed and answered before it goes on; its
// files are listed.
func TestRunner_Answers(t *testing.T) {
	for _, refused := range []bool{false, true} {
		b := newBook(job("one"))
		b.refuse = func(c facts.Command) error {
			if c.ClearIncident != nil && refused {
				return &ledger.RefusedError{Code: "no", Text: "not like this"}
			}
			return nil
		}
		_, dir, _ := start(t, b, "done")
		until(t, "end", func() bool { return len(b.ends()) > 0 })
		want := `answered {"answer":{"n":7}}`
		if refused {
			want = `answered {"answer":{"n":7,"error":"not like this","refused":true}}`
		}
		if got := b.ends()[0]; got.Result != want || got.Bytes != 5 {
			t.Errorf("result %q of %d bytes, want %q", got.Result, got.Bytes, want)
		}
		files, err := os.ReadFile(filepath.Join(dir, "one", "files.jsonl"))
		if err != nil || !strings.Contains(string(files), `"key":"k"`) {
			t.Errorf("files %q, %v", files, err)
		}
	}
}

func TestRunner_Cancel(t *testing.T) {
	for how, log := range map[string]string{"waits": "cleaned up", "hangs": ""} {
		t.Run(how, func(t *testing.T) {
			b := newBook(job("one"))
			r, dir, _ := start(t, b, how)
			until(t, "work", func() bool { return len(r.Work()) > 0 })
			b.cancel("one")
			until(t, "end", func() bool { return len(b.ends()) > 0 })
			if got := b.ends()[0]; got.State != facts.JobCancelled || !strings.Contains(got.Problem, "the operator said so") {
				t.Errorf("it ended %s: %s", got.State, got.Problem)
			}
			if said, err := os.ReadFile(filepath.Join(dir, "one", "log")); err != nil || !strings.Contains(string(said), log) {
				t.Errorf("log %q, %v", said, err)
			}
		})
	}
}

// A job of an earlier run of the daemon is given up, one of another node is
// nobody's business, and Run leaves no worker behind.
func TestRunner_Others(t *testing.T) {
	old, other, own := job("old"), job("other"), job("own")
	old.Lease, other.Store = "before", "b"
	b := newBook(old, other, own)
	r, _, stop := start(t, b, "waits")
	until(t, "work", func() bool { return len(r.Work()) == 1 && r.Work()[0].Job == "own" })
	until(t, "word on the old one", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.said, func(c facts.Command) bool {
			return c.LoseJobs != nil && c.LoseJobs.Store == "m" && c.LoseJobs.Keep == "boot"
		})
	})
	stop()
}

// A set whose log is not at a location yet is not done, and not failed either.
func TestRunner_WaitsForLog(t *testing.T) {
	j := job("one")
	j.Kind = facts.JobBackup
	b := newBook(j)
	refusals := 0
	b.refuse = func(c facts.Command) error {
		if c.EndJob != nil && refusals < 3 {
			refusals++
			return &ledger.RefusedError{Code: facts.CodeNotComplete, Text: "no location has all the log yet"}
		}
		return nil
	}
	start(t, b, "done")
	until(t, "end", func() bool { return len(b.ends()) == 4 })
	for _, e := range b.ends() {
		if e.State != facts.JobDone {
			t.Errorf("said to be %s: %s", e.State, e.Problem)
		}
	}
}
