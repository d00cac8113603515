package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"understudy/test/bench/internal/pg"
	"understudy/test/cluster/clients"
)

// bareName is the application name of the plain pair's standby.
const bareName = "bench_bare"

// bare is a plain primary and its standby, with nothing around them: what
// PostgreSQL itself needs to stop and to promote.
type bare struct {
	nodes   [2]*pg.Cluster
	primary int // index
}

// bareTimes are those of one change by hand.
type bareTimes struct{ stop, promote, outage time.Duration }

// startBare makes a pair in dir whose settings are those of the server like,
// asynchronous and without slots, with pgbench's tables.
func startBare(ctx context.Context, t *pg.Tools, like pg.Server, dir string, port, scale int) (*bare, error) {
	b := &bare{}
	settings, err := explicitSettings(ctx, like)
	if err != nil {
		return b, err
	}
	settings["wal_keep_size"] = "4GB" // for the standby that was the primary
	if err := t.MakeDir(dir); err != nil {
		return b, err
	}
	if b.nodes[0], err = t.Init(ctx, filepath.Join(dir, "0"), port, true, settings); err != nil {
		return b, err
	}
	if err := b.nodes[0].Start(ctx); err != nil {
		return b, err
	}
	if err := t.FillBench(ctx, b.nodes[0].Server, scale); err != nil {
		return b, err
	}
	if b.nodes[1], err = b.nodes[0].Backup(ctx, filepath.Join(dir, "1"), port+1, bareName); err != nil {
		return b, err
	}
	if err := b.nodes[1].Follow(ctx, b.nodes[0].Server, bareName); err != nil {
		return b, err
	}
	err = b.nodes[0].Exec(ctx, "select pg_drop_replication_slot('"+bareName+"')", "create table bench_bare (i int)")
	if err != nil {
		return b, err
	}
	return b, b.wait(ctx)
}

// stop ends both servers, the primary first.
func (b *bare) stop() error {
	if b == nil {
		return nil
	}
	return errors.Join(b.nodes[b.primary].Stop(), b.nodes[1-b.primary].Stop())
}

// wait waits until the standby has applied what the primary has flushed.
func (b *bare) wait(ctx context.Context) error {
	return pg.Until(ctx, time.Minute, "the plain standby follows", func() (bool, error) {
		ok, err := b.nodes[b.primary].Query(ctx, "select count(*) = 1 from pg_stat_replication where application_name = $1 and replay_lsn >= pg_current_wal_flush_lsn()", bareName)
		return ok == "true", err
	})
}

// change stops the primary fast after a checkpoint and promotes the standby,
// under load; then the old primary follows.
func (b *bare) change(ctx context.Context) (bareTimes, error) {
	var got bareTimes
	old, next := b.nodes[b.primary], b.nodes[1-b.primary]
	w, err := clients.Start(ctx, changeClients("acked_bare", b.nodes[0].Server, b.nodes[1].Server))
	if err != nil {
		return got, err
	}
	defer w.Stop()
	if err := rest(ctx, changeRest); err != nil {
		return got, err
	}
	since := time.Now()
	if got.stop, err = old.FastStop(ctx); err != nil {
		return got, fmt.Errorf("fast stop: %w", err)
	}
	if got.promote, err = next.Promote(ctx, "bench_bare"); err != nil {
		return got, fmt.Errorf("promote: %w", err)
	}
	b.primary = 1 - b.primary
	if err := waitCommit(ctx, w, time.Now()); err != nil {
		return got, err
	}
	got.outage = w.Outage(since)
	w.Stop()
	if err := old.Follow(ctx, next.Server, bareName); err != nil {
		return got, err
	}
	return got, b.wait(ctx)
}
