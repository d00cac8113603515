package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"understudy/cmd/internal/worker"
	"understudy/shipper/location"
)

// workerMemory is what the Go runtime keeps a worker's memory below: with the
// program's own pages, and what its buffers need at most, 256 MiB in all.
const workerMemory = 180 << 20

// workerMain is the process that works on backups for a daemon. The terminal's
// signals are the daemon's: when it ends, the worker's input does.
func workerMain() int {
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
	debug.SetMemoryLimit(workerMemory)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: sentences}))
	if err := worker.Run(context.Background(), os.Stdin, os.Stdout, log); err != nil {
		fmt.Fprintln(os.Stderr, "understudy worker:", err)
		return 1
	}
	return 0
}

// sentences writes errors into a job's log as an operator is to read them.
func sentences(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(location.Sentence(err))
	}
	return a
}
