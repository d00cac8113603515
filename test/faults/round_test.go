package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
	"understudy/test/cluster/clients"
	"understudy/test/netlab"
)

const (
	writersN = 4
	// think is a writer's pause between two commits.
	think = 4 * time.Millisecond
	// healthyWithin is how long a group may take from the healing on.
	healthyWithin = 60 * time.Second
	// orderAfter is how long the campaign waits before it orders a failover, in
	// a group that does not fail over by itself.
	orderAfter = 1500 * time.Millisecond
	// keptRounds is how many rounds the rows of a round stay to be compared.
	keptRounds = 4
	// pad is what each local commit carries besides, so that log advances by a
	// segment in some seconds, acknowledged or not.
	pad = 8000
)

// campaign is what the rounds on one group share.
type campaign struct {
	seed  uint64
	g     *cluster.Group
	lab   *netlab.Lab
	epoch pos.Epoch // the newest one seen
	past  []past
}

// past is what the clients of an earlier round remember.
type past struct {
	n              int
	writers, local *clients.Clients
	lost           []clients.Row // of local, when the round ended
}

func (p past) tables() (writers, local string) {
	writers = fmt.Sprintf("faults_%04d", p.n)
	return writers, writers + "_local"
}

// result is a row's worth of one round.
type result struct {
	kind, row string
	failovers int
	outage    time.Duration
	slowest   time.Duration // of one writer
	unknown   int
	acked     int
	localLost int // acknowledged with synchronous_commit = local, and gone
	phantoms  int // rows seen on a primary, not acknowledged, and gone
	recovery  time.Duration
	whole     time.Duration
	failed    bool
}

// run is one round on its way.
type run struct {
	*campaign
	t    *testing.T
	p    plan
	inj  *injector
	role map[who]*cluster.Node

	writers, local *clients.Clients
	readers        *clients.Readers
	before         pos.Epoch
	struck, healed time.Time
	automatic      bool
	logs           map[string]int // lengths when the round began
	notes          []string
	result         result
}

func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// do is the whole round.
func (r *run) do() {
	began := time.Now()
	r.begin()
	defer r.end()
	time.Sleep(r.p.before)
	r.struck = time.Now()
	r.strike(r.p.steps, r.p.hold)
	if r.p.again != nil {
		time.Sleep(r.p.pause)
		r.strike(r.p.again, r.p.holdAgain)
	}
	r.awaitHealth()
	r.result.recovery = time.Since(r.healed)
	r.check()
	r.result.whole = time.Since(began)
}

// begin waits for a healthy group, says who is who, and starts the clients.
func (r *run) begin() {
	r.logs = map[string]int{}
	for _, n := range r.g.Nodes() {
		r.logs[n.Name], r.logs[n.Name+" postgresql"] = len(n.Log()), len(n.PostgresLog())
	}
	st := r.g.WaitHealthy(r.t)
	p := r.g.Node(st.Group.Primary)
	r.role = map[who]*cluster.Node{primary: p, standby: r.g.Other(p), witness: r.g.Witness}
	r.before = st.Group.Epoch
	r.note("primary %s, ledger led by %s, epoch %s timeline %d", p.Name, st.Group.LedgerLeader, st.Group.Epoch, st.Group.Timeline)
	r.inj = &injector{t: r.t, g: r.g, lab: r.lab, role: r.role, note: r.note, full: map[*cluster.Node]cluster.Disk{},
		rand: rand.New(rand.NewPCG(r.seed, uint64(r.p.n)<<20))}
	r.automatic = r.isAutomatic()
	r.dropOld(p)
	writers, local := past{n: r.p.n}.tables()
	hosts := []string{r.g.Main.Address(), r.g.Backup.Address()}
	r.writers = r.start(clients.Config{Hosts: hosts, Writers: writersN, Think: think, Trace: true, Rove: true, Table: writers, Commit: *commit})
	r.local = r.start(clients.Config{Hosts: hosts, Writers: 1, Think: think, Commit: "local", Table: local, Pad: pad})
	r.readers = r.writers.Read()
}

func (r *run) start(cfg clients.Config) *clients.Clients {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := clients.Start(ctx, cfg)
	if err != nil {
		r.t.Fatalf("start the writers of %s: %v", cfg.Table, err)
	}
	return c
}

// dropOld drops the tables of rounds long gone.
func (r *run) dropOld(p *cluster.Node) {
	for len(r.past) > keptRounds {
		writers, local := r.past[0].tables()
		p.Exec(r.t, fmt.Sprintf("drop table %s, %s", writers, local))
		r.past = r.past[1:]
	}
}

// end stops what is left of a round, however it went.
func (r *run) end() {
	r.inj.heal()
	r.inj.finishOrders(0)
	r.stopClients()
}

func (r *run) stopClients() {
	for _, c := range []*clients.Clients{r.writers, r.local} {
		if c != nil {
			c.Stop()
		}
	}
	if r.readers != nil {
		r.readers.Stop()
	}
}

// strike does faults at their times, holds them, and undoes them.
func (r *run) strike(steps []step, hold time.Duration) {
	began := time.Now()
	ordered := r.automatic
	until := func(d time.Duration) {
		if !ordered && d >= orderAfter {
			ordered = true
			time.Sleep(time.Until(began.Add(orderAfter)))
			if !r.opened() {
				r.inj.do(fault{do: "failover", on: standby})
			}
		}
		time.Sleep(time.Until(began.Add(d)))
	}
	for _, s := range steps {
		until(s.at)
		r.inj.do(s.fault)
	}
	until(hold)
	r.inj.heal()
	r.healed = time.Now()
	r.note("healed")
}

// isAutomatic tells whether the group replaces a lost primary by itself.
func (r *run) isAutomatic() bool {
	out, code := r.g.Witness.Run(r.t, "policy", "show")
	if code != 0 {
		r.t.Fatalf("policy show: %s", out)
	}
	return strings.Contains(out, "\nfailover: automatic\n")
}

// opened tells whether the writers got anything through lately.
func (r *run) opened() bool {
	_, ok := r.writers.FirstBegun(time.Now().Add(-300 * time.Millisecond))
	return ok
}

// awaitHealth waits until every node says that any one node may be lost, in one
// epoch, and each writer was served after that.
func (r *run) awaitHealth() {
	deadline := r.healed.Add(healthyWithin)
	var last string
	for {
		var ok bool
		if last, ok = r.healthy(); ok {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s after the healing the group is not healthy: %s", healthyWithin, last)
		}
		time.Sleep(50 * time.Millisecond)
	}
	served := time.Now()
	for {
		if _, ok := r.writers.FirstBegun(served); ok {
			break
		}
		if time.Now().After(deadline) {
			_, err := r.writers.Failures()
			r.t.Fatalf("the group says that it is healthy, and no commit was acknowledged since %s; last error: %v", served.Format("15:04:05.000"), err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.note("healthy")
}

// healthy is every node's word; the text says who is not content.
func (r *run) healthy() (string, bool) {
	var first cluster.Status
	for i, n := range r.g.Nodes() {
		if !n.Running() {
			r.note("%s ended by itself with code %d; started again", n.Name, n.ExitCode())
			n.Start(r.t)
		}
		st, err := n.Status(context.Background())
		switch {
		case err != nil:
			return fmt.Sprintf("%s: %v", n.Name, err), false
		case !st.Healthy():
			return fmt.Sprintf("%s says: %s", n.Name, st), false
		case i == 0:
			first = st
		case st.Group.Epoch != first.Group.Epoch || st.Group.Primary != first.Group.Primary:
			return fmt.Sprintf("%s says: %s; %s says: %s", first.Node, first, n.Name, st), false
		}
	}
	// By PostgreSQL's own word, too.
	s := r.g.Other(r.g.Node(first.Group.Primary))
	got, err := s.TryQuery("select status from pg_stat_wal_receiver")
	if err != nil || got != "streaming" {
		return fmt.Sprintf("the receiver of %s is %q, %v", s.Name, got, err), false
	}
	return "", true
}

// keep writes what is needed to understand a failed round, and names where.
func (r *run) keep() string {
	dir, err := os.MkdirTemp("", fmt.Sprintf("understudy-faults-%d-%d-", r.seed, r.p.n))
	if err != nil {
		return err.Error()
	}
	put := func(name, text string) { os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	put("round", fmt.Sprintf("%s\n%s\n%s\n", r.repeat(), r.p, strings.Join(r.notes, "\n")))
	for _, n := range r.g.Nodes() {
		log := n.Log()
		put(n.Name+".log", log[min(len(log), r.logs[n.Name]):])
		if n.Name != cluster.Witness {
			log = n.PostgresLog()
			put(n.Name+".postgresql.log", log[min(len(log), r.logs[n.Name+" postgresql"]):])
		}
		for _, what := range []string{"status", "history", "events", "incidents", "explain"} {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			var v any
			if err := n.Get(ctx, "/api/v1/"+what, &v); err == nil {
				put(n.Name+"."+what, indent(v))
			}
			cancel()
		}
	}
	return dir
}

// repeat is the line that repeats the round.
func (r *run) repeat() string {
	line := fmt.Sprintf("make faults SEED=%d FROM=%d ROUNDS=1", r.seed, r.p.n)
	if *mode != "automatic" {
		line += " FAILOVER=" + *mode
	}
	return line
}
