package facts

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/shipper/catalog"
)

// The bounds of a catalog.
const (
	maxSets      = 1024
	maxSetNotes  = 16
	maxNoteBytes = 512
	maxHexDigest = 128
)

func (t *tx) recordSet(c *RecordSet) *refusal {
	j, r := t.job(c.Job, JobBackup)
	if r != nil {
		return r
	}
	set := c.Set
	if t.insteadFull(&j, set) {
		t.s.Backups.Jobs = with(t.s.Backups.Jobs, j.ID, j)
	}
	if set.Label != j.Label {
		return refuse(CodeNotYourJob, "the job takes set %s, not %q", j.Label, clip(set.Label))
	}
	cat, r := t.profile(j.Profile)
	if r != nil {
		return r
	}
	if r := checkSet(set); r != nil {
		return r
	}
	old, known := cat.Sets[set.Label]
	switch {
	case known && old.State != catalog.SetRunning:
		return refuse(CodeKnownSet, "set %s is %s already", set.Label, old.State)
	case !known && set.State != catalog.SetRunning:
		return refuse(CodeUnknownSet, "set %s was never said to be running", set.Label)
	case !known && len(cat.Sets) >= maxSets:
		return refuse(CodeTooMany, "%d sets are known already", maxSets)
	case set.Parent != j.Parent:
		return refuse(CodeNotYourJob, "the job builds its set on %q, not %q", j.Parent, clip(set.Parent))
	}
	if r := knownTimeline(cat, set.Timeline); r != nil {
		return r
	}
	set.Node, set.Pinned, set.Gold, set.Notes, set.Copies = j.Node, old.Pinned, old.Gold, old.Notes, old.Copies
	if !known {
		set.Notes = j.Notes
		set.Copies = map[string]catalog.Copy{}
		for _, l := range j.Locations {
			set.Copies[l] = catalog.Copy{State: catalog.CopyWriting, At: t.c.At}
		}
	}
	if set.Began.IsZero() {
		set.Began = j.Began
	}
	if set.State == catalog.SetComplete {
		if completeCopies(set, "") == 0 {
			return refuse(CodeNotComplete, "no location has a complete copy of set %s", set.Label)
		}
		set.Problem = ""
	}
	t.putSet(cat, set)
	t.eventSet(set)
	return nil
}

// insteadFull lets a job that was to take an incremental set, and has not begun
// one, take the full set of the same second.
func (t *tx) insteadFull(j *Job, set catalog.Set) bool {
	cat, _ := t.s.Catalog(j.Profile)
	if _, begun := cat.Sets[j.Label]; begun || j.Parent == "" || set.Parent != "" || set.Label != fullLabel(j.Label) {
		return false
	}
	if _, taken := cat.Sets[set.Label]; taken {
		return false
	}
	j.Label, j.Parent = set.Label, ""
	return true
}

// fullLabel is the label of the full set that is taken in the place of an
// incremental one.
func fullLabel(label string) string {
	if label == "" {
		return ""
	}
	return label[:len(label)-1] + "F"
}

func (t *tx) eventSet(set catalog.Set) {
	severity, text := SeverityInfo, ""
	switch set.State {
	case catalog.SetRunning:
		text = fmt.Sprintf("set %s is being taken from timeline %d at %s%s", set.Label, set.Timeline, set.Start, builtOn(set))
	case catalog.SetFailed:
		severity, text = SeverityError, fmt.Sprintf("set %s failed%s", set.Label, because(set.Problem))
	case catalog.SetComplete:
		text = fmt.Sprintf("set %s is complete: %s to %s on timeline %d, %d bytes, digest %s%s", set.Label, set.Start, set.End, set.Timeline, set.Bytes, set.Digest, builtOn(set))
		if set.Damaged {
			severity, text = SeverityError, text+"; pages of the database were damaged, nothing is pruned until a sound set is complete"
		}
	}
	t.events = append(t.events, Event{Kind: "set-" + string(set.State), Node: set.Node, Severity: severity, Text: text})
}

func builtOn(set catalog.Set) string {
	if set.Parent == "" {
		return ""
	}
	return ", built on " + set.Parent
}

// checkSet refuses a set whose fields cannot be right.
func checkSet(set catalog.Set) *refusal {
	switch set.State {
	case catalog.SetRunning, catalog.SetFailed:
	case catalog.SetComplete:
		if set.Digest == "" || set.End < set.Start || set.Start == 0 {
			return refuse(CodeBadCommand, "a complete set has a digest, and an end at or beyond its start")
		}
		if set.Ended.IsZero() || set.Ended.Before(set.Began) {
			return refuse(CodeBadCommand, "a complete set ended after it began")
		}
	default:
		return refuse(CodeBadCommand, "%q is no state of a set", clip(string(set.State)))
	}
	switch {
	case !setLabel.MatchString(set.Label):
		return refuse(CodeBadCommand, "%q is no label of a set", clip(set.Label))
	case set.Parent != "" && (!setLabel.MatchString(set.Parent) || set.Parent == set.Label):
		return refuse(CodeBadCommand, "set %s cannot be built on %q", set.Label, clip(set.Parent))
	case len(set.Problem) > maxTextBytes || len(set.Digest) > maxHexDigest || len(set.Node) > maxNameBytes:
		return refuse(CodeBadCommand, "what is said of set %s is too long", set.Label)
	case set.Bytes < 0 || set.RawBytes < 0:
		return refuse(CodeBadCommand, "set %s has a negative size", set.Label)
	}
	return nil
}

// copyOf finds a set and its copy at a location.
func (t *tx) copyOf(profile, label, location string) (catalog.Catalog, catalog.Set, catalog.Copy, *refusal) {
	c, r := t.profile(profile)
	if r != nil {
		return c, catalog.Set{}, catalog.Copy{}, r
	}
	set, ok := c.Sets[label]
	if !ok {
		return c, set, catalog.Copy{}, refuse(CodeUnknownSet, "no set has the label %q", clip(label))
	}
	return c, set, set.Copies[location], nil
}

func (t *tx) putCopy(c catalog.Catalog, set catalog.Set, location string, cp catalog.Copy) {
	set.Copies = with(set.Copies, location, cp)
	t.putSet(c, set)
}

func (t *tx) recordCopy(c *RecordCopy) *refusal {
	j, r := t.job(c.Job, JobBackup, JobFill, JobVerify)
	if r != nil {
		return r
	}
	if j.Kind == JobBackup && j.Label != c.Label {
		return refuse(CodeNotYourJob, "the job takes set %s, not %q", j.Label, clip(c.Label))
	}
	if !slices.Contains(j.Locations, c.Location) {
		return refuse(CodeNotYourJob, "the job is not about location %q", clip(c.Location))
	}
	if _, ok := t.s.Policy.Locations[c.Location]; !ok {
		return refuse(CodeUnknownLocation, "the policy has no location %s any more", c.Location)
	}
	if len(c.Problem) > maxTextBytes {
		return refuse(CodeBadCommand, "the problem of a copy has at most %d bytes", maxTextBytes)
	}
	cat, set, cp, r := t.copyOf(j.Profile, c.Label, c.Location)
	switch {
	case r != nil:
		return r
	case cp.State == catalog.CopyRemoving:
		return refuse(CodeRemoving, "the copy of set %s at %s is being deleted", c.Label, c.Location)
	case set.State == catalog.SetFailed:
		return refuse(CodeNotComplete, "set %s has failed", c.Label)
	case j.Kind == JobFill && set.State != catalog.SetComplete:
		return refuse(CodeNotComplete, "set %s is still being taken", c.Label)
	case cp.State == c.State && cp.Problem == c.Problem:
		return nil
	}
	if r := t.turnsTo(j, set, cp, c); r != nil {
		return r
	}
	t.putCopy(cat, set, c.Location, catalog.Copy{State: c.State, At: t.c.At, Verified: verifiedAs(cp, c.State), Problem: c.Problem})
	switch c.State {
	case catalog.CopyComplete:
		t.event("copy-complete", j.Store, SeverityInfo, "set %s is complete at %s", c.Label, c.Location)
	case catalog.CopyDamaged:
		t.event("copy-damaged", j.Store, SeverityError, "set %s at %s is damaged%s", c.Label, c.Location, because(c.Problem))
	}
	return nil
}

// verifiedAs keeps the time of the last proof only of a copy that stays whole.
func verifiedAs(cp catalog.Copy, to catalog.CopyState) (at time.Time) {
	if cp.State == catalog.CopyComplete && to == catalog.CopyComplete {
		return cp.Verified
	}
	return at
}

// turnsTo refuses a step of a copy that makes no sense: writing comes first,
// over nothing or over damage, and what was complete is written anew only when
// it was damaged.
func (t *tx) turnsTo(j Job, set catalog.Set, cp catalog.Copy, c *RecordCopy) *refusal {
	ok := false
	switch c.State {
	case catalog.CopyWriting:
		ok = j.Kind != JobVerify && (cp.State == "" || cp.State == catalog.CopyDamaged || cp.State == catalog.CopyWriting)
	case catalog.CopyComplete:
		ok = j.Kind != JobVerify && cp.State == catalog.CopyWriting
	case catalog.CopyDamaged:
		ok = cp.State == catalog.CopyComplete || cp.State == catalog.CopyDamaged
	}
	if !ok {
		return refuse(CodeUnknownCopy, "the copy of set %s at %s is %q: a %s cannot make it %q", set.Label, c.Location, cp.State, j.Kind, clip(string(c.State)))
	}
	return nil
}

func (t *tx) recordVerified(c *RecordVerified) *refusal {
	j, r := t.job(c.Job, JobVerify, JobDrill, JobRestore, JobFill)
	if r != nil {
		return r
	}
	if len(c.Problem) > maxTextBytes {
		return refuse(CodeBadCommand, "the problem of a copy has at most %d bytes", maxTextBytes)
	}
	cat, set, cp, r := t.copyOf(j.Profile, c.Label, c.Location)
	switch {
	case r != nil:
		return r
	case cp.State == catalog.CopyRemoving:
		return refuse(CodeRemoving, "the copy of set %s at %s is being deleted", c.Label, c.Location)
	case cp.State != catalog.CopyComplete && cp.State != catalog.CopyDamaged:
		return refuse(CodeUnknownCopy, "there is no whole copy of set %s at %s", c.Label, c.Location)
	}
	if !c.OK {
		if cp.State == catalog.CopyComplete || cp.Problem != c.Problem {
			t.putCopy(cat, set, c.Location, catalog.Copy{State: catalog.CopyDamaged, At: t.c.At, Problem: c.Problem})
			t.event("copy-damaged", j.Store, SeverityError, "set %s at %s is damaged%s", c.Label, c.Location, because(c.Problem))
		}
		return nil
	}
	if cp.State == catalog.CopyDamaged {
		cp.State, cp.At, cp.Problem = catalog.CopyComplete, t.c.At, ""
	}
	cp.Verified = t.c.At
	t.putCopy(cat, set, c.Location, cp)
	t.event("copy-verified", j.Store, SeverityInfo, "every byte of set %s at %s was proven", c.Label, c.Location)
	return nil
}

func (t *tx) markSet(c *MarkSet) *refusal {
	cat, r := t.profile(c.Profile)
	if r != nil {
		return r
	}
	set, ok := cat.Sets[c.Label]
	if !ok {
		return refuse(CodeUnknownSet, "no set has the label %q", clip(c.Label))
	}
	notes := maps.Clone(set.Notes)
	for k, v := range c.Notes {
		if badNote(k, v) {
			return refuse(CodeBadCommand, "a note has a name without blanks and a text of at most %d bytes", maxNoteBytes)
		}
		if v == "" {
			delete(notes, k)
			continue
		}
		if notes == nil {
			notes = map[string]string{}
		}
		notes[k] = v
	}
	if len(notes) > maxSetNotes {
		return refuse(CodeTooMany, "a set has at most %d notes", maxSetNotes)
	}
	if len(notes) == 0 {
		notes = nil
	}
	said := t.markFlags(&set, c)
	if !maps.Equal(notes, set.Notes) {
		set.Notes = notes
		said = append(said, "annotated")
	}
	if len(said) == 0 {
		return nil
	}
	t.putSet(cat, set)
	for _, s := range said {
		t.event("set-"+s, "", SeverityInfo, "set %s was %s", c.Label, s)
	}
	return nil
}

// markFlags changes what of a set is yes or no, and says what changed.
func (t *tx) markFlags(set *catalog.Set, c *MarkSet) (said []string) {
	if c.Pinned != nil && *c.Pinned != set.Pinned {
		set.Pinned = *c.Pinned
		said = append(said, map[bool]string{true: "pinned", false: "unpinned"}[*c.Pinned])
	}
	if c.Gold != nil && *c.Gold != set.Gold {
		set.Gold = *c.Gold
		said = append(said, map[bool]string{true: "gilded", false: "ungilded"}[*c.Gold])
	}
	return said
}

func (t *tx) removeCopy(c *RemoveCopy) *refusal {
	j, r := t.job(c.Job, JobPrune)
	if r != nil {
		return r
	}
	if !slices.Contains(j.Locations, c.Location) {
		return refuse(CodeNotYourJob, "the job is not about location %q", clip(c.Location))
	}
	cat, set, cp, r := t.copyOf(j.Profile, c.Label, c.Location)
	switch {
	case r != nil:
		return r
	case cp.State == "":
		return refuse(CodeUnknownCopy, "there is no copy of set %s at %s", c.Label, c.Location)
	case c.Gone && cp.State != catalog.CopyRemoving:
		return refuse(CodeUnknownCopy, "the copy of set %s at %s was not said to be deleted", c.Label, c.Location)
	case !c.Gone && cp.State == catalog.CopyRemoving:
		return nil
	}
	if c.Gone {
		set.Copies = without(set.Copies, c.Location)
		if len(set.Copies) > 0 {
			t.putSet(cat, set)
		} else {
			t.forgetSet(cat, set)
		}
		t.s.Backups.Removals++
		t.event("copy-gone", j.Store, SeverityInfo, "set %s was deleted at %s", c.Label, c.Location)
		return nil
	}
	if r := t.mayGo(cat, set, cp, c.Location); r != nil {
		return r
	}
	cp.State, cp.At = catalog.CopyRemoving, t.c.At
	t.putCopy(cat, set, c.Location, cp)
	t.s.Backups.Removals++
	t.event("copy-removing", j.Store, SeverityInfo, "set %s is deleted at %s", c.Label, c.Location)
	return nil
}

func (t *tx) forgetSet(cat catalog.Catalog, set catalog.Set) {
	cat.Sets = without(cat.Sets, set.Label)
	t.putCatalog(cat)
}

// mayGo refuses to delete what the operator keeps, what somebody uses, and the
// last thing there is to restore from.
func (t *tx) mayGo(cat catalog.Catalog, set catalog.Set, cp catalog.Copy, location string) *refusal {
	if t.s.Policy.Locations[location].Disabled {
		return refuse(CodeLocationDisabled, "location %s is disabled", location)
	}
	if why := t.s.PruneFrozen(cat.Profile); why != "" {
		return refuse(CodeFrozen, "nothing is pruned now: %s", why)
	}
	if set.State == catalog.SetRunning {
		return refuse(CodeInUse, "set %s is being taken", set.Label)
	}
	if j, used := t.s.inUse(cat.Profile, set.Label); used {
		return refuse(CodeInUse, "set %s is used by the %s %s on %s", set.Label, j.Kind, j.ID, j.Node)
	}
	if child := cat.BuiltOn(set.Label, location); child != "" {
		return refuse(CodeNeeded, "set %s is built on %s, and goes first", child, set.Label)
	}
	if set.State != catalog.SetComplete || cp.State != catalog.CopyComplete {
		return nil // nothing can be restored from it
	}
	here := 0
	for _, o := range cat.Sets {
		if o.State == catalog.SetComplete && o.Copies[location].State == catalog.CopyComplete {
			here++
		}
	}
	last := completeCopies(set, location) == 0
	switch {
	case set.Pinned:
		return refuse(CodePinned, "set %s is pinned: it stays wherever it is", set.Label)
	case set.Gold && last:
		return refuse(CodePinned, "set %s is gold, and its copy at %s is the only one", set.Label, location)
	case here == 1:
		return refuse(CodeLastCopy, "set %s is the last one at %s", set.Label, location)
	}
	return nil
}

func (t *tx) removeSet(c *RemoveSet) *refusal {
	j, r := t.job(c.Job, JobPrune)
	if r != nil {
		return r
	}
	cat, set, _, r := t.copyOf(j.Profile, c.Label, "")
	switch {
	case r != nil:
		return r
	case set.State == catalog.SetRunning:
		return refuse(CodeInUse, "set %s is being taken", c.Label)
	case len(set.Copies) > 0:
		return refuse(CodeNeeded, "set %s has %d copies: they are deleted first", c.Label, len(set.Copies))
	}
	t.forgetSet(cat, set)
	t.event("set-forgotten", j.Store, SeverityInfo, "set %s is not kept any more", c.Label)
	return nil
}

func badNote(name, text string) bool {
	return !plain(name) || len(name) > maxNoteBytes || len(text) > maxNoteBytes
}

// badNotes tells whether notes are none that a set could have.
func badNotes(notes map[string]string) bool {
	for k, v := range notes {
		if badNote(k, v) {
			return true
		}
	}
	return len(notes) > maxSetNotes
}
