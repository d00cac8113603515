package primary_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/primary"
	"understudy/primary/walsource"
	"understudy/shipper"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	segSize  = 16 << 20
	patience = 20 * time.Second
)

var quiet = slog.New(slog.DiscardHandler)

// rig is a real PostgreSQL whose commits wait for the primary under test, and
// peers on a network in memory.
type rig struct {
	t       *testing.T
	pg      *pgtest.Cluster
	net     *link.MemNetwork
	system  uint64
	start   pos.LSN
	lineage pos.Lineage
	wal     *spool.WALDir
	primary *primary.Primary
	peers   map[string]*peer
	voters  []string
	version uint64
}

// peer is a receiver with its spool.
type peer struct {
	*standby.Receiver
	spool *spool.Spool
	info  primary.Peer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pg := pgtest.New(t, "wal_level=replica", "max_wal_senders=10", "wal_keep_size=1GB", "max_wal_size=2GB", "fsync=off")
	r := &rig{t: t, pg: pg, net: link.Memory(), peers: map[string]*peer{}, voters: []string{"A"}, version: 1}
	pg.Exec(t, "create table k (v int)")
	var err error
	if r.system, err = strconv.ParseUint(pg.Query(t, "select system_identifier from pg_control_system()"), 10, 64); err != nil {
		t.Fatal(err)
	}
	if r.start, err = pos.ParseLSN(pg.Query(t, "select pg_current_wal_flush_lsn()")); err != nil {
		t.Fatal(err)
	}
	r.lineage = pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: r.start}}
	pg.Exec(t, "alter system set synchronous_standby_names = 'understudy_1_1'")
	pg.Exec(t, "select pg_reload_conf()")
	r.wal = spool.Dir(filepath.Join(pg.Data, "pg_wal"), segSize, r.lineage)
	t.Cleanup(func() { r.wal.Close() })
	return r
}

// run starts the primary; the test's end stops it.
func (r *rig) run() {
	r.t.Helper()
	began := time.Now()
	p, err := primary.Start(context.Background(), primary.Config{
		Group: "g", Ledger: "l", Node: "main", Store: "A", SystemID: r.system, Major: 15, SegSize: segSize,
		Epoch: r.lineage.Last().Epoch, Lineage: r.lineage, From: r.start,
		Open: func(ctx context.Context, from pos.LSN) (*walsource.Source, error) {
			return walsource.Open(ctx, walsource.Config{ConnString: r.pg.DSN(), ApplicationName: "understudy_1_1",
				SystemID: r.system, Timeline: 1, Start: from})
		},
		WAL: r.wal, Oldest: func() pos.LSN { return r.start.SegStart(segSize) },
		Dial: func(ctx context.Context, p primary.Peer) (net.Conn, error) {
			return shipper.Dial(ctx, r.net.Node("main"), p.Address, p.Name, shipper.PurposeStream)
		},
		Now: func() time.Duration { return time.Since(began) }, WindowBytes: 1 << 20, Log: quiet,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.primary = p
	r.t.Cleanup(p.Stop)
	r.regroup()
}

// add makes a peer; fill may put something into its spool first.
func (r *rig) add(name string, data bool, fill func(*spool.Spool)) *peer {
	r.t.Helper()
	sp, err := spool.Create(spool.Config{Dir: filepath.Join(r.t.TempDir(), "spool"), SpareSegments: -1}, name, "g")
	if err != nil {
		r.t.Fatal(err)
	}
	if fill != nil {
		fill(sp)
	}
	p := &peer{spool: sp, info: primary.Peer{Name: name, Store: name, Address: name + ":1", Data: data}}
	p.Receiver = standby.New(standby.Config{
		Node: name, Store: name, Spool: sp, Log: quiet,
		Identity:  func() standby.Identity { return standby.Identity{Group: "g", Ledger: "l"} },
		Fill:      func(context.Context, shipper.Hello, pos.LSN) error { return os.ErrNotExist },
		OnSession: func(shipper.Hello, bool, error) {},
	})
	l, err := r.net.Node(name).Listen(p.info.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	l.Handle(link.Stream, func(ctx context.Context, c net.Conn, _ link.Peer) {
		if _, err := shipper.Accept(c); err == nil {
			_ = p.Handle(ctx, c)
		}
	})
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Serve(context.Background()) }()
	r.t.Cleanup(func() { l.Close(); <-done; sp.Close() })
	r.peers[name] = p
	return p
}

// regroup tells the primary of the peers and voters.
func (r *rig) regroup() {
	var peers []primary.Peer
	for _, p := range r.peers {
		peers = append(peers, p.info)
	}
	r.primary.SetGroup(peers, r.version, r.voters, true)
}

// vote makes stores the voters.
func (r *rig) vote(stores ...string) {
	r.version++
	r.voters = append([]string{"A"}, stores...)
	r.regroup()
}

func (r *rig) link(name string) primary.LinkState {
	for _, l := range r.primary.Snapshot().Links {
		if l.Peer.Name == name {
			return l
		}
	}
	return primary.LinkState{}
}

func (r *rig) streaming(names ...string) {
	r.t.Helper()
	for _, n := range names {
		pgtest.Eventually(r.t, patience, n+" streams", func() bool { return r.link(n).State == "streaming" })
	}
}

// commit runs one transaction; done is closed when it was acknowledged.
func (r *rig) commit() (done chan struct{}) {
	r.t.Helper()
	done = make(chan struct{})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		c, err := r.pg.Connect(ctx)
		if err != nil {
			return
		}
		defer c.Close(context.Background())
		if _, err := c.Exec(ctx, "insert into k values (1)"); err == nil {
			close(done)
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	return done
}

func (r *rig) returns(done chan struct{}) {
	r.t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		r.t.Fatalf("the commit does not return: %+v", r.primary.Snapshot())
	}
}

func (r *rig) waits(done chan struct{}, d time.Duration) {
	r.t.Helper()
	select {
	case <-done:
		r.t.Fatal("the commit returned")
	case <-time.After(d):
	}
}

// wantLog checks that a spool is the server's own log up to lsn.
func (r *rig) wantLog(p *peer, lsn pos.LSN) {
	r.t.Helper()
	base := p.spool.Base()
	mine, theirs := make([]byte, lsn-base), make([]byte, lsn-base)
	if n, err := p.spool.ReadWAL(theirs, base); n < len(theirs) {
		r.t.Fatalf("read the spool of %s: %d of %d, %v", p.info.Name, n, len(theirs), err)
	}
	if n, err := r.wal.ReadWAL(mine, base); n < len(mine) {
		r.t.Fatalf("read pg_wal: %d of %d, %v", n, len(mine), err)
	}
	if !bytes.Equal(mine, theirs) {
		r.t.Fatalf("the spool of %s differs from pg_wal below %s", p.info.Name, lsn)
	}
}
