package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// The load of a machine that has better to do comes from processes of this
// program, which end with their standard input.
const (
	helperCPU    = helperPrefix + "cpu"
	helperMemory = helperPrefix + "memory"
	helperDisk   = helperPrefix + "disk"
)

const (
	burnBuffer = 128 << 20 // bytes that a copy moves, more than caches hold
	burnFile   = 64 << 20
	burnWrite  = 1 << 20 // bytes of one write, each made durable
)

// burners keep the processors, the memory and the disk busy.
type burners struct {
	cmds []*exec.Cmd
	pipe []io.Closer
}

// startBurners starts one process for each processor, one that copies memory
// and one that makes what it writes in dir durable.
func startBurners(ctx context.Context, dir string) (*burners, error) {
	b := &burners{}
	self, err := os.Executable()
	if err != nil {
		return b, err
	}
	all := [][]string{{helperMemory}, {helperDisk, filepath.Join(dir, "burn")}}
	for range runtime.NumCPU() {
		all = append(all, []string{helperCPU})
	}
	for _, args := range all {
		cmd := helperCommand(ctx, self, args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			return b, err
		}
		if err := cmd.Start(); err != nil {
			return b, err
		}
		b.cmds, b.pipe = append(b.cmds, cmd), append(b.pipe, in)
	}
	return b, nil
}

// stop ends the load and says whether all of it lasted until then.
func (b *burners) stop() error {
	var errs []error
	for i, p := range b.pipe {
		p.Close() // fails for one that has ended, which Wait says better
		if err := b.cmds[i].Wait(); err != nil {
			errs = append(errs, fmt.Errorf("load %s: %w", b.cmds[i].Args[1], err))
		}
	}
	b.cmds, b.pipe = nil, nil
	return errors.Join(errs...)
}

// burn is the main program of one process of the load.
func burn(args []string) error {
	runtime.GOMAXPROCS(1)
	ended := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(ended) }()
	over := func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	}
	switch {
	case args[0] == helperCPU:
		burnCPU(over)
	case args[0] == helperMemory:
		burnMemory(over)
	case args[0] == helperDisk && len(args) == 2:
		return burnDisk(args[1], over)
	default:
		return fmt.Errorf("unknown helper %q", args)
	}
	return nil
}

func burnCPU(over func() bool) {
	for x := uint64(1); !over(); {
		for range 1 << 20 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		if x == 0 { // never, and the loop above is needed for that
			return
		}
	}
}

func burnMemory(over func() bool) {
	a, b := make([]byte, burnBuffer), make([]byte, burnBuffer)
	for !over() {
		copy(a, b)
		b[0]++
		copy(b, a)
	}
}

func burnDisk(path string, over func() bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer f.Close()
	block := make([]byte, burnWrite)
	for at := int64(0); !over(); at = (at + burnWrite) % burnFile {
		if _, err := f.WriteAt(block, at); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("fdatasync: %w", err)
		}
	}
	return nil
}
