package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Writers insert rows (writer, seq) into the table acked, each seq once, one
// commit per row, and remember every commit that was acknowledged to them.
type Writers struct {
	g     *Group
	stop  chan struct{}
	abort context.CancelFunc
	wg    sync.WaitGroup
	once  sync.Once

	mu     sync.Mutex
	acked  map[row]bool // rows tried; true once acknowledged
	times  []time.Time  // of the acknowledgements, in order
	began  time.Time
	failed int // inserts and connects that failed
	last   error
}

type row struct {
	writer int
	seq    int64
}

// think is a writer's pause between two commits, so that the load leaves the
// machine to what is tested.
const think = 2 * time.Millisecond

// Writers starts n of them against the primary, wherever it is, and returns
// when one commit was acknowledged. The test's end stops them.
func (g *Group) Writers(t testing.TB, n int) *Writers {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, g.DSN())
	if err != nil {
		t.Fatalf("writers: %v", err)
	}
	// No key: a row that is there twice must be seen.
	_, err = c.Exec(ctx, "drop table if exists acked; create table acked (writer int not null, seq bigint not null)")
	c.Close(ctx)
	if err != nil {
		t.Fatalf("writers: make the table: %v", err)
	}
	w := &Writers{g: g, stop: make(chan struct{}), acked: map[row]bool{}, began: time.Now()}
	ctx, w.abort = context.WithCancel(context.Background())
	for i := range n {
		w.wg.Go(func() { w.write(ctx, i) })
	}
	t.Cleanup(func() { w.Stop() })
	w.WaitMore(t, 1, 20*time.Second)
	return w
}

// write is one writer's life.
func (w *Writers) write(ctx context.Context, id int) {
	var c *pgx.Conn
	defer func() {
		if c != nil {
			c.Close(context.WithoutCancel(ctx))
		}
	}()
	for seq := int64(1); ; {
		select {
		case <-w.stop:
			return
		case <-time.After(think):
		}
		var err error
		if c == nil || c.IsClosed() {
			cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			c, err = pgx.Connect(cctx, w.g.DSN())
			cancel()
			if err != nil {
				c = nil
				w.fail(err)
				continue
			}
		}
		r := row{id, seq}
		seq++ // an insert with an unknown end is never tried again
		w.note(r, false)
		if _, err = c.Exec(ctx, "insert into acked values ($1, $2)", id, r.seq); err != nil {
			w.fail(err)
			c.Close(context.WithoutCancel(ctx))
			continue
		}
		w.note(r, true)
	}
}

func (w *Writers) note(r row, acked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[r] = acked
	if acked {
		w.times = append(w.times, time.Now())
	}
}

func (w *Writers) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed++
	w.last = err
}

// Acked is how many commits were acknowledged so far.
func (w *Writers) Acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.times)
}

// Failures is how many inserts and connects failed so far, and the last error.
func (w *Writers) Failures() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed, w.last
}

// LongestGap is the longest time after since in which no commit of any writer
// was acknowledged. It counts up to now while the writers run.
func (w *Writers) LongestGap(since time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since.Before(w.began) {
		since = w.began
	}
	times := w.times
	select {
	case <-w.stop:
	default:
		times = append(slices.Clone(times), time.Now())
	}
	return longestGap(since, times)
}

func longestGap(since time.Time, times []time.Time) time.Duration {
	longest := time.Duration(0)
	for _, at := range times {
		if at.Before(since) {
			continue
		}
		longest = max(longest, at.Sub(since))
		since = at
	}
	return longest
}

// WaitMore waits until n further commits were acknowledged.
func (w *Writers) WaitMore(t testing.TB, n int, d time.Duration) {
	t.Helper()
	want := w.Acked() + n
	deadline := time.Now().Add(d)
	for w.Acked() < want {
		if time.Now().After(deadline) {
			_, err := w.Failures()
			t.Fatalf("after %s still not: %d acknowledged commits (have %d); last error: %v", d, want, w.Acked(), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Stop ends the writers; commits that still wait after 5 s are given up, and
// their end is unknown.
func (w *Writers) Stop() {
	w.once.Do(func() {
		close(w.stop)
		done := make(chan struct{})
		go func() { w.wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
		w.abort()
		<-done
	})
}

// CheckNoneLost stops the writers and checks that every acknowledged row is on
// the primary exactly once, that no row is there that nobody wrote, and that
// the standby has the same rows once it has caught up.
func (w *Writers) CheckNoneLost(t testing.TB) {
	t.Helper()
	w.Stop()
	st := w.g.WaitStatus(t, 30*time.Second, "an open primary", func(s Status) bool { return s.Group.Phase == "opened" })
	primary, standby := w.g.Node(st.Group.Primary), w.g.Backup
	if primary == standby {
		standby = w.g.Main
	}
	have, err := rows(primary)
	if err != nil {
		t.Fatalf("read the rows of %s: %v", primary.Name, err)
	}
	w.mu.Lock()
	n := len(w.times)
	wrong := judge(w.acked, have)
	w.mu.Unlock()
	for i, s := range wrong {
		if i == 10 {
			t.Errorf("and %d more", len(wrong)-i)
			break
		}
		t.Errorf("%s on %s", s, primary.Name)
	}
	sameRows(t, primary, standby)
	if !t.Failed() {
		t.Logf("%d acknowledged commits, none lost", n)
	}
}

// judge compares the rows that were tried (true once acknowledged) with how
// often each is there, and says what is wrong, in order. A row whose commit
// was not acknowledged may be there or not.
func judge(tried map[row]bool, have map[row]int) []string {
	var out []string
	for r, acked := range tried {
		switch c := have[r]; {
		case acked && c == 0:
			out = append(out, fmt.Sprintf("row %d/%d was acknowledged and is not there", r.writer, r.seq))
		case c > 1:
			out = append(out, fmt.Sprintf("row %d/%d is there %d times", r.writer, r.seq, c))
		}
	}
	for r := range have {
		if _, ok := tried[r]; !ok {
			out = append(out, fmt.Sprintf("row %d/%d is there and nobody wrote it", r.writer, r.seq))
		}
	}
	slices.Sort(out)
	return out
}

func rows(n *Node) (map[row]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	rs, err := c.Query(ctx, "select writer, seq from acked")
	if err != nil {
		return nil, err
	}
	out := map[row]int{}
	for rs.Next() {
		var r row
		if err := rs.Scan(&r.writer, &r.seq); err != nil {
			return nil, err
		}
		out[r]++
	}
	return out, rs.Err()
}

const digest = "select count(*) || ' ' || coalesce(md5(string_agg(writer || '/' || seq, ' ' order by writer, seq)), '') from acked"

// sameRows waits until the standby has replayed what the primary has written
// and compares the two tables.
func sameRows(t testing.TB, primary, standby *Node) {
	t.Helper()
	want := primary.Query(t, digest)
	CatchUp(t, primary, standby)
	if got := standby.Query(t, digest); got != want {
		t.Errorf("rows and digest on %s are %s, on %s %s", standby.Name, got, primary.Name, want)
	}
}

// CatchUp waits until the standby has replayed all that the primary has
// flushed when it is called, so every commit that was acknowledged.
func CatchUp(t testing.TB, primary, standby *Node) {
	t.Helper()
	// Not the insert pointer: it skips a page header before anything is written
	// there.
	end := primary.Query(t, "select pg_current_wal_flush_lsn()")
	var err error
	var got string
	deadline := time.Now().Add(60 * time.Second)
	for {
		got, err = standby.TryQuery(fmt.Sprintf("select coalesce(pg_last_wal_replay_lsn() >= '%s', false)", end))
		if err == nil && got == "t" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute %s has not replayed %s: %v", standby.Name, end, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
