// Package node wires one daemon: the node file, the store, the link, the
// ledger, the data plane, the agent and the controller, and the surfaces.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/jobs"
	"understudy/configs"
	"understudy/failover"
	"understudy/failover/hook"
	"understudy/failover/pgctl"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/primary/basebackup"
	"understudy/shipper"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby"
	"understudy/standby/walserver"
)

// walPort is the port number in the name of the private socket on which the
// daemon serves its log; nothing listens on a TCP port of that number.
const walPort = 5432

// Node is one running daemon.
type Node struct {
	cfg     *configs.Node
	version string
	binary  string
	boot    string
	log     *slog.Logger
	events  *eventlog.Log

	lock     *os.File // held while this daemon lives
	creds    *link.Credentials
	net      link.Network
	listener link.Listener
	http     net.Listener // nil when it is off
	spool    *spool.Spool
	ledger   *ledger.Ledger
	server   *pgctl.Server // nil on a witness
	receiver *standby.Receiver
	plane    *plane
	agent    *failover.Agent
	control  *control
	named    *identity // the ledger's name
	began    time.Time
	hooks    *hook.Runner // nil for none
	jobs     *jobs.Runner // work on backups
	audit    auditFile
	guarded  protection    // what the backups protect, as status says it
	tunnels  chan struct{} // a slot per connection of a returning node's pg_rewind

	mu  sync.Mutex
	seq uint64
	run *primaryRun
	// gapSince is since when nobody has had the log that this node lacks.
	gapSince time.Time
	rival    string // set while a peer is primary of another group of the same age
	stopped  context.CancelCauseFunc
	// restore is how far a restore of the group on this node is.
	restore groupProgress
	// step interrupts a test at a step; nil for none.
	step func(name string)
}

// Options are what the program knows besides the node file.
type Options struct {
	Version string
	Binary  string // path of this program, which becomes the guard
	Log     *slog.Logger
	// Step is called before each step of a change of role, for tests that
	// interrupt one there; nil for none.
	Step func(name string)
}

// Open prepares a daemon: it adopts a server that an earlier one left under
// its guard, opens the store and the port, and starts the ledger. Nothing is
// changed on disk when it fails over the node file, the certificate, the
// binaries or a port.
func Open(ctx context.Context, cfg *configs.Node, o Options) (*Node, error) {
	n := &Node{tunnels: make(chan struct{}, 4), cfg: cfg, version: o.Version, binary: o.Binary, log: o.Log.With("node", cfg.Name), boot: newBoot(), began: time.Now(), step: o.Step}
	var err error
	if n.creds, err = link.LoadIdentity(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA); err != nil {
		return nil, err
	}
	if id := n.creds.Identity(); id.Node != cfg.Name {
		return nil, fmt.Errorf("%s: tls.cert was issued to node %q, but name is %q", cfg.File(), id.Node, cfg.Name)
	}
	if err := checkAdoption(cfg); err != nil {
		return nil, err
	}
	if err := n.checkGroup(); err != nil {
		return nil, err
	}
	if cfg.PostgreSQL != nil {
		if n.server, err = newServer(cfg, n.log); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("%s: make run_dir: %w", cfg.File(), err)
	}
	if n.lock, err = takeLock(cfg); err != nil {
		return nil, err
	}
	n.plane = &plane{n: n}
	if n.hooks, err = n.newHooks(); err != nil {
		return nil, err
	}
	n.agent = failover.NewAgent(failover.AgentConfig{
		Name: cfg.Name, Witness: cfg.PostgreSQL == nil, Plane: n.plane, Server: n.server, Binary: o.Binary,
		GuardSocket: cfg.GuardSocket(), StateDir: cfg.StateDir, Notify: n.notify, Log: n.log, Step: o.Step, Hooks: n.hooks,
		Restore: n.restoreGroup,
	})
	// First of all: the guard's patience with an absent daemon is short.
	if err := n.agent.Connect(ctx); err != nil {
		return nil, err
	}
	if n.server != nil && !n.agent.Guarded() {
		if err := n.server.RemoveStalePermit(); err != nil {
			return nil, err
		}
	}
	n.net = link.TLS(n.creds, n.log)
	if n.listener, err = n.net.Listen(cfg.Listen); err != nil {
		n.Close()
		return nil, fmt.Errorf("%s: listen: %w", cfg.File(), err)
	}
	if cfg.HTTP != configs.HTTPOff {
		if n.http, err = net.Listen("tcp", cfg.HTTP); err != nil {
			n.Close()
			return nil, fmt.Errorf("%s: http: %w", cfg.File(), err)
		}
	}
	if err := n.directories(); err != nil {
		n.Close()
		return nil, err
	}
	if err := n.open(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// checkGroup refuses to work on the state of one group with the certificate of
// another, before anything is written.
func (n *Node) checkGroup() error {
	m, err := spool.Peek(spoolDir(n.cfg))
	if errors.Is(err, spool.ErrNoStore) {
		return nil
	}
	if err != nil {
		return nil // a damaged store is openStore's to judge
	}
	if id := n.creds.Identity(); m.Group != id.Group {
		return fmt.Errorf("%s: tls.cert is of group %s, but state_dir %s is of group %s", n.cfg.File(), id.Group, n.cfg.StateDir, m.Group)
	}
	return nil
}

func newBoot() string { return fmt.Sprintf("%x-%d", time.Now().UnixNano(), os.Getpid()) }

func newServer(cfg *configs.Node, log *slog.Logger) (*pgctl.Server, error) {
	p := cfg.PostgreSQL
	inst, err := pgctl.Find(p.BinDir)
	if err != nil {
		return nil, fmt.Errorf("%s: postgresql.bin_dir: %w", cfg.File(), err)
	}
	acc, err := pgctl.ResolveAccount(p.Account)
	if err != nil {
		return nil, fmt.Errorf("%s: postgresql.account: %w", cfg.File(), err)
	}
	return &pgctl.Server{
		Install: inst, Account: acc, DataDir: p.DataDir, StateDir: filepath.Join(cfg.StateDir, "postgresql"), RunDir: cfg.RunDir,
		SocketDir: cfg.PGSocketDir(), ClientSocketDir: p.SocketDir, Port: p.Port, Listen: p.Listen,
		ClientHBA: p.ClientHBA, Parameters: p.Parameters,
		LogFile: filepath.Join(cfg.StateDir, "postgresql", "postgresql.log"), Log: log,
	}, nil
}

// directories makes what the daemon and the database account share.
func (n *Node) directories() error {
	for _, d := range []string{n.cfg.StateDir, n.cfg.RunDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", d, err)
		}
	}
	if n.server == nil {
		return nil
	}
	for _, d := range []string{n.server.StateDir, n.cfg.PGSocketDir(), n.cfg.WALSocketDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", d, err)
		}
		if n.server.Account.Switch {
			if err := os.Chown(d, int(n.server.Account.UID), int(n.server.Account.GID)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Node) open() error {
	cfg := n.cfg
	var err error
	if n.events, err = eventlog.Open(cfg.EventsFile()); err != nil {
		return fmt.Errorf("open the event log: %w", err)
	}
	if n.server != nil {
		if err := n.server.AmendFounding(cfg.PostgreSQL.Superuser); err != nil {
			return err
		}
	}
	pgWAL := ""
	if n.server != nil && !failover.Marked(cfg.StateDir) { // a primary's own log is no spool's tail
		pgWAL = filepath.Join(n.server.DataDir, "pg_wal")
	}
	if n.spool, err = openStore(cfg, n.creds.Identity().Group, pgWAL, n.log); err != nil {
		return err
	}
	n.control = newControl(cfg.Name, n.net, n.log)
	n.control.report, n.control.targets = n.report, n.targets
	if n.named, err = readIdentity(identityPath(cfg)); err != nil {
		return err
	}
	n.ledger, err = ledger.Open(ledger.Config{
		Dir: raftDir(cfg), Store: n.spool.Store(), Advertise: cfg.Advertise,
		Stream: &raftStream{Listener: link.Accept(n.listener, link.Ledger), net: n.net, id: n.ledgerID}, Forward: n.control, Log: n.log,
	})
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	n.control.propose, n.control.read, n.control.reseed = n.ledger.HandlePropose, n.ledger.HandleRead, n.handleReseed
	n.control.restore, n.control.audit = n.handleRestore, n.handleAudit
	n.receiver = standby.New(standby.Config{
		Node: cfg.Name, Store: n.spool.Store(), Identity: n.identity, Spool: n.spool,
		Fill: n.fill, Refuse: n.agent.Returning, OnSession: n.onSession, Log: n.log,
	})
	n.agent.Attach(ledgerPort{n.ledger}, n.spool.Store())
	if err := n.finishReform(); err != nil {
		return err
	}
	n.keepName()
	n.listener.Handle(link.Control, n.control.handle)
	n.listener.Handle(link.Stream, n.handleStream)
	n.listener.Handle(link.Place, n.servePlace)
	n.jobs = n.newJobs()
	return nil
}

// Close frees what Open took; servers of ours go on under their guards.
func (n *Node) Close() {
	if n.listener != nil {
		n.listener.Close()
	}
	if n.http != nil {
		n.http.Close()
	}
	if n.ledger != nil {
		if err := n.ledger.Close(); err != nil {
			n.log.Warn("close the ledger", "error", err)
		}
	}
	if n.spool != nil {
		if err := n.spool.Close(); err != nil {
			n.log.Warn("close the spool", "error", err)
		}
	}
	if n.events != nil {
		n.events.Close()
	}
	if n.lock != nil {
		n.lock.Close()
	}
}

// Run works until ctx ends. Its cause decides about the local PostgreSQL:
// failover.ErrRestarting leaves it running for the next daemon, anything else
// stops it in the regular way.
func (n *Node) Run(ctx context.Context) error {
	defer n.Close()
	ctx, n.stopped = context.WithCancelCause(ctx)
	// The agent leaves first, while everything it needs still works.
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var wg sync.WaitGroup
	fail := func(what string, err error) {
		if err != nil && base.Err() == nil {
			n.stopped(fmt.Errorf("%s: %w", what, err))
		}
	}
	wg.Go(func() { fail("link", n.listener.Serve(base)) })
	wg.Go(func() { n.control.run(base) })
	wg.Go(func() { n.controller().Run(base) })
	wg.Go(func() { n.housekeep(base) })
	wg.Go(func() { n.watchLedgers(base) })
	wg.Go(func() { n.jobs.Run(base) })
	wg.Go(func() { n.keepMarking(base) })
	wg.Go(func() { n.watchRestore(base) })
	wg.Go(func() { n.keepAudit(base) })
	wg.Go(func() { n.keepAside(base) })
	stopEvents := n.ledger.Subscribe(n.ledgerEvents())
	if n.server != nil {
		wg.Go(func() { fail("log server", walserver.Serve(base, n.walServer())) })
	}
	n.surfaces(base, &wg, fail)
	n.notify("daemon-started", facts.SeverityInfo, fmt.Sprintf("understudy %s started on %s", n.version, n.cfg.Name), pos.Epoch{})
	n.agent.Run(ctx)
	cause := context.Cause(ctx)
	n.log.Info("stopping", "cause", cause)
	n.closeHooks()
	end()
	stopEvents()
	n.listener.Close()
	wg.Wait()
	if errors.Is(cause, ErrRenew) {
		return cause
	}
	if errors.Is(cause, failover.ErrRestarting) || errors.Is(cause, failover.ErrStopping) || errors.Is(cause, context.Canceled) {
		return nil
	}
	return cause
}

// Stop ends Run for a cause.
func (n *Node) Stop(cause error) {
	if n.stopped != nil {
		n.stopped(cause)
	}
}

func (n *Node) controller() *failover.Controller {
	return &failover.Controller{Store: n.spool.Store(), Ledger: ledgerPort{n.ledger}, Reports: n.reports,
		Wake: n.control.wake, Log: n.log, Every: reportEvery}
}

// targets are the nodes to keep control connections to: those of the node
// file until the ledger names the members, and strangers that knock.
func (n *Node) targets() []target {
	byName := map[string]target{}
	for _, p := range n.cfg.Peers {
		byName[p.Name] = target{p.Name, p.Address}
	}
	for _, h := range n.control.heardByNode() {
		byName[h.Report.Node] = target{h.Report.Node, h.Report.Address}
	}
	for _, m := range n.ledger.State().Members {
		if _, heard := byName[m.Name]; !heard {
			byName[m.Name] = target{m.Name, m.Address}
		}
	}
	out := make([]target, 0, len(byName))
	for _, t := range byName {
		out = append(out, t)
	}
	return out
}

func (n *Node) identity() standby.Identity {
	id := standby.Identity{Group: n.creds.Identity().Group, Ledger: n.ledgerID()}
	if st := n.ledger.State(); st.Founded() {
		id.SystemID, id.SegSize = st.Group.SystemID, st.Group.SegSize
	}
	if m := n.spool.Meta(); id.SystemID == 0 {
		id.SystemID, id.SegSize = m.SystemID, m.SegSize
	}
	if n.server != nil {
		id.Major = n.server.Major
	}
	return id
}

// handleStream serves a connection of the data plane by its purpose.
func (n *Node) handleStream(ctx context.Context, c net.Conn, peer link.Peer) {
	p, err := shipper.Accept(c)
	if err != nil {
		n.log.Debug("stream connection", "from", peer.Node, "error", err)
		return
	}
	switch p {
	case shipper.PurposeStream:
		err = n.receiver.Handle(ctx, c)
	case shipper.PurposeFetch:
		err = n.serveFetch(ctx, c)
	case shipper.PurposeBase:
		err = n.serveBase(ctx, c, peer)
	case shipper.PurposeTunnel:
		err = n.serveTunnel(ctx, c, peer)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Info("stream connection ended", "from", peer.Node, "purpose", string(rune(p)), "error", err)
	}
}

// serveFetch gives durable log from the spool, or from pg_wal on the primary.
func (n *Node) serveFetch(ctx context.Context, c net.Conn) error {
	st := n.ledger.State()
	s := shipper.Served{Group: n.creds.Identity().Group, Ledger: st.Group.LedgerID, SystemID: st.Group.SystemID, SegSize: st.Group.SegSize}
	if run := n.primaryRun(); run != nil {
		s.Lineage = n.spool.Lineage()
		oldest := &oldestLog{dir: filepath.Join(n.server.DataDir, "pg_wal"), segSize: run.segSize, timeline: s.Lineage.Last().Timeline}
		s.Range, s.Log = pos.Range{From: oldest.get(), To: run.Snapshot().Received}, run.wal
	} else if own := n.plane.stoppedLog(); own != nil {
		s.Lineage, s.Range, s.Log = own.Lineage, own.Range, own.Log
	} else {
		s.Lineage = n.spool.Lineage()
		s.Range, s.Log = pos.Range{From: n.spool.Base(), To: n.spool.Durable()}, n.spool
	}
	return shipper.ServeFetch(ctx, c, s)
}

// serveBase seeds a standby while this node is the open primary.
func (n *Node) serveBase(ctx context.Context, c net.Conn, peer link.Peer) error {
	st := n.ledger.State()
	if n.primaryRun() == nil || st.Primary.Phase != facts.PhaseOpened {
		return fmt.Errorf("%s asks for a base, but this node is not the open primary", peer.Node)
	}
	n.notify("seeding", facts.SeverityInfo, fmt.Sprintf("%s receives a base from %s", peer.Node, n.cfg.Name), st.Primary.Epoch)
	return basebackup.Serve(ctx, c, basebackup.Config{
		ConnString: n.server.DSN(true), SystemID: st.Group.SystemID, Major: st.Group.PGMajor,
		Label: "understudy seed of " + peer.Node, Log: n.log,
	})
}

// ErrRenew ends Run when this node's log can never join the group's again: the
// program starts anew, with a new store.
var ErrRenew = errors.New("this node begins anew")

var (
	// errRenewKeep leaves the server to the next life.
	errRenewKeep = fmt.Errorf("%w: %w", failover.ErrRestarting, ErrRenew)
	// errGaveWay stops it: it is of a ledger that is not the group's any more.
	errGaveWay = fmt.Errorf("%w: the group was formed anew without it", ErrRenew)
)

// giveUpFill is how long nobody may have the log that this node lacks before
// the node begins anew. Peers may be restarting meanwhile.
const giveUpFill = 30 * time.Second

// fill brings log that the primary no longer has from the other peers' spools.
// When nobody has it for long, the store is given up: a voter that skipped
// bytes would vouch for what it does not hold, so it comes back as a new one.
func (n *Node) fill(ctx context.Context, h shipper.Hello, to pos.LSN) error {
	err := n.tryFill(ctx, h, to)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
		n.gapSince = time.Time{}
	case n.gapSince.IsZero():
		n.gapSince = time.Now()
	case time.Since(n.gapSince) > giveUpFill:
		why := fmt.Sprintf("log from %s to %s is nowhere to be had", n.spool.End(), to)
		if werr := n.renew(renewal{Why: why, Joins: n.named.get()}); werr != nil {
			return errors.Join(err, werr)
		}
		n.notify("store-given-up", facts.SeverityError, why+"; this node begins anew", h.Epoch)
		n.later(errRenewKeep)
	}
	return err
}

func (n *Node) tryFill(ctx context.Context, h shipper.Hello, to pos.LSN) error {
	var errs []error
	for _, m := range n.ledger.State().Members {
		if m.Name == n.cfg.Name || m.Name == h.Node {
			continue
		}
		if err := n.fillFrom(ctx, m, h, to); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		return nil
	}
	if len(errs) == 0 {
		return errors.New("there is no other peer")
	}
	return errors.Join(errs...)
}

func (n *Node) fillFrom(ctx context.Context, m facts.Member, h shipper.Hello, to pos.LSN) error {
	c, err := shipper.Dial(ctx, n.net, m.Address, m.Name, shipper.PurposeFetch)
	if err != nil {
		return err
	}
	defer c.Close()
	sp := n.spool
	from := sp.End()
	crc, crcFrom, err := sp.TailCRC(from, shipper.CheckWindow)
	if err != nil {
		return err
	}
	got, err := shipper.Fetch(ctx, c, shipper.FetchAsk{
		Group: h.Group, Ledger: h.Ledger, Node: n.cfg.Name, SystemID: h.SystemID, SegSize: h.SegSize,
		Lineage: sp.Lineage(), From: from, To: to, CRC: crc, CRCFrom: crcFrom,
	}, func(at pos.LSN, p []byte) error { return sp.Append(h.Epoch, at, p) })
	if _, serr := sp.Sync(); serr != nil {
		return serr
	}
	if err == nil && got < to {
		err = fmt.Errorf("its log ends at %s", got)
	}
	return err
}

func (n *Node) onSession(h shipper.Hello, up bool, err error) {
	if up {
		n.plane.noteHeard(0) // the primary tells what is committed
		n.notify("link-up", facts.SeverityInfo, fmt.Sprintf("%s receives from %s in epoch %s", n.cfg.Name, h.Node, h.Epoch), h.Epoch)
		return
	}
	text := fmt.Sprintf("the stream from %s ended", h.Node)
	if err != nil {
		text += ": " + err.Error()
	}
	n.notify("link-down", facts.SeverityWarning, text, h.Epoch)
}

func (n *Node) setPrimary(r *primaryRun) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.run = r
}

// primaryRun is the data plane of the primary while this node is one.
func (n *Node) primaryRun() *primaryRun {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil {
		select {
		case <-n.run.Done():
			n.run = nil
		default:
		}
	}
	return n.run
}

// watchLedgers looks, as often as reports come, whether this node's ledger is
// still the group's.
func (n *Node) watchLedgers(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.keepName()
		n.yield()
	}
}

// housekeep prunes the spool to the floor that the primary publishes.
func (n *Node) housekeep(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			n.plane.keepHeard(true)
			return
		case <-tick.C:
		}
		n.plane.keepHeard(false)
		floor := n.receiver.Snapshot().Floor
		if n.server != nil {
			floor = min(floor, n.receiver.Redo()) // whatever the primary knew of this node
		}
		if n.spool.Base() == 0 || floor <= n.spool.Base() {
			continue
		}
		if _, err := n.spool.Prune(floor); err != nil {
			n.log.Warn("prune the spool", "floor", floor.String(), "error", err)
		}
	}
}
