package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"understudy/shipper"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/bench/internal/proc"
)

// A catch-up from spool to spool runs in two processes of this program:
// "helper:give DIR" serves a spool until its input ends, "helper:take DIR ADDR"
// fetches it into a new one and prints a takeResult.
const (
	helperPrefix = "helper:"
	helperGive   = helperPrefix + "give"
	helperTake   = helperPrefix + "take"

	spoolGroup   = "bench"
	spoolSystem  = 1
	spoolSegment = 16 << 20
	spoolBase    = pos.LSN(spoolSegment)
)

// spoolLineage is the history of the given log.
func spoolLineage() pos.Lineage {
	return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: spoolBase}}
}

// spools is a directory with a full spool "give" and the credentials of both
// ends.
type spools struct{ dir string }

// takeResult is what the taking process reports.
type takeResult struct {
	Bytes uint64 `json:"bytes"`
	Peak  uint64 `json:"peak"`
}

// makeSpools fills a spool in dir with size bytes, all durable on return.
func makeSpools(dir string, size int64) (s spools, err error) {
	s.dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return s, err
	}
	if err := s.credentials(); err != nil {
		return s, err
	}
	sp, err := newSpool(filepath.Join(dir, "give"), "giver")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	block := make([]byte, 1<<20)
	epoch, at := spoolLineage().Last().Epoch, spoolBase
	x := uint64(1)
	for end := spoolBase + pos.LSN(size); at < end; at += pos.LSN(len(block)) {
		for i := range block {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			block[i] = byte(x)
		}
		if err := sp.Append(epoch, at, block); err != nil {
			return s, err
		}
	}
	_, err = sp.Sync()
	return s, err
}

func (s spools) credentials() error {
	caCert, caKey, err := link.NewCA(spoolGroup)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "ca.crt"), caCert, 0o600); err != nil {
		return err
	}
	for _, n := range []string{"giver", "taker"} {
		cert, key, err := link.Issue(caCert, caKey, n, []string{"127.0.0.1"})
		if err != nil {
			return err
		}
		err = errors.Join(os.WriteFile(filepath.Join(s.dir, n+".crt"), cert, 0o600), os.WriteFile(filepath.Join(s.dir, n+".key"), key, 0o600))
		if err != nil {
			return err
		}
	}
	return nil
}

func newSpool(dir, store string) (*spool.Spool, error) {
	sp, err := spool.Create(spool.Config{Dir: dir}, store, spoolGroup)
	if err != nil {
		return nil, err
	}
	err = sp.Begin(spoolSystem, spoolSegment, spoolBase)
	if err == nil {
		err = sp.Adopt(spoolLineage(), spoolLineage().Last().Epoch)
	}
	if err != nil {
		return nil, errors.Join(err, sp.Close())
	}
	return sp, nil
}

// run catches up once, between two processes that last no longer than it.
func (s spools) run(ctx context.Context) (got caught, err error) {
	self, err := os.Executable()
	if err != nil {
		return got, err
	}
	give := helperCommand(ctx, self, helperGive, s.dir)
	stdin, err := give.StdinPipe()
	if err != nil {
		return got, err
	}
	stdout, err := give.StdoutPipe()
	if err != nil {
		return got, err
	}
	if err := give.Start(); err != nil {
		return got, err
	}
	defer func() {
		stdin.Close()
		err = errors.Join(err, give.Wait())
	}()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return got, fmt.Errorf("start the giving process: %w", err)
	}
	defer os.RemoveAll(filepath.Join(s.dir, "take"))
	began := time.Now()
	out, err := helperCommand(ctx, self, helperTake, s.dir, strings.TrimSpace(addr)).Output()
	got.took = time.Since(began)
	if err != nil {
		return got, fmt.Errorf("the taking process: %w", err)
	}
	var r takeResult
	if err := json.Unmarshal(out, &r); err != nil {
		return got, fmt.Errorf("the taking process: %w", err)
	}
	got.bytes, got.peak = r.Bytes, r.Peak
	return got, nil
}

func helperCommand(ctx context.Context, self string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// helper is the main program of a helper process.
func helper(args []string) error {
	switch {
	case args[0] == helperGive && len(args) == 2:
		return helperServe(args[1])
	case args[0] == helperTake && len(args) == 3:
		r, err := helperFetch(args[1], args[2])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	case args[0] == helperOurs && len(args) == 2:
		return doOurs(args[1])
	case slices.Contains([]string{helperCPU, helperMemory, helperDisk}, args[0]):
		return burn(args)
	}
	return fmt.Errorf("unknown helper %q", args)
}

func network(dir, node string) (link.Network, error) {
	creds, err := link.LoadIdentity(filepath.Join(dir, node+".crt"), filepath.Join(dir, node+".key"), filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	return link.TLS(creds, slog.New(slog.DiscardHandler)), nil
}

// helperServe gives the spool to whoever asks, until standard input ends.
func helperServe(dir string) error {
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "give")})
	if err != nil {
		return err
	}
	defer sp.Close()
	n, err := network(dir, "giver")
	if err != nil {
		return err
	}
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	served := shipper.Served{
		Group: spoolGroup, Ledger: spoolGroup, SystemID: spoolSystem, SegSize: spoolSegment, Lineage: sp.Lineage(),
		Range: pos.Range{From: sp.Base(), To: sp.Durable()}, Log: sp,
	}
	l.Handle(link.Stream, func(ctx context.Context, c net.Conn, _ link.Peer) {
		if p, err := shipper.Accept(c); err != nil || p != shipper.PurposeFetch {
			return
		}
		if err := shipper.ServeFetch(ctx, c, served); err != nil {
			fmt.Fprintln(os.Stderr, "bench helper:", err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println(l.Addr())
	err = l.Serve(ctx)
	cancel()
	if err == nil {
		<-ended
	}
	return err
}

// helperFetch takes everything from addr into a new spool, durably.
func helperFetch(dir, addr string) (r takeResult, err error) {
	ctx := context.Background()
	sp, err := newSpool(filepath.Join(dir, "take"), "taker")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	n, err := network(dir, "taker")
	if err != nil {
		return r, err
	}
	c, err := shipper.Dial(ctx, n, addr, "giver", shipper.PurposeFetch)
	if err != nil {
		return r, err
	}
	defer c.Close()
	lineage := spoolLineage()
	got, err := shipper.Fetch(ctx, c, shipper.FetchAsk{
		Group: spoolGroup, Ledger: spoolGroup, Node: "taker", SystemID: spoolSystem, SegSize: spoolSegment, Lineage: lineage,
		From: spoolBase, To: ^pos.LSN(0), CRCFrom: spoolBase,
	}, func(at pos.LSN, p []byte) error { return sp.Append(lineage.Last().Epoch, at, p) })
	if err != nil {
		return r, err
	}
	durable, err := sp.Sync()
	if err != nil {
		return r, err
	}
	if durable != got {
		return r, fmt.Errorf("durable up to %s of %s", durable, got)
	}
	r.Bytes = got.Sub(spoolBase)
	m, err := proc.ReadMemory(os.Getpid())
	r.Peak = m.Peak
	return r, err
}
