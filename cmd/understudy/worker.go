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
)

// workerMemory is what the Go runtime keeps a worker's memory below: with the
// program's own pages, and what its buffers need at most, 256 MiB in all.
const workerMemory = 180 << 20

// workerMain is the process that works on backups for a daemon. The terminal's
// signals are the daemon's: when it ends, the worker's input does.
func workerMain() int {
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
	debug.SetMemoryLimit(workerMemory)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := worker.Run(context.Background(), os.Stdin, os.Stdout, log); err != nil {
		fmt.Fprintln(os.Stderr, "understudy worker:", err)
		return 1
	}
	return 0
}
