package jobs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/cmd/internal/jobs"
	"understudy/cmd/internal/worker"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
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

// waiting is the step of a worker that has read what it is to do and waits.
const waiting = "waiting"

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
		say(worker.Message{Progress: &worker.Progress{Step: waiting}})
		for in.Scan() { // until the input ends
		}
		fmt.Fprintln(os.Stderr, "cleaned up")
	case "archives":
		feeds, _ := json.Marshal(spec.Archive.Feeds)
		fmt.Fprintf(os.Stderr, "feeds %s\n", feeds)
		// It reports whenever it is told anything.
		for n := 1; in.Scan(); n++ {
			say(worker.Message{N: n, Propose: &facts.Command{RecordArchived: &facts.RecordArchived{Location: "nas", Store: "m"}}})
		}
	case "hangs":
		say(worker.Message{Progress: &worker.Progress{Step: waiting}})
		for {
			time.Sleep(time.Hour) // a program in which nothing can ever happen would be ended by the runtime
		}
	}
}

// book is a ledger that takes everything but what refuse names.
type book struct {
	mu      sync.Mutex
	st      facts.State
	changed chan struct{}
	said    []facts.Command
	refuse  func(facts.Command) error
	// hold is called before a command is taken, and read after the state was
	// read; both without the lock. They are set before the runner starts.
	hold func(facts.Command)
	read func()
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
	st := b.st
	b.mu.Unlock()
	if b.read != nil {
		b.read()
	}
	return st
}

func (b *book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) Propose(_ context.Context, c facts.Command) (facts.Outcome, error) {
	if b.hold != nil {
		b.hold(c)
	}
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
		ended := c.EndJob != nil && id == c.EndJob.Job.ID
		lost := c.LoseJobs != nil && j.Store == c.LoseJobs.Store && j.Lease != c.LoseJobs.Keep && (c.LoseJobs.ID == "" || c.LoseJobs.ID == id)
		if !ended && !lost {
			all[id] = j
		}
	}
	b.put(all)
	return facts.Outcome{}, nil
}

// put replaces the jobs; mu is held.
func (b *book) put(all map[string]facts.Job) {
	b.st.Backups.Jobs = all
	close(b.changed)
	b.changed = make(chan struct{})
}

// cancel asks for the end of a job.
func (b *book) cancel(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := maps.Clone(b.st.Backups.Jobs)
	j := all[id]
	j.Cancel = "the operator said so"
	all[id] = j
	b.put(all)
}

// lose gives a job up without asking its node.
func (b *book) lose(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := maps.Clone(b.st.Backups.Jobs)
	delete(all, id)
	b.put(all)
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
func start(t *testing.T, b *book, how string, change ...func(*jobs.Config)) (r *jobs.Runner, dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := jobs.Config{
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
	}
	for _, c := range change {
		c(&cfg)
	}
	r = jobs.New(cfg)
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

// untilWaiting waits until the worker of the only job has begun: one that is
// told to end before that has nothing to clean up.
func untilWaiting(t *testing.T, r *jobs.Runner) {
	t.Helper()
	until(t, "worker that waits", func() bool {
		w := r.Work()
		return len(w) == 1 && w[0].Step == waiting
	})
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
	t.Parallel()
	for how, log := range map[string]string{"waits": "cleaned up", "hangs": ""} {
		t.Run(how, func(t *testing.T) {
			b := newBook(job("one"))
			r, dir, _ := start(t, b, how)
			untilWaiting(t, r)
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
	untilWaiting(t, r)
	if w := r.Work(); w[0].Job != "own" {
		t.Errorf("it works on %+v", w)
	}
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
	t.Parallel()
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

// A job is not begun a second time by a look at the ledger that was taken while
// it ended.
func TestRunner_BeginsOnce(t *testing.T) {
	b := newBook(job("one"))
	var r *jobs.Runner
	asked, looked := make(chan struct{}), make(chan struct{})
	var begun, looks atomic.Int32
	b.hold = func(c facts.Command) {
		if c.ClearIncident == nil {
			return
		}
		begun.Add(1)
		close(asked) // a second time: the worker was started again
		<-looked
	}
	started := make(chan struct{})
	b.read = func() {
		select {
		case <-asked:
		default:
			return
		}
		<-started // r is set
		if looks.Add(1) > 1 {
			return
		}
		close(looked) // the worker goes on, and its job ends while this look has what it read
		for deadline := time.Now().Add(10 * time.Second); len(r.Work()) > 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
	}
	r, _, _ = start(t, b, "done")
	close(started)
	until(t, "end", func() bool { return len(b.ends()) > 0 && len(r.Work()) == 0 })
	before := looks.Load()
	until(t, "another look", func() bool { return looks.Load() >= before+2 })
	if n := begun.Load(); n != 1 || len(r.Work()) != 0 || len(b.ends()) != 1 {
		t.Errorf("it was begun %d times and ended %d times", n, len(b.ends()))
	}
}

// A job that the group has given up, since it did not hear this node, ends.
func TestRunner_EndsWhatWasGivenUp(t *testing.T) {
	b := newBook(job("one"))
	r, dir, _ := start(t, b, "waits")
	untilWaiting(t, r)
	b.lose("one")
	until(t, "end", func() bool { return len(r.Work()) == 0 })
	if said, err := os.ReadFile(filepath.Join(dir, "one", "log")); err != nil || !strings.Contains(string(said), "cleaned up") {
		t.Errorf("log %q, %v", said, err)
	}
}

// A job that is cancelled before its worker has begun is cancelled all the same.
func TestRunner_CancelledAtOnce(t *testing.T) {
	j := job("one")
	j.Cancel = "not now"
	b := newBook(j)
	start(t, b, "waits")
	until(t, "end", func() bool { return len(b.ends()) > 0 })
	if got := b.ends()[0]; got.State != facts.JobCancelled || !strings.Contains(got.Problem, "not now") {
		t.Errorf("it ended %s: %s", got.State, got.Problem)
	}
}

// begins makes the log of the location that is fed begin at a segment; less was
// removed.
func (b *book) begins(segment int, removals uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.st.Backups.Catalogs = map[string]catalog.Catalog{facts.ProfilePostgres: {SegSize: segSize, Places: map[string]catalog.Place{
		"nas": {WAL: []catalog.Span{{Timeline: 1, From: pos.LSN(segment) * segSize, To: 100 * segSize}}}}}}
	b.st.Backups.LogRemovals = map[string]uint64{"nas": removals}
	b.put(b.st.Backups.Jobs)
}

const segSize = 1 << 20

// What a worker reports of a location's log counts for the removals that its
// node knows of. When log was removed that the worker still wants, it is
// started anew, and told what it may have brought again.
func TestRunner_ArchiveAfterARemoval(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.st.Policy.Locations = map[string]facts.LocationPolicy{"nas": {}}
	b.st.Backups.Feeders = map[string]string{"nas": "m"}
	b.begins(1, 5)
	_, dir, _ := start(t, b, "archives", func(c *jobs.Config) {
		c.Archive = func(st facts.State, _ []string) *worker.Spec {
			from := st.Backups.Catalogs[facts.ProfilePostgres].Places["nas"].WAL[0].From
			return &worker.Spec{Program: "archives", Group: facts.Group{SegSize: segSize}, Archive: &worker.Archive{Feeds: []worker.Feed{{Location: "nas", From: from}}}}
		}
	})
	reports := func() (counts []uint64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, c := range b.said {
			if c.RecordArchived != nil {
				counts = append(counts, c.RecordArchived.Removals)
			}
		}
		return slices.Compact(counts)
	}
	until(t, "report", func() bool { return slices.Equal(reports(), []uint64{5}) })
	b.begins(4, 7)
	until(t, "report of the next worker", func() bool { return slices.Equal(reports(), []uint64{5, 7}) })
	said, err := os.ReadFile(filepath.Join(dir, "archive", "log"))
	want := `feeds [{"location":"nas","from":"0/400000","stale":{"from":"0/100000","to":"0/400000"}}]`
	if err != nil || !strings.Contains(string(said), want) {
		t.Errorf("the next one was told %q, %v", said, err)
	}
}

// A job that does not end although it was told to, long after its time limit, is
// given up by the leader: it alone, also while its daemon lives.
func TestRunner_GivesUpWhatDoesNotEnd(t *testing.T) {
	stuck, other := job("stuck"), job("other")
	stuck.Node, stuck.Locations, stuck.Began = "main", []string{"nas"}, time.Now().Add(-25*time.Hour)
	other.Node, other.Locations, other.Began = "main", []string{"offsite"}, time.Now()
	b := newBook(stuck, other)
	b.st.Policy = facts.DefaultPolicy().WithLocation("nas", facts.DefaultLocation())
	b.st.Primary.Phase = facts.PhaseOpened
	b.st.Members = map[string]facts.Member{"m": {Name: "main", Store: "m", Kind: facts.KindData}}
	start(t, b, "waits", func(c *jobs.Config) {
		c.Store = "of the leader"
		c.Leads = func() bool { return true }
		c.Observe = func(facts.State) jobs.View {
			return jobs.View{Now: time.Now(), Nodes: []decide.Report{{Node: "main", Store: "m", Boot: "boot"}}}
		}
	})
	until(t, "end of what does not end", func() bool {
		_, stands := b.State().Backups.Jobs["stuck"]
		return !stands
	})
	if _, stands := b.State().Backups.Jobs["other"]; !stands {
		t.Error("the other one was given up, too")
	}
}
