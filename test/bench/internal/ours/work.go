package ours

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/backup"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/verify"
	"understudy/standby/recover"
)

// place is the name of the one location.
const place = "disk"

// work is a task under way.
type work struct {
	t   Task
	loc location.Location
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// lineage is the history of a database that was never promoted.
func (w *work) lineage() pos.Lineage {
	return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: w.t.From}}
}

// backup takes a set, as a worker does.
func (w *work) backup(ctx context.Context) (Outcome, error) {
	res, err := backup.Take(ctx, backup.Config{
		ConnString: w.t.DSN, SystemID: w.t.SystemID, Root: Root(), GroupID: "bench", Node: "main", Program: "bench", Lineage: w.lineage(),
		Dests: []backup.Dest{{Name: place, Location: w.loc}}, Workers: w.t.Workers, Scratch: w.t.Scratch,
	})
	if err != nil {
		return Outcome{}, err
	}
	if res.Set.DamageN > 0 || len(res.Set.Warnings) > 0 {
		return Outcome{}, fmt.Errorf("the set has %d damaged pages and the warnings %q", res.Set.DamageN, res.Set.Warnings)
	}
	return Outcome{Label: res.Set.Label}, nil
}

// restore plans and executes, fresh or over what is there. The recovery is not
// run.
func (w *work) restore(ctx context.Context) (Outcome, error) {
	from := recover.Sources{Root: Root(), Places: []recover.Source{{Name: place, Location: w.loc}}}
	mode := recover.Fresh
	if w.t.Kind == Delta {
		mode = recover.Delta
	}
	p, err := recover.MakePlan(ctx, recover.Request{
		Mode: mode, DataDir: w.t.DataDir, Label: w.t.Label, SystemID: w.t.SystemID, RestoreCommand: "false", Now: time.Now(),
		Aim: recover.Aim{Target: catalog.Target{Kind: catalog.Latest, Inclusive: true}},
	}, from)
	if err != nil {
		return Outcome{}, err
	}
	r, err := recover.Execute(ctx, p, from, recover.Options{Workers: w.t.Workers})
	switch {
	case err != nil:
		return Outcome{}, err
	case len(r.Problems) > 0:
		return Outcome{}, fmt.Errorf("problems at the location: %+v", r.Problems)
	case mode == recover.Fresh && r.SameBytes > 0:
		return Outcome{}, fmt.Errorf("%d bytes were there before", r.SameBytes)
	}
	return Outcome{Label: p.Label, Bytes: r.FetchedBytes}, nil
}

// archive stores the log, as a worker does.
func (w *work) archive(ctx context.Context) (Outcome, error) {
	wal := spool.Dir(w.t.WALDir, w.t.SegSize, w.lineage())
	defer wal.Close()
	f, err := archive.NewFeeder(archive.Config{
		Root: Root(), Location: w.loc, Name: place, SystemID: w.t.SystemID, SegSize: w.t.SegSize, Lineage: w.lineage,
		Committed: func() (pos.LSN, bool) { return w.t.To, true }, Source: wal, From: w.t.From, Workers: w.t.Workers, Log: quiet(),
	})
	if err != nil {
		return Outcome{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	err = f.WaitFor(ctx, w.t.To)
	cancel()
	err = errors.Join(err, <-ran)
	if s := f.Status(); err == nil && (s.Whole != w.t.To || len(s.Missing) > 0) {
		err = fmt.Errorf("whole segments up to %s of %s, missing %v", s.Whole, w.t.To, s.Missing)
	}
	return Outcome{}, err
}

// serve gives a recovery the log that archive stored, until ctx ends.
func (w *work) serve(ctx context.Context) (out Outcome, err error) {
	if err := os.MkdirAll(w.t.Hand, 0o700); err != nil {
		return out, err
	}
	f, err := archive.NewFetcher(archive.FetchConfig{
		Places: []archive.Place{{Name: place, Location: w.loc}}, Root: Root(), SystemID: w.t.SystemID, SegSize: w.t.SegSize,
		Path: archive.PathOf(w.lineage()), Known: w.t.To, AllowPartial: true, Dir: filepath.Join(w.t.Scratch, "ahead"),
		Hand: w.t.Hand, Workers: w.t.Workers, Log: quiet(),
	})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := net.Listen("unix", w.t.Socket)
	if err != nil {
		return out, err
	}
	w.t.Ready()
	err = archive.ServeFetch(ctx, l, f)
	return Outcome{Given: f.Given()}, err
}

// set proves a set.
func (w *work) set(ctx context.Context) (Outcome, error) {
	r, err := verify.Set(ctx, w.loc, Root(), w.t.Label, "", verify.Options{Deep: w.t.Kind == Deep, Workers: w.t.Workers})
	return proven(r, err)
}

// log proves the log.
func (w *work) log(ctx context.Context) (Outcome, error) {
	r, err := verify.WAL(ctx, w.loc, Root(), verify.Log{
		SystemID: w.t.SystemID, SegSize: w.t.SegSize, Histories: map[pos.Timeline][]archive.Ancestor{1: {}},
		Stretches: []archive.Stretch{{Timeline: 1, Range: pos.Range{From: w.t.From, To: w.t.To}}},
	}, verify.Options{Workers: w.t.Workers})
	return proven(r, err)
}

func proven(r verify.Report, err error) (Outcome, error) {
	if err == nil && (r.Damaged() || len(r.Findings) > 0) {
		err = fmt.Errorf("found damage where there is none: %v", r.Findings)
	}
	return Outcome{Bytes: r.Bytes}, err
}
