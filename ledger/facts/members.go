package facts

import (
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"

	"understudy/shipper/pos"
)

// setMember replaces or adds a member, without writing to the input's map.
func (t *tx) setMember(m Member) {
	t.s.Members = with(t.s.Members, m.Store, m)
	t.s.MembersVersion++
}

// with returns a copy of m in which k is v.
func with[V any](m map[string]V, k string, v V) map[string]V {
	out := make(map[string]V, len(m)+1)
	maps.Copy(out, m)
	out[k] = v
	return out
}

// without returns a copy of m that lacks k, or m itself if it has none.
func without[V any](m map[string]V, k string) map[string]V {
	if _, ok := m[k]; !ok {
		return m
	}
	out := maps.Clone(m)
	delete(out, k)
	return out
}

// plain tells whether s is a usable name, id or address.
func plain(s string) bool {
	return s != "" && len(s) <= maxNameBytes && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r) || r == '/' || r == unicode.ReplacementChar
	})
}

// checkMember refuses a member whose fields cannot be right.
func checkMember(m Member) *refusal {
	switch {
	case !plain(m.Name):
		return refuse(CodeBadCommand, "member name %q is empty, too long, or has blanks or slashes", clip(m.Name))
	case !plain(m.Store):
		return refuse(CodeBadCommand, "store id %q of member %s is not usable", clip(m.Store), m.Name)
	case m.Kind != KindData && m.Kind != KindWitness:
		return refuse(CodeBadCommand, "kind %q of member %s is neither %q nor %q", clip(string(m.Kind)), m.Name, KindData, KindWitness)
	case m.Address != "" && !plain(m.Address), m.HTTP != "" && !plain(m.HTTP):
		return refuse(CodeBadCommand, "an address of member %s is too long or has blanks or slashes", m.Name)
	}
	return nil
}

func (t *tx) found(c *Found) *refusal {
	if t.s.Founded() {
		return refuse(CodeAlreadyFounded, "the group %s is already founded", t.s.Group.Name)
	}
	if c.Group.ID == "" || c.Group.LedgerID == "" {
		return refuse(CodeBadCommand, "a group needs an id and a ledger id")
	}
	if n := c.Group.SegSize; n != 0 && (n < 1<<20 || n > 1<<30 || n&(n-1) != 0) {
		return refuse(CodeBadCommand, "WAL segment size %d is no power of two between 1 MiB and 1 GiB", n)
	}
	m := c.Member
	if r := checkMember(m); r != nil {
		return r
	}
	if m.Kind != KindData {
		return refuse(CodeNotData, "member %s cannot found a group: it has no PostgreSQL", m.Name)
	}
	p := c.Policy
	if p.IsZero() {
		p = DefaultPolicy()
	}
	if err := p.Validate(); err != nil {
		return refuse(CodeBadPolicy, "%s", err)
	}
	p.Version = 1
	m.LedgerVoter, m.Seeded = true, true
	if m.JoinedAt.IsZero() {
		m.JoinedAt = t.c.At
	}
	if r := checkPast(c.Lineage); r != nil {
		return r
	}
	g := c.Group
	if g.FoundedAt.IsZero() {
		g.FoundedAt = t.c.At
	}
	t.s.Group, t.s.Policy = g, p
	t.setMember(m)
	t.s.Voters = Voters{Version: 1, Stores: []string{m.Store}, Confirmed: 1}
	t.s.Primary = Primaryship{Version: 1, Phase: PhaseNone}
	if len(c.Lineage) > 0 {
		t.s.Lineage, t.s.LastTimeline = c.Lineage, c.Lineage.Last().Timeline
		t.noteTimelines()
	}
	t.event("founded", m.Store, SeverityInfo, "group %s founded by %s", g.Name, m.Name)
	return nil
}

// checkPast refuses what is no history of a database before its group.
func checkPast(l pos.Lineage) *refusal {
	last := l.Last()
	switch err := l.Validate(); {
	case err != nil:
		return refuse(CodeBadCommand, "the database's history is %s", err)
	case len(l) > maxTimelines || last.Timeline > math.MaxUint32-2*maxTimelines:
		return refuse(CodeTooMany, "the database's history has %d timelines up to %d, too many", len(l), last.Timeline)
	case last.Epoch.Gen >= firstEpoch().Gen:
		return refuse(CodeBadCommand, "epoch %s is not from before the group", last.Epoch)
	}
	return nil
}

func (t *tx) addMember(c *AddMember) *refusal {
	if r := stale("list of members", c.Expect, t.s.MembersVersion); r != nil {
		return r
	}
	m := c.Member
	if r := checkMember(m); r != nil {
		return r
	}
	if name, ok := t.s.Retired[m.Store]; ok {
		return refuse(CodeRetiredStore, "store %s was removed from the group as %s; it can only join with a new, empty store", m.Store, name)
	}
	if old, ok := t.s.Members[m.Store]; ok {
		return refuse(CodeKnownStore, "store %s is already a member, named %s", m.Store, old.Name)
	}
	if old, ok := t.s.MemberByName(m.Name); ok {
		return refuse(CodeKnownName, "member %s exists with store %s: remove it first, then this one can join as new", m.Name, old.Store)
	}
	if len(t.s.Members) >= maxMembers {
		return refuse(CodeTooMany, "the group has %d members already, no more are possible", maxMembers)
	}
	m.Seeded = false
	if m.JoinedAt.IsZero() {
		m.JoinedAt = t.c.At
	}
	t.setMember(m)
	t.event("member-added", m.Store, SeverityInfo, "%s joined as %s", m.Name, m.Kind)
	return nil
}

func (t *tx) updateMember(c *UpdateMember) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	old := m
	if c.Address != "" {
		m.Address = c.Address
	}
	if c.HTTP != "" {
		m.HTTP = c.HTTP
	}
	if r := checkMember(m); r != nil {
		return r
	}
	if m != old {
		t.setMember(m)
		t.event("member-updated", m.Store, SeverityInfo, "%s is reached at %s", m.Name, m.Address)
	}
	return nil
}

func (t *tx) removeMember(c *RemoveMember) *refusal {
	if r := stale("list of members", c.Expect, t.s.MembersVersion); r != nil {
		return r
	}
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	if t.s.IsVoter(m.Store) {
		return refuse(CodeIsVoter, "%s has a WAL vote: take its vote first", m.Name)
	}
	if p := t.s.Voters.Proposed; p != nil && p.Store == m.Store {
		t.s.Voters.Proposed = nil
	}
	t.lose(func(j Job) bool { return j.Store == m.Store }, m.Name+" was removed from the group")
	t.unfeed(func(_, store string) bool { return store == m.Store })
	t.event("member-removed", m.Store, SeverityWarning, "%s was removed", m.Name)
	t.s.Members = without(t.s.Members, m.Store)
	t.s.MembersVersion++
	t.s.Retired = with(t.s.Retired, m.Store, m.Name)
	t.s.Leaving = without(t.s.Leaving, m.Store)
	t.s.Primary.Fence = without(t.s.Primary.Fence, m.Store)
	return nil
}

func (t *tx) setLedgerVote(c *SetLedgerVote) *refusal {
	m, r := t.member(c.Store)
	if r != nil || m.LedgerVoter == c.Voter {
		return r
	}
	if !c.Voter {
		n := 0
		for _, o := range t.s.Members {
			if o.LedgerVoter {
				n++
			}
		}
		if n == 1 {
			return refuse(CodeLastLedgerVoter, "%s has the only ledger vote", m.Name)
		}
	}
	m.LedgerVoter = c.Voter
	t.setMember(m)
	if c.Voter {
		t.event("ledger-vote", m.Store, SeverityInfo, "%s has a ledger vote", m.Name)
	} else {
		t.event("ledger-vote", m.Store, SeverityInfo, "%s has no ledger vote any more", m.Name)
	}
	return nil
}

func (t *tx) markSeeded(c *MarkSeeded) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	if m.Kind != KindData {
		return refuse(CodeNotData, "%s has no PostgreSQL that could be seeded", m.Name)
	}
	if m.Seeded == c.Seeded {
		return nil
	}
	m.Seeded = c.Seeded
	t.setMember(m)
	if c.Seeded {
		t.event("seeded", m.Store, SeverityInfo, "%s has a complete base", m.Name)
	} else {
		t.event("unseeded", m.Store, SeverityWarning, "%s has no usable base any more", m.Name)
	}
	return nil
}

// setVoters makes stores the next version of the voter set.
func (t *tx) setVoters(stores []string) {
	slices.Sort(stores)
	v := t.s.Voters
	t.s.Voters = Voters{Version: v.Version + 1, Stores: stores, Confirmed: v.Confirmed}
}

// settled refuses a voter change while another one is under way. At most one
// version is ever unconfirmed, and successive versions differ by one store, so
// that a majority of the recorded voters always meets every majority that the
// primary may count by.
func (t *tx) settled() *refusal {
	v := t.s.Voters
	if v.Confirmed != v.Version {
		return refuse(CodeUnconfirmed, "the primary has not confirmed yet that it counts by version %d of the WAL voters", v.Version)
	}
	if v.Proposed != nil {
		return refuse(CodeVoterPending, "a WAL vote for %s is already proposed", t.s.Members[v.Proposed.Store].Name)
	}
	return nil
}

func (t *tx) proposeVoter(c *ProposeVoter) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	if t.s.IsVoter(m.Store) {
		return refuse(CodeIsVoter, "%s already has a WAL vote", m.Name)
	}
	if r := t.settled(); r != nil {
		return r
	}
	if t.s.Primary.Phase != PhaseOpened {
		return refuse(CodeWrongPhase, "a WAL vote is given only while a primary is open")
	}
	t.s.Voters.Proposed = &VoteChange{Store: m.Store, At: c.Committed}
	t.event("voter-proposed", m.Store, SeverityInfo, "%s gets a WAL vote once it has everything up to %s", m.Name, c.Committed)
	return nil
}

func (t *tx) admitVoter(c *AdmitVoter) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	v := t.s.Voters
	if r := stale("set of WAL voters", c.VotersVersion, v.Version); r != nil {
		return r
	}
	if v.Proposed == nil || v.Proposed.Store != c.Store {
		return refuse(CodeNotProposed, "no WAL vote is proposed for %s", m.Name)
	}
	if t.s.Primary.Phase != PhaseOpened {
		return refuse(CodeWrongPhase, "a WAL vote is given only while a primary is open")
	}
	if c.Acked < v.Proposed.At {
		return refuse(CodeNotCaughtUp, "%s has acknowledged %s only, it needs %s for a WAL vote", m.Name, c.Acked, v.Proposed.At)
	}
	t.setVoters(append(slices.Clone(v.Stores), c.Store))
	t.event("voter-admitted", m.Store, SeverityInfo, "%s has a WAL vote", m.Name)
	return nil
}

func (t *tx) withdrawVoter() *refusal {
	p := t.s.Voters.Proposed
	if p == nil {
		return refuse(CodeNotProposed, "no WAL vote is proposed")
	}
	t.s.Voters.Proposed = nil
	t.event("voter-withdrawn", p.Store, SeverityInfo, "the WAL vote proposed for %s was given up", t.s.Members[p.Store].Name)
	return nil
}

func (t *tx) dropVoter(c *DropVoter) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	if !t.s.IsVoter(m.Store) {
		return refuse(CodeNotVoter, "%s has no WAL vote", m.Name)
	}
	if len(t.s.Voters.Stores) == 1 {
		return refuse(CodeLastVoter, "%s has the only WAL vote", m.Name)
	}
	if t.s.Primary.Store == m.Store {
		return refuse(CodeIsPrimary, "%s is the primary: move that role first", m.Name)
	}
	if r := t.settled(); r != nil {
		return r
	}
	stores := slices.DeleteFunc(slices.Clone(t.s.Voters.Stores), func(s string) bool { return s == m.Store })
	t.setVoters(stores)
	t.event("voter-dropped", m.Store, SeverityWarning, "%s has no WAL vote any more", m.Name)
	return nil
}

func (t *tx) confirmVoters(c *ConfirmVoters) *refusal {
	p := t.s.Primary
	if c.Epoch != p.Epoch {
		return refuse(CodeStaleEpoch, "the voters were confirmed in epoch %s, the present one is %s", c.Epoch, p.Epoch)
	}
	if p.Store == "" {
		return refuse(CodeWrongPhase, "there is no primary that could confirm the voters")
	}
	if r := stale("set of WAL voters", c.Version, t.s.Voters.Version); r != nil {
		return r
	}
	if t.s.Voters.Confirmed == c.Version {
		return nil
	}
	t.s.Voters.Confirmed = c.Version
	t.event("voters-confirmed", p.Store, SeverityInfo, "%s counts commits by %d WAL voters", p.Node, len(t.s.Voters.Stores))
	return nil
}
