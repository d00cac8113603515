package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/stats"
	"understudy/test/cluster/clients"
)

const (
	changeWriters = 4
	// changeThink is a writer's pause between two commits.
	changeThink = time.Millisecond
	// changeRest is how long writers run before a change and after it.
	changeRest = time.Second
	// changeLost is how long a commit after a change may be awaited.
	changeLost = 2 * time.Minute
	// promoteLost is the same where nobody orders the change.
	promoteLost = 30 * time.Second
	// returnNoted is how long a healthy group may take to record how the old
	// primary came back.
	returnNoted = 20 * time.Second
	checkWithin = 10 * time.Minute
)

// changes is what the parts that change the primary share: the group, a plain
// pair to compare with, and every run's writers, whose rows are looked up in the
// end.
type changes struct {
	*bench
	bare    *bare
	times   []bareTimes
	written []*clients.Clients
}

// changed is the outcome of one change of the primary.
type changed struct {
	from, to, leader string
	command          time.Duration // from the command's start to its end
	resumes          time.Duration // from the command's start to the first acknowledged commit
	outage           time.Duration
	slowest          time.Duration // the same of the unluckiest writer
	back             time.Duration // from the start of a killed daemon to a healthy group
	backGap          time.Duration // longest time without a commit meanwhile
	change           group.Change
	// Of a change that nobody ordered: when the fault was there, when the first
	// commit after it was acknowledged, and how many epochs were begun for it.
	struck, first time.Time
	epochs        int
}

// changeClients are the writers of one run against both data nodes.
func changeClients(table string, hosts ...pg.Server) clients.Config {
	cfg := clients.Config{Writers: changeWriters, Think: changeThink, Table: table}
	for _, h := range hosts {
		cfg.Hosts = append(cfg.Hosts, h.Address())
	}
	return cfg
}

func newChanges(ctx context.Context, b *bench) (*changes, error) {
	c, err := prepareChanges(ctx, b)
	if err != nil {
		return c, err
	}
	return c, c.startPlain(ctx)
}

// prepareChanges is newChanges without the plain pair.
func prepareChanges(ctx context.Context, b *bench) (*changes, error) {
	c := &changes{bench: b}
	primary, err := c.primary(ctx)
	if err != nil {
		return c, err
	}
	server := b.group.Server(primary)
	if b.filled == 0 {
		b.say("filling the tables, scale %d", b.changeScale)
		if err := b.tools.FillBench(ctx, server, b.changeScale); err != nil {
			return c, err
		}
		b.filled = b.changeScale
	}
	// Defaults, and not what the parts before have set.
	for _, n := range group.Data {
		if err := b.group.Server(n).Exec(ctx, "alter system reset autovacuum", "select pg_reload_conf()"); err != nil {
			return c, err
		}
	}
	return c, nil
}

// startPlain starts the plain pair.
func (c *changes) startPlain(ctx context.Context) error {
	primary, err := c.primary(ctx)
	if err != nil {
		return err
	}
	c.say("starting the plain pair")
	c.bare, err = startBare(ctx, c.tools, c.group.Server(primary), filepath.Join(c.dir, "b"), c.port+barePort, c.filled)
	return err
}

// stopPlain ends the plain pair. Its directory goes with the bench's, or is in
// the way of the next one.
func (c *changes) stopPlain() error {
	err := c.bare.stop()
	c.bare = nil
	return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, "b")))
}

// close ends the writers and the plain pair.
func (c *changes) close() error {
	for _, w := range c.written {
		w.Stop()
	}
	return c.stopPlain()
}

// primary is the node that is primary now.
func (c *changes) primary(ctx context.Context) (string, error) {
	var name string
	err := pg.Until(ctx, time.Minute, "the group has a primary", func() (bool, error) {
		st, err := c.group.Any(ctx)
		name = st.Group.Primary
		return err == nil && name != "", nil
	})
	return name, err
}

// writers starts the writers of one run, into a table of their own.
func (c *changes) writers(ctx context.Context) (*clients.Clients, error) {
	w, err := clients.Start(ctx, changeClients(fmt.Sprintf("acked_%d", len(c.written)), c.group.Main(), c.group.Backup()))
	if err != nil {
		return nil, err
	}
	c.written = append(c.written, w)
	return w, nil
}

// byHand is one change of the plain pair.
func (c *changes) byHand(ctx context.Context) error {
	t, err := c.bare.change(ctx)
	if err != nil {
		return fmt.Errorf("plain pair: %w", err)
	}
	c.times = append(c.times, t)
	return nil
}

func leaderOff(s group.Status) bool {
	return s.Group.LedgerLeader != "" && s.Group.LedgerLeader != s.Group.Primary
}

const ledElsewhere = " and the ledger led from another node"

// waitCommit waits for a commit that was begun after at.
func waitCommit(ctx context.Context, w *clients.Clients, at time.Time) error {
	return waitCommitFor(ctx, changeLost, w, at)
}

func waitCommitFor(ctx context.Context, patience time.Duration, w *clients.Clients, at time.Time) error {
	err := pg.Until(ctx, patience, "a commit is acknowledged again", func() (bool, error) {
		_, ok := w.FirstBegun(at)
		return ok, nil
	})
	if err != nil {
		_, last := w.Failures()
		err = fmt.Errorf("%w; a writer's last error: %w", err, last)
	}
	return err
}

// recorded is what the history says of the change to node after the epoch. It
// waits a while for the note of how the old primary came back.
func (c *changes) recorded(ctx context.Context, node string, after pos.Epoch) (group.Change, error) {
	var got group.Change
	var last error
	err := pg.Until(ctx, returnNoted, "the history says how the old primary came back", func() (bool, error) {
		all, err := c.group.History(ctx, node)
		if err != nil {
			return false, err
		}
		got, last = group.ChangeTo(all, node, after)
		return last == nil && got.Returned(), nil
	})
	if err != nil && last == nil && ctx.Err() == nil && got.Opened {
		return got, nil // counted as not recorded
	}
	return got, errors.Join(last, err)
}

// checkRun stops the writers of a run and looks its rows up.
func (c *changes) checkRun(ctx context.Context, w *clients.Clients, node string) error {
	w.Stop()
	conn, err := c.group.Server(node).Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	v, err := w.Check(ctx, conn)
	return errors.Join(err, v.Err())
}

// verify looks up the rows of all runs on the primary and compares both data
// nodes, table by table. It says what it found; anything wrong is an error.
func (c *changes) verify(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	if len(c.written) == 0 {
		return "", nil
	}
	c.say("looking up every row")
	var sum clients.Verdict
	var wrong []error
	for i, w := range c.written {
		w.Stop()
		v, err := lookUp(ctx, w, changeClients("", c.group.Main(), c.group.Backup()))
		if err != nil {
			return "", errors.Join(append(wrong, fmt.Errorf("rows of table acked_%d: %w", i, err))...)
		}
		if err := v.Err(); err != nil {
			wrong = append(wrong, fmt.Errorf("rows of table acked_%d: %w", i, err))
		}
		sum.Acked, sum.Unknown, sum.UnknownThere = sum.Acked+v.Acked, sum.Unknown+v.Unknown, sum.UnknownThere+v.UnknownThere
		sum.Missing, sum.Duplicates = append(sum.Missing, v.Missing...), append(sum.Duplicates, v.Duplicates...)
	}
	text := fmt.Sprintf("Of %d acknowledged rows of all runs %s missing afterwards and %d there twice; of %d rows of unknown outcome %d are there.",
		sum.Acked, areNone(len(sum.Missing)), len(sum.Duplicates), sum.Unknown, sum.UnknownThere)
	d, err := c.written[len(c.written)-1].Digests(ctx)
	if err = errors.Join(err, d.Err()); err != nil {
		return text, errors.Join(append(wrong, fmt.Errorf("compare both data nodes: %w", err))...)
	}
	rows := int64(0)
	for _, t := range d.Primary {
		rows += t.Rows
	}
	return text + fmt.Sprintf(" Main and backup have the same %d tables with %d rows and equal digests.", len(d.Primary), rows), errors.Join(wrong...)
}

// areNone says a number of rows so that one that is not zero is seen.
func areNone(n int) string {
	if n == 0 {
		return "none is"
	}
	return fmt.Sprintf("**%d are**", n)
}

// lookUp judges the writers' rows on the host that takes writes, for which it
// waits a while: a run may have ended in the middle of a change.
func lookUp(ctx context.Context, w *clients.Clients, hosts clients.Config) (clients.Verdict, error) {
	var conn *pgx.Conn
	var last error
	err := pg.Until(ctx, changeLost, "a host takes writes", func() (bool, error) {
		conn, last = pgx.Connect(ctx, hosts.DSN())
		return last == nil, nil
	})
	if err != nil {
		return clients.Verdict{}, errors.Join(err, last)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return w.Check(ctx, conn)
}

// phases is a change's phases in the order in which they came.
func phases(c group.Change) string {
	parts := make([]string, len(c.Phases))
	for i, p := range c.Phases {
		parts[i] = fmt.Sprintf("%s %.0f", p.Name, millis(p.After))
	}
	return strings.Join(parts, ", ")
}

// phaseTable is when each phase was reached, over all runs.
func phaseTable(runs []changed) string {
	after := map[string][]float64{}
	for _, r := range runs {
		for _, p := range r.change.Phases {
			after[p.Name] = append(after[p.Name], millis(p.After))
		}
	}
	if len(after) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(after), func(a, b string) int {
		return cmp.Or(cmp.Compare(stats.Summarize(after[a]).Median, stats.Summarize(after[b]).Median), cmp.Compare(a, b))
	})
	t := doc.Table{Head: []string{"phase reached, ms after the first", "runs", "median", "worst"}}
	for _, n := range names {
		s := stats.Summarize(after[n])
		t.Rows = append(t.Rows, []string{n, fmt.Sprint(s.N), fmt.Sprintf("%.0f", s.Median), fmt.Sprintf("%.0f", s.Max)})
	}
	return t.String()
}

// methods counts how the old primaries came back.
func methods(runs []changed) string {
	return tally(runs, func(r changed) string { return method(r.change) })
}

// tally says how many runs there are of each sort.
func tally(runs []changed, sort func(changed) string) string {
	count := map[string]int{}
	for _, r := range runs {
		count[sort(r)]++
	}
	parts := []string{}
	for _, m := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%s %d", m, count[m]))
	}
	return strings.Join(parts, ", ")
}

// method is how the old primary came back in one run.
func method(c group.Change) string {
	switch {
	case c.Opened && c.From == c.To:
		return "opening again"
	case !c.Returned():
		return "not recorded"
	case c.Return.Problem != "":
		return c.Return.Method + " with a problem"
	}
	return c.Return.Method
}

// medianWorst is a row of a summary.
func medianWorst(name string, d []time.Duration) []string {
	ms := make([]float64, len(d))
	for i, x := range d {
		ms[i] = millis(x)
	}
	s := stats.Summarize(ms)
	if s.N == 0 {
		return []string{name, "0", "–", "–"}
	}
	return []string{name, fmt.Sprint(s.N), fmt.Sprintf("%.0f", s.Median), fmt.Sprintf("%.0f", s.Max)}
}

// pick is one measure of every run.
func pick[R any](runs []R, f func(R) time.Duration) []time.Duration {
	out := make([]time.Duration, len(runs))
	for i, r := range runs {
		out[i] = f(r)
	}
	return out
}

// bareRows are the summary's rows of the plain pair.
func (c *changes) bareRows() [][]string {
	return [][]string{
		medianWorst("plain PostgreSQL: fast stop after a checkpoint", pick(c.times, func(t bareTimes) time.Duration { return t.stop })),
		medianWorst("plain PostgreSQL: pg_ctl promote until it takes a write", pick(c.times, func(t bareTimes) time.Duration { return t.promote })),
		medianWorst("plain PostgreSQL: outage when a script does one after the other", pick(c.times, func(t bareTimes) time.Duration { return t.outage })),
	}
}

// changeIntro says what switchover and failover have in common.
func (c *changes) changeIntro(ctx context.Context) (string, error) {
	text, err := c.loadIntro(ctx)
	return text + " Every run begins with a healthy group and is followed by the same change of a plain pair by hand, under the same load.", err
}

// loadIntro says what load all changes are under and what is measured.
func (c *changes) loadIntro(ctx context.Context) (string, error) {
	primary, err := c.primary(ctx)
	if err != nil {
		return "", err
	}
	s := c.group.Server(primary)
	buffers, err := s.Query(ctx, "current_setting('shared_buffers')")
	if err != nil {
		return "", err
	}
	segment, err := s.Query(ctx, "current_setting('wal_segment_size')")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d writers with a connection string of both hosts insert single rows with %s between two commits; dial and statement deadlines %s. "+
		"pgbench's tables at scale %d, shared_buffers %s, WAL segments of %s. The outage is the longest time without an acknowledged commit of any writer; "+
		"the slowest writer is the longest of any single one.",
		changeWriters, changeThink, clients.Deadline, c.filled, buffers, segment), nil
}
