package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"understudy/failover"
	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/primary"
	"understudy/primary/walsource"
	"understudy/shipper"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby/restore"
)

// plane joins the agent to the data plane: it is the one place where epoch and
// durable position pass between the two.
type plane struct {
	n *Node

	mu       sync.Mutex
	seed     *decide.Seed
	attempts int
	heard    heard           // newest committed LSN on disk
	stopped  *shipper.Served // the log of this node's own stopped primary
}

// Promised is the newest epoch this node has fenced for.
func (p *plane) Promised() pos.Epoch { return p.n.spool.Fence() }

// Fence stops everything of older epochs and makes the promise durable.
func (p *plane) Fence(e pos.Epoch) (pos.Lineage, pos.LSN, error) {
	lin, at, err := p.n.receiver.Fence(e)
	return lin, at.LSN, err
}

// Adopt makes the lineage of an epoch that this node is about to write durable.
func (p *plane) Adopt(l pos.Lineage, e pos.Epoch) error { return p.n.spool.Adopt(l, e) }

// SyncLog makes everything received durable.
func (p *plane) SyncLog() error {
	if p.n.spool.Meta().Base == 0 {
		return nil
	}
	_, err := p.n.spool.Sync()
	return err
}

// Conninfo is how the local standby reaches the daemon's log server. Where the
// server can keep logical slots like the primary's it wants a database for that.
func (p *plane) Conninfo() string {
	s := fmt.Sprintf("host=%s port=%d user=understudy application_name=%s", p.n.cfg.WALSocketDir(), walPort, p.n.cfg.Name)
	if p.n.server.KeepsSlots() {
		s += " dbname=postgres"
	}
	return s
}

// Restore is the standby's restore_command.
func (p *plane) Restore() string {
	return fmt.Sprintf(`"%s" wal-get --socket "%s" "%%f" "%%p"`, p.n.binary, p.n.cfg.WALGetSocket())
}

// SetRedo tells where a restart of the local standby would begin.
func (p *plane) SetRedo(l pos.LSN) { p.n.receiver.SetRedo(l) }

// Lineage is the history of the received log.
func (p *plane) Lineage() pos.Lineage { return p.n.spool.Lineage() }

// LogEnd is the end of the received log.
func (p *plane) LogEnd() pos.LSN { return p.n.spool.End() }

// Feed gives the local standby everything up to upto: it was elected.
func (p *plane) Feed(upto pos.LSN) { p.n.receiver.Elect(upto) }

// Wipe removes the stopped local database.
func (p *plane) Wipe() error { return restore.WipeCluster(p.n.server.DataDir) }

// ClearRemains empties a data directory whose database is gone.
func (p *plane) ClearRemains() error {
	dir := p.n.server.DataDir
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
		return fmt.Errorf("%s still holds a database", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clear what is left of a removed database: %w", err)
		}
	}
	return nil
}

// LogBase is the first byte of log that this daemon can give its PostgreSQL;
// zero without a log.
func (p *plane) LogBase() pos.LSN { return p.n.spool.Base() }

// Claim marks the stopped database as one to be seeded over: a seed sends only
// what differs.
func (p *plane) Claim() error {
	if state, err := restore.Inspect(p.n.server.DataDir); err != nil || state != restore.Cluster {
		return err // claimed before, or nothing to keep
	}
	return restore.Claim(p.n.server.DataDir)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Seed fills the empty data directory from the primary.
func (p *plane) Seed(ctx context.Context) error {
	p.mu.Lock()
	p.attempts++
	p.seed = &decide.Seed{Step: "waiting", Attempt: p.attempts, Since: time.Now()}
	p.mu.Unlock()
	err := p.seedOnce(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.seed = nil
		p.attempts = 0
		return nil
	}
	p.seed.Problem = err.Error()
	return err
}

func (p *plane) seedOnce(ctx context.Context) error {
	n := p.n
	st := n.ledger.State()
	m, ok := st.Members[st.Primary.Store]
	if !ok || st.Primary.Phase != facts.PhaseOpened {
		return errors.New("no primary is open to be seeded from")
	}
	if n.receiver.Snapshot().From == "" {
		// The log from the base on must be arriving before the base is made.
		return fmt.Errorf("the stream from %s is not up yet", m.Name)
	}
	conn, err := shipper.Dial(ctx, n.net, m.Address, m.Name, shipper.PurposeBase)
	if err != nil {
		return fmt.Errorf("reach %s: %w", m.Name, err)
	}
	defer conn.Close()
	cfg := restore.Config{
		DataDir: n.server.DataDir, Major: n.server.Major, SystemID: st.Group.SystemID, Node: n.cfg.Name, Log: n.log,
		Progress: func(r restore.Progress) {
			p.mu.Lock()
			defer p.mu.Unlock()
			s := *p.seed
			s.Step, s.DoneBytes, s.TotalBytes, s.SameBytes = r.Step, r.DoneBytes, r.TotalBytes, r.SameBytes
			p.seed = &s
		},
	}
	if n.server.Account.Switch {
		cfg.Owner = &restore.Owner{UID: int(n.server.Account.UID), GID: int(n.server.Account.GID)}
	}
	res, err := restore.Seed(ctx, conn, cfg)
	if err != nil {
		return err
	}
	if base := n.spool.Base(); base == 0 || base > res.StartLSN {
		return fmt.Errorf("the base begins at %s, but the log here only at %s", res.StartLSN, base)
	}
	n.log.Info("seeded", "start", res.StartLSN.String(), "bytes", res.Bytes, "same_bytes", res.SameBytes)
	return nil
}

func (p *plane) seedState() *decide.Seed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seed
}

// StartPrimary begins to receive from the local server and to ship.
func (p *plane) StartPrimary(ctx context.Context, s failover.PrimarySpec) (failover.PrimaryRun, error) {
	n := p.n
	g := s.State.Group
	wal := spool.Dir(filepath.Join(n.server.DataDir, "pg_wal"), g.SegSize, s.State.Lineage)
	oldest := &oldestLog{dir: filepath.Join(n.server.DataDir, "pg_wal"), segSize: g.SegSize, timeline: s.State.Primary.Timeline}
	heard := min(p.Heard(), s.State.Primary.Start)
	run := &primaryRun{self: n.spool.Store(), segSize: g.SegSize, wal: wal, ended: p.noteHeard, stored: n.stored}
	_, err := primary.Start(context.WithoutCancel(ctx), primary.Config{
		Group: g.ID, Ledger: g.LedgerID, Node: n.cfg.Name, Store: n.spool.Store(),
		SystemID: g.SystemID, Major: g.PGMajor, SegSize: g.SegSize,
		Epoch: s.Epoch, Lineage: s.State.Lineage, From: s.From,
		Async: s.State.Policy.Durability == facts.Async,
		Open: func(ctx context.Context, from pos.LSN) (*walsource.Source, error) {
			return walsource.Open(ctx, walsource.Config{
				ConnString: n.server.DSN(true), ApplicationName: pgctl.EpochSyncName(s.Epoch),
				SystemID: g.SystemID, Timeline: s.State.Primary.Timeline, Start: from, Log: n.log,
			})
		},
		WAL: wal, Oldest: oldest.get, Now: guard.Boottime, Log: n.log, Heard: heard,
		Begin: func(pr *primary.Primary) {
			run.Primary = pr
			run.SetState(s.State)
		},
		Dial: func(ctx context.Context, peer primary.Peer) (net.Conn, error) {
			return shipper.Dial(ctx, n.net, peer.Address, peer.Name, shipper.PurposeStream)
		},
	})
	if err != nil {
		wal.Close()
		return nil, err
	}
	p.setStopped(nil)
	p.noteHeard(0)
	n.setPrimary(run)
	return run, nil
}

// primaryRun is a running primary as the agent sees it.
type primaryRun struct {
	*primary.Primary
	self    string
	segSize int64
	wal     *spool.WALDir
	ended   func(committed pos.LSN)
	// stored is the lowest end of the log at the locations of backups, and the
	// location it is of; "" when none waits for log.
	stored func() (pos.LSN, string)
	once   sync.Once

	mu      sync.Mutex
	members uint64
	voters  uint64
	set     bool
	short   map[string]string // nodes whose log the bound may drop: name to sentence
}

// SetState tells of new members and voters.
func (r *primaryRun) SetState(s facts.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set && s.MembersVersion == r.members && s.Voters.Version == r.voters {
		return
	}
	r.set, r.members, r.voters = true, s.MembersVersion, s.Voters.Version
	var peers []primary.Peer
	for _, m := range s.Members {
		if m.Store != r.self {
			peers = append(peers, primary.Peer{Name: m.Name, Store: m.Store, Address: m.Address, Data: m.Kind == facts.KindData})
		}
	}
	sort.Slice(peers, func(i, j int) bool { return peers[i].Name < peers[j].Name })
	atOnce := s.Policy.Durability == facts.Quorum && len(s.Voters.Stores) <= 3
	r.SetGroup(peers, s.Voters.Version, s.Voters.Stores, atOnce)
}

// Received is the end of the log that the server has handed out.
func (r *primaryRun) Received() pos.LSN { return r.Snapshot().Received }

// Contact is when the last heartbeat was sent that a majority has answered.
func (r *primaryRun) Contact() time.Duration { return r.Snapshot().Contact }

// Floor is the lowest byte that somebody still needs: this server to restart,
// every peer to catch up, every standby to restart, every location of backups
// to have it. A peer that was not heard in this epoch holds it where it is.
// Zero means no opinion.
func (r *primaryRun) Floor(ownRedo pos.LSN, maxBytes int64) pos.LSN {
	snap := r.Snapshot()
	floor := ownRedo
	for _, l := range snap.Links {
		need := l.Acked
		if l.Peer.Data {
			need = min(need, l.Redo)
		}
		floor = min(floor, need)
	}
	stored, where := r.stored()
	if where != "" {
		floor = min(floor, stored)
	}
	short := map[string]string{}
	if bound := snap.Received - min(snap.Received, pos.LSN(maxBytes)); floor < bound {
		for _, l := range snap.Links {
			if min(l.Acked, orMax(l.Redo, l.Peer.Data)) < bound {
				short["behind-"+l.Peer.Name] = fmt.Sprintf("%s is more than spool_max (%d MiB) of log behind; it cannot take over and will need a new base", l.Peer.Name, maxBytes>>20)
			}
		}
		if where != "" && stored < bound {
			short["archive-"+where] = fmt.Sprintf("location %s is more than spool_max (%d MiB) of log behind; its backups will have a gap", where, maxBytes>>20)
		}
		floor = min(bound, ownRedo)
	}
	r.mu.Lock()
	r.short = short
	r.mu.Unlock()
	return floor.SegStart(r.segSize)
}

func orMax(l pos.LSN, counts bool) pos.LSN {
	if !counts {
		return ^pos.LSN(0)
	}
	return l
}

// problems are sentences about peers that fell too far behind.
func (r *primaryRun) problems() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.short
}

// Stop ends acknowledging, then everything else.
func (r *primaryRun) Stop() {
	r.Primary.Stop()
	r.once.Do(func() { r.ended(r.Committed()) })
	r.wal.Close()
}

// oldestLog knows the first byte of the unbroken run of segments that ends
// with the newest one in pg_wal.
type oldestLog struct {
	dir      string
	segSize  int64
	timeline pos.Timeline

	mu  sync.Mutex
	at  time.Time
	lsn pos.LSN
}

func (o *oldestLog) get() pos.LSN {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) < time.Second {
		return o.lsn
	}
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return o.lsn
	}
	var have []pos.LSN
	for _, e := range entries {
		if tli, at, err := pos.ParseSegName(e.Name(), o.segSize); err == nil && tli <= o.timeline {
			have = append(have, at)
		}
	}
	sort.Slice(have, func(i, j int) bool { return have[i] < have[j] })
	for i := len(have) - 1; i >= 0; i-- {
		if i < len(have)-1 && have[i+1]-have[i] > pos.LSN(o.segSize) {
			break
		}
		o.lsn = have[i]
	}
	o.at = time.Now()
	return o.lsn
}
