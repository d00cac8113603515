package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/view"
	"understudy/configs"
	"understudy/failover"
	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/ledger/facts"
	"understudy/shipper"
	"understudy/shipper/pos"
	"understudy/standby/walserver"
)

// report is what this node says of itself now.
func (n *Node) report() decide.Report {
	n.mu.Lock()
	n.seq++
	seq := n.seq
	n.mu.Unlock()
	kind := string(facts.KindWitness)
	if n.server != nil {
		kind = string(facts.KindData)
	}
	snap := n.receiver.Snapshot()
	now := time.Now()
	r := decide.Report{
		Node: n.cfg.Name, Store: n.spool.Store(), Kind: kind, Boot: n.boot, Seq: seq, SentAt: now, Clock: time.Duration(now.UnixNano()),
		Version: n.version, PID: os.Getpid(), Address: n.cfg.Advertise, HTTP: n.httpAddr(),
		Role: n.agent.Role(), Epoch: snap.Lineage.Last().Epoch, Fence: snap.Fence, Timeline: snap.Lineage.Last().Timeline,
		Received: snap.Received, Durable: snap.Durable, Applied: snap.Applied, Committed: snap.Committed,
		Server: n.agent.Server(), Seed: n.plane.seedState(), Problems: n.agent.Problems(),
	}
	r.Server.Streaming = snap.Feeding
	r.Hears = n.control.ears.of(n.others())
	if n.primaryRun() == nil && !snap.Moved.IsZero() {
		r.Stream = &decide.Stream{Epoch: snap.MovedIn, Moved: time.Since(snap.Moved), Flushed: snap.Flushed}
	}
	name := n.named.get()
	r.Ledger, r.Generation = name.ID, name.Generation
	n.mu.Lock()
	if n.rival != "" {
		r.Problems["rival"] = n.rival
	}
	n.mu.Unlock()
	if n.spool.Base() != 0 {
		r.Spool = decide.Spool{From: n.spool.Base(), End: n.spool.End(), Bytes: uint64(n.spool.Size())}
	}
	if err := n.spool.Problem(); err != nil {
		r.Spool.Problem = err.Error()
		r.Problems["spool"] = fmt.Sprintf("%s cannot store log: %v", n.cfg.Name, err)
	}
	if snap.Problem != "" {
		r.Problems["stream"] = snap.Problem
	}
	n.reportJobs(&r)
	if run := n.primaryRun(); run != nil {
		n.reportPrimary(&r, run)
	} else if snap.From != "" {
		r.Links = []decide.Link{{Peer: snap.From, State: "streaming", Since: snap.Since, Acked: snap.Durable, Applied: snap.Applied}}
	}
	return r
}

// others are the other members, in order of name.
func (n *Node) others() []facts.Member {
	var out []facts.Member
	for _, m := range n.ledger.State().Members {
		if m.Store != n.spool.Store() {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b facts.Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (n *Node) reportPrimary(r *decide.Report, run *primaryRun) {
	s := run.Snapshot()
	r.Received, r.Durable, r.Applied, r.Committed = s.Received, s.Received, s.Received, s.Committed
	r.Epoch, r.VotersVersion = s.Epoch, s.Voters
	if s.Contact != 0 {
		r.MajorityContact = time.Now().Add(s.Contact - guard.Boottime())
	}
	for _, l := range s.Links {
		r.Links = append(r.Links, decide.Link{
			Peer: l.Peer.Name, State: l.State, Since: l.Since, RTT: l.RTT, Sent: l.Sent, Acked: l.Acked,
			Applied: l.Applied, Delay: l.Delay, BytesSec: l.BytesPerSec, Problem: l.Problem,
		})
		// A node that is busy with itself is no trouble of the link's.
		if l.State == "refused" && l.Problem != "" && l.ProblemCode != shipper.RefuseBusy {
			r.Problems["link-"+l.Peer.Name] = l.Problem
		}
	}
	for k, v := range run.problems() {
		r.Problems[k] = v
	}
}

func (n *Node) httpAddr() string {
	if n.cfg.HTTP == configs.HTTPOff {
		return ""
	}
	return n.cfg.HTTP
}

// Status is what this node knows of the group.
func (n *Node) Status(context.Context) (view.Status, error) {
	st := n.known()
	leader := ""
	store, _, _ := n.ledger.Leader()
	if m, ok := st.Members[store]; ok {
		leader = m.Name
	}
	return view.Build(view.Input{State: st, Self: n.report(), Heard: n.control.heardByNode(), Now: time.Now(), LedgerLeader: leader, Protection: n.guarded.of(st)}), nil
}

// Self is the ledger's state as this node has it, and its own report.
func (n *Node) Self() (facts.State, decide.Report) { return n.ledger.State(), n.report() }

// Events is the daemon's event log.
func (n *Node) Events() *eventlog.Log { return n.events }

// Do carries out a local command.
func (n *Node) Do(ctx context.Context, action string, args map[string]string) (any, error) {
	switch action {
	case "stop":
		return n.stop(ctx, args)
	case "restart":
		n.later(failover.ErrRestarting)
		return map[string]string{"result": "leaving; PostgreSQL goes on for the next daemon"}, nil
	case "policy":
		return n.policy()
	case "policy-apply":
		return n.applyPolicy(ctx, args)
	case "switchover":
		return n.orderSwitchover(ctx, args)
	case "failover":
		return n.orderFailover(ctx, args)
	case "reseed":
		return n.orderReseed(ctx, args)
	case "offline", "online":
		return n.orderOffline(ctx, action, args)
	}
	if v, known, err := n.planned(ctx, action, args); known {
		return v, err
	}
	if v, known, err := n.groupOrder(ctx, action, args); known {
		return v, err
	}
	if v, known, err := n.backupOrder(ctx, action, args); known {
		return v, err
	}
	if v, known, err := n.rebuildCatalog(ctx, action, args); known {
		return v, err
	}
	return nil, &admin.ActionError{Code: admin.CodeUnknownAction, Text: fmt.Sprintf("there is no action %q", action)}
}

// later ends Run after the answer to the command had time to leave.
func (n *Node) later(cause error) { time.AfterFunc(50*time.Millisecond, func() { n.Stop(cause) }) }

// WAL gives the local PostgreSQL a whole, committed segment that it does not
// have complete itself. It never gives the segment that holds the log's end: a
// partial tail reaches PostgreSQL by the log server only, because PostgreSQL
// would replace its own newer segment by an older copy.
func (n *Node) WAL(_ context.Context, name string, w io.Writer) error {
	m := n.spool.Meta()
	if m.Base == 0 {
		return admin.ErrNotYet
	}
	if t, ok := historyTimeline(name); ok {
		// Of ids that were used up nothing is given: only a promotion looks for those.
		b, known := n.history(t)
		if !known || len(b) == 0 {
			return admin.ErrNotYet
		}
		_, err := w.Write(b)
		return err
	}
	tli, at, err := pos.ParseSegName(name, m.SegSize)
	if err != nil {
		return admin.ErrNotYet
	}
	end := at + pos.LSN(m.SegSize)
	snap := n.receiver.Snapshot()
	if tli != m.Lineage.TimelineAt(at) || end > snap.Committed || end > snap.Durable {
		return admin.ErrNotYet
	}
	seg, complete, err := n.spool.Segment(name)
	if err != nil || !complete {
		return errors.Join(admin.ErrNotYet, err)
	}
	defer seg.Close()
	if n.hasSegment(name, seg, m.SegSize) {
		return admin.ErrNotYet
	}
	_, err = io.Copy(w, io.NewSectionReader(seg, 0, m.SegSize))
	return err
}

// hasSegment tells whether the local pg_wal holds all of a segment's bytes
// itself. A segment may end long before its last page (after a switch of
// segments), so the bytes are compared, not looked at.
func (n *Node) hasSegment(name string, seg io.ReaderAt, segSize int64) bool {
	f, err := os.Open(filepath.Join(n.server.DataDir, "pg_wal", name))
	if err != nil {
		return false
	}
	defer f.Close()
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); at < segSize; at += int64(len(a)) {
		if _, err := f.ReadAt(a, at); err != nil {
			return false
		}
		if _, err := seg.ReadAt(b, at); err != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

// walServer is what the local standby's walreceiver connects to.
func (n *Node) walServer() walserver.Config {
	return walserver.Config{
		Socket:    filepath.Join(n.cfg.WALSocketDir(), fmt.Sprintf(".s.PGSQL.%d", walPort)),
		AllowUIDs: []uint32{n.server.Account.UID, uint32(os.Geteuid())},
		WAL:       n.spool,
		State:     n.walState,
		History:   n.history,
		OnFeedback: func(f walserver.Feedback) {
			if err := n.receiver.Fed(f); err != nil && !errors.Is(err, net.ErrClosed) {
				n.log.Warn("take the standby's report", "error", err)
			}
		},
		OnSession: n.receiver.Feeding,
		Proxy:     n.toPrimary,
		Logger:    n.log,
	}
}

func (n *Node) walState() (walserver.State, <-chan struct{}) {
	limit, held, changed := n.receiver.Serve()
	m := n.spool.Meta()
	shown := n.followed()
	for _, e := range m.Lineage { // never the bytes of an entry that is not shown
		if len(shown) > 0 && shown.Last().Epoch.Less(e.Epoch) {
			limit = min(limit, e.Start)
			break
		}
	}
	s := walserver.State{SystemID: m.SystemID, Lineage: shown, ServerVersion: n.server.Version, SegSize: m.SegSize, Limit: limit, Held: held}
	if m.Base == 0 {
		s.Refuse = "no log has been received yet"
	}
	return s, changed
}

// surfaces starts the local socket, the WAL socket and HTTP.
func (n *Node) surfaces(ctx context.Context, wg *sync.WaitGroup, fail func(string, error)) {
	wg.Go(func() {
		h := admin.Handler(n, admin.Options{Writable: true, Log: n.log})
		fail("local socket", admin.ServeUnix(ctx, n.cfg.AdminSocket(), h, 0o600))
	})
	if n.http != nil {
		wg.Go(func() { fail("http", admin.Serve(ctx, n.http, admin.Handler(n, admin.Options{Log: n.log}))) })
	}
	if n.server != nil {
		wg.Go(func() {
			fail("wal socket", admin.ServeWAL(ctx, n.cfg.WALGetSocket(), admin.WALHandler(n.WAL), []uint32{n.server.Account.UID, uint32(os.Geteuid())}))
		})
	}
}
