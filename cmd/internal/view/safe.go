package view

import (
	"fmt"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// rule makes the sentence on safety in one situation.
type rule struct {
	id    string
	level Level
	when  func(*situation) bool
	say   func(*situation) string
}

// rules are tried in order; the first that holds speaks. Whatever stops
// commits comes before what endangers data, and both before what is fine.
func rules() []rule {
	return []rule{
		{"no-group", LevelStopped, func(s *situation) bool { return !s.in.State.Founded() }, func(*situation) string {
			return "No group: this node belongs to none yet; run understudy init, or name peers that belong to one."
		}},
		{"no-epoch", LevelStopped, func(s *situation) bool { return s.phase() == facts.PhaseNone || s.phase() == "" }, func(*situation) string {
			return "No primary: the group is founded and no node has been started for writing yet."
		}},
		{"fencing", LevelStopped, func(s *situation) bool { return s.phase() == facts.PhaseFencing }, (*situation).sayFencing},
		{"taking-over", LevelStopped, func(s *situation) bool { return s.phase() != facts.PhaseOpened }, (*situation).sayTakingOver},
		{"handing-over", LevelStopped, func(s *situation) bool { return s.in.State.Order != nil && !s.primaryOpen() }, (*situation).sayHandingOver},
		{"primary-restarting", LevelStopped, func(s *situation) bool { return s.restarting() && !s.primaryOpen() }, (*situation).sayRestarting},
		{"primary-silent", LevelStopped, func(s *situation) bool { return s.primary == nil || !s.primary.fresh() }, (*situation).saySilent},
		{"primary-closed", LevelStopped, func(s *situation) bool { return !s.primaryOpen() }, (*situation).sayClosed},
		{"primary-failing", LevelStopped, func(s *situation) bool { return s.primary.report.Server.Failing != "" }, func(s *situation) string {
			return fmt.Sprintf("Commits may wait: %s is primary, but cannot serve: %s.", s.primary.Name, s.primary.report.Server.Failing)
		}},
		{"commits-wait", LevelStopped, func(s *situation) bool { return s.quorum() && len(s.acking()) < s.needed }, (*situation).sayCommitsWait},
		{"offline", LevelStopped, func(s *situation) bool { return s.in.State.Offline != nil }, (*situation).sayOffline},
		{"no-standby", LevelUnprotected, func(s *situation) bool { return len(s.standbys()) == 0 }, func(s *situation) string {
			return fmt.Sprintf("Not protected: the group has no standby, and the only copy of the database is on %s.", s.primary.Name)
		}},
		{"not-seeded", LevelUnprotected, func(s *situation) bool { return len(s.spares()) == 0 }, (*situation).sayNotSeeded},
		{"alone", LevelUnprotected, func(s *situation) bool { return len(s.voters) < 2 }, func(s *situation) string {
			return fmt.Sprintf("Not protected: %s goes on alone, and a commit returns when %s has it.", s.primary.Name, s.primary.Name)
		}},
		{"async", LevelDegraded, func(s *situation) bool { return !s.quorum() }, (*situation).sayAsync},
		{"no-spare", LevelDegraded, func(s *situation) bool { return len(s.acking()) == s.needed && len(s.missing()) > 0 }, (*situation).sayNoSpare},
		{"voter-away", LevelDegraded, func(s *situation) bool { return len(s.missing()) > 0 }, func(s *situation) string {
			return fmt.Sprintf("Safe, but %s; every commit is on %s before it returns.", s.missingText(), s.copies(s.acking()))
		}},
		{"no-successor", LevelDegraded, func(s *situation) bool { return len(s.successors()) == 0 }, (*situation).sayNoSuccessor},
		{"safe", LevelSafe, func(*situation) bool { return true }, func(s *situation) string {
			return fmt.Sprintf("Safe: every commit is on %s before it returns.", s.copies(s.voters))
		}},
	}
}

func (s *situation) safe() Safe {
	for _, r := range rules() {
		if r.when(s) {
			return Safe{Level: r.level, Rule: r.id, Sentence: r.say(s)}
		}
	}
	return Safe{Level: LevelStopped, Rule: "unknown", Sentence: "The state of the group is unknown."}
}

func (s *situation) sayHandingOver() string {
	o := s.in.State.Order
	return fmt.Sprintf("Commits wait: a %s to %s is under way.", o.Kind, s.in.State.NameOf(o.To))
}

func (s *situation) sayOffline() string {
	return fmt.Sprintf("Offline: clients are kept out of %s on the operator's word since %s ago; let them in with: understudy online.",
		s.primary.Name, ago(s.in.Now.Sub(s.in.State.Offline.Since)))
}

func (s *situation) phase() facts.Phase { return s.in.State.Primary.Phase }
func (s *situation) quorum() bool       { return s.in.State.Policy.Durability != facts.Async }

// primaryOpen tells whether the elected node says, in the ledger's epoch, that
// its server lets clients in.
func (s *situation) primaryOpen() bool {
	p := s.primary
	return p != nil && p.fresh() && p.report.Role == decide.RolePrimary &&
		p.report.Server.State == decide.ServerOpen && p.report.Epoch == s.in.State.Primary.Epoch
}

func (s *situation) restarting() bool {
	if s.primary == nil {
		return false
	}
	l, ok := s.in.State.Leaving[s.primary.Store]
	return ok && l.Kind == facts.LeavingRestarting && s.in.Now.Before(l.Until)
}

// acking are the WAL voters that acknowledge new commits: the primary, and
// those that it streams to.
func (s *situation) acking() []*member {
	var out []*member
	for _, v := range s.voters {
		if v == s.primary && v.fresh() || v != s.primary && s.link(v).State == LinkStreaming {
			out = append(out, v)
		}
	}
	return out
}

// missing are the WAL voters that do not acknowledge.
func (s *situation) missing() []*member {
	var out []*member
	acking := s.acking()
	for _, v := range s.voters {
		if !contains(acking, v) {
			out = append(out, v)
		}
	}
	return out
}

// standbys are the data nodes other than the primary, seeded or not.
func (s *situation) standbys() []*member {
	var out []*member
	for i := range s.members {
		if m := &s.members[i]; m.Kind == facts.KindData && m != s.primary {
			out = append(out, m)
		}
	}
	return out
}

// successors are the standbys that could take over now.
func (s *situation) successors() []*member {
	var out []*member
	for _, m := range s.spares() {
		if m.report.Server.State == decide.ServerReplica && s.cannotServe(m) == "" {
			out = append(out, m)
		}
	}
	return out
}

func (s *situation) sayFencing() string {
	var have, lack []string
	for _, v := range s.voters {
		if r, ok := s.in.State.Primary.Fence[v.Store]; ok && r.Epoch == s.in.State.Primary.Epoch {
			have = append(have, v.Name)
		} else {
			lack = append(lack, v.Name)
		}
	}
	text := fmt.Sprintf("No primary: epoch %s is being fenced; %d of %d nodes reported, %d must", s.in.State.Primary.Epoch, len(have), len(s.voters), s.needed)
	if len(lack) > 0 {
		text += "; " + list(lack, "and") + " did not"
	}
	return text + "."
}

func (s *situation) sayTakingOver() string {
	p := s.in.State.Primary
	verb := map[facts.Phase]string{
		facts.PhaseAssigned: "was elected and prepares", facts.PhaseStarting: "is starting", facts.PhasePromoting: "is being promoted",
	}[p.Phase]
	if verb == "" {
		verb = "is taking over"
	}
	return fmt.Sprintf("No primary yet: %s %s in epoch %s; commits wait.", p.Node, verb, p.Epoch)
}

func (s *situation) sayRestarting() string {
	left := s.in.State.Leaving[s.primary.Store].Until.Sub(s.in.Now)
	return fmt.Sprintf("Commits wait: %s is restarting and is expected back within %s.", s.primary.Name, ago(left))
}

func (s *situation) saySilent() string {
	p := s.primary
	if p == nil {
		return fmt.Sprintf("No primary is heard: %s is no longer a member of the group.", s.in.State.Primary.Node)
	}
	return fmt.Sprintf("The primary is not heard: %s %s; commits may wait until it is back or replaced.", p.Name, awayText(p))
}

func (s *situation) sayClosed() string {
	p := s.primary
	state := p.report.Server.State
	text := map[decide.ServerState]string{
		decide.ServerStopped: "its PostgreSQL is stopped", decide.ServerStarting: "its PostgreSQL is starting",
		decide.ServerLocked: "clients are locked out until a majority has its whole log",
		decide.ServerFailed: "its PostgreSQL cannot be started", decide.ServerReplica: "its PostgreSQL is not promoted yet",
		decide.ServerOpen: "its report is of an older epoch",
	}[state]
	if text == "" {
		text = "it has no PostgreSQL"
	}
	if p.report.Server.Problem != "" {
		text += " (" + p.report.Server.Problem + ")"
	}
	return fmt.Sprintf("Commits wait: %s is primary, but %s.", p.Name, text)
}

func (s *situation) sayCommitsWait() string {
	return fmt.Sprintf("Commits wait: %s; %d of %d nodes must have a commit, and only %s can.",
		s.missingText(), s.needed, len(s.voters), list(names(s.acking()), "and"))
}

func (s *situation) sayNotSeeded() string {
	for _, m := range s.standbys() {
		if sd := m.report.Seed; m.fresh() && sd != nil {
			progress := sd.Step
			if sd.TotalBytes > 0 {
				progress = fmt.Sprintf("%d %%", percent(sd.DoneBytes, sd.TotalBytes))
			}
			return fmt.Sprintf("Not protected yet: %s is being seeded (%s), and WAL without a base is no copy.", m.Name, progress)
		}
	}
	m := s.standbys()[0]
	if !m.fresh() {
		return fmt.Sprintf("Not protected yet: %s has no base and %s.", m.Name, awayText(m))
	}
	return fmt.Sprintf("Not protected yet: %s waits for its base.", m.Name)
}

func (s *situation) sayAsync() string {
	best := ""
	var least uint64
	for _, m := range s.spares() {
		if l := s.lag(m); l != nil && s.link(m).State == LinkStreaming && (best == "" || l.Bytes < least) {
			best, least = m.Name, l.Bytes
		}
	}
	if best == "" {
		return fmt.Sprintf("Asynchronous: a commit returns when %s has it, and no standby is following; new commits are lost with it.", s.primary.Name)
	}
	return fmt.Sprintf("Asynchronous: a commit returns when %s has it; the newest may be lost with it (%s is %s behind).", s.primary.Name, best, Size(least))
}

func (s *situation) sayNoSpare() string {
	text := fmt.Sprintf("Safe, but with no spare: %s; every commit now needs %s", s.missingText(), list(names(s.acking()), "and"))
	if len(s.successors()) == 0 {
		text += ", and no node can take over"
	}
	return text + "."
}

func (s *situation) sayNoSuccessor() string {
	m := s.spares()[0]
	why := s.cannotServe(m)
	if why == "" {
		why = "does not follow (its PostgreSQL is " + string(m.report.Server.State) + ")"
	}
	return fmt.Sprintf("Safe, but no node can take over: %s %s; every commit is on %s before it returns.", m.Name, why, s.copies(s.voters))
}

// mustAcknowledge says who must have a commit on disk before it returns.
func (s *situation) mustAcknowledge() MustAcknowledge {
	m := MustAcknowledge{Voters: names(s.voters), Needed: s.needed}
	switch {
	case len(s.voters) == 0:
		m.Sentence = "Nobody: the group has no voter."
	case !s.quorum():
		m.Needed = 1
		m.Sentence = "The primary alone: durability is async."
	case s.primary == nil:
		m.Sentence = fmt.Sprintf("Any %d of %s.", s.needed, list(m.Voters, "and"))
	default:
		m.Sentence = s.copies(s.voters) + "."
	}
	return m
}

// copies names where a commit is, when any majority that includes the primary
// acknowledges, of the given voters.
func (s *situation) copies(of []*member) string {
	var others []string
	for _, v := range of {
		if v != s.primary {
			others = append(others, v.Name)
		}
	}
	k := s.needed - 1
	switch {
	case s.primary == nil:
		return list(names(of), "and")
	case len(others) == 0 || k <= 0:
		return s.primary.Name + " alone"
	case k >= len(others):
		return list(append([]string{s.primary.Name}, others...), "and")
	default:
		return fmt.Sprintf("%s and at least %s of %s", s.primary.Name, count(k), strings.Join(others, ", "))
	}
}

// missingText says why voters do not acknowledge.
func (s *situation) missingText() string {
	ms := s.missing()
	if len(ms) == 2 && !ms[0].fresh() && !ms[1].fresh() {
		return fmt.Sprintf("neither %s nor %s answers", ms[0].Name, ms[1].Name)
	}
	parts := make([]string, 0, len(ms))
	for _, m := range ms {
		parts = append(parts, m.Name+" "+s.whyMissing(m))
	}
	return list(parts, "and")
}

func (s *situation) whyMissing(m *member) string {
	if !m.fresh() {
		return awayText(m)
	}
	switch l := s.link(m); l.State {
	case "catching up":
		if lag := s.lag(m); lag != nil {
			return "is catching up (" + Size(lag.Bytes) + " behind)"
		}
		return "is catching up"
	case "refused":
		return "refuses the stream"
	default:
		return "is not connected to the primary"
	}
}

func awayText(m *member) string {
	switch {
	case m.foreign:
		return "answers with another store id"
	case m.otherLedger:
		return "belongs to another ledger of this group"
	case m.presence == PresenceNever:
		return "has not been heard from"
	default:
		return "has been away for " + ago(m.age)
	}
}

func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Round(time.Second).Seconds()), 1))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
