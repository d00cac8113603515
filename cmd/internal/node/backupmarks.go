package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
)

// markPlan is what an action that is done at once says to the ledger; Command is
// nil when there is nothing to say.
type markPlan struct {
	doc.Mark
	command *facts.Command
	seen    func(facts.State) bool // by this node's copy of the ledger
}

// markBackups carries out an action that is done at once.
func (n *Node) markBackups(ctx context.Context, st facts.State, action string, args map[string]string) (doc.Mark, error) {
	if action == doc.ActionLocationInit {
		return n.initLocation(st, args)
	}
	p, err := planMark(st, action, args)
	if err != nil || p.command == nil || args["dry_run"] == "true" {
		return p.Mark, err
	}
	if err := n.propose(ctx, *p.command); err != nil {
		return doc.Mark{}, err
	}
	version := n.ledger.State().Version
	n.await(ctx, func(st facts.State) bool {
		if p.seen != nil {
			return p.seen(st)
		}
		return st.Version > version
	})
	return p.Mark, nil
}

// planMark says what an action changes, or refuses it in one sentence.
func planMark(st facts.State, action string, args map[string]string) (markPlan, error) {
	switch action {
	case doc.ActionCancel:
		return planCancel(st, args)
	case doc.ActionPin, doc.ActionUnpin:
		return planPin(st, action, args)
	case doc.ActionNote:
		return planNote(st, args)
	case doc.ActionFreeze:
		return planFreeze(st, args)
	case doc.ActionThaw:
		return planThaw(st, args)
	case doc.ActionCloseGap:
		return planCloseGap(st, args)
	}
	return markPlan{}, badArgument("%q marks nothing.", action)
}

func said(action, format string, args ...any) markPlan {
	return markPlan{Mark: doc.Mark{Action: action, Sentence: fmt.Sprintf(format, args...)}}
}

func changes(action string, c facts.Command, format string, args ...any) markPlan {
	p := said(action, format, args...)
	p.Changed, p.command = true, &c
	return p
}

func planCancel(st facts.State, args map[string]string) (markPlan, error) {
	id := args["id"]
	j, ok := st.Job(id)
	switch {
	case !ok:
		return markPlan{}, &admin.ActionError{Code: admin.CodeUnknownJob, Text: fmt.Sprintf("No job has the id %.40q; list them with: understudy jobs", id)}
	case j.State != facts.JobRunning:
		return said(doc.ActionCancel, "Job %s had ended already: it is %s.", id, j.State), nil
	case j.Cancel != "":
		return said(doc.ActionCancel, "Job %s is to end already: %s.", id, j.Cancel), nil
	}
	why := args["why"]
	if why == "" {
		why = "cancelled by the operator"
	}
	p := changes(doc.ActionCancel, facts.Command{CancelJob: &facts.CancelJob{ID: id, Why: why}},
		"%s is told to end the %s %s; it cleans up what it began, and understudy jobs %s shows when it has ended.", j.Node, j.Kind, id, id)
	p.seen = func(st facts.State) bool {
		j, ok := st.Job(id)
		return !ok || j.State != facts.JobRunning || j.Cancel != ""
	}
	return p, nil
}

// knownSet refuses a label that no set has.
func knownSet(st facts.State, label string) error {
	c, _ := st.Catalog(facts.ProfilePostgres)
	if _, ok := c.Sets[label]; !ok {
		return &admin.ActionError{Code: admin.CodeUnknownSet, Text: fmt.Sprintf("No set has the label %.40q; list them with: understudy sets", label)}
	}
	return nil
}

func planPin(st facts.State, action string, args map[string]string) (markPlan, error) {
	label, pin := args["label"], action == doc.ActionPin
	if err := knownSet(st, label); err != nil {
		return markPlan{}, err
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	if c.Sets[label].Pinned == pin {
		return said(action, "Set %s was %s already.", label, map[bool]string{true: "pinned", false: "not pinned"}[pin]), nil
	}
	text := "Set %s is pinned: it is kept until understudy sets unpin %[1]s."
	if !pin {
		text = "Set %s is not pinned any more: the retention of its locations decides about it."
	}
	p := changes(action, facts.Command{MarkSet: &facts.MarkSet{Profile: facts.ProfilePostgres, Label: label, Pinned: &pin}}, text, label)
	p.seen = func(st facts.State) bool {
		c, _ := st.Catalog(facts.ProfilePostgres)
		return c.Sets[label].Pinned == pin
	}
	return p, nil
}

func planNote(st facts.State, args map[string]string) (markPlan, error) {
	label, notes := args["label"], notesOf(args)
	if err := knownSet(st, label); err != nil {
		return markPlan{}, err
	}
	if len(notes) == 0 {
		return markPlan{}, badArgument("a note is an argument such as note.reason with its text.")
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	differ := false
	for k, v := range notes {
		differ = differ || c.Sets[label].Notes[k] != v
	}
	if !differ {
		return said(doc.ActionNote, "Set %s had these notes already.", label), nil
	}
	return changes(doc.ActionNote, facts.Command{MarkSet: &facts.MarkSet{Profile: facts.ProfilePostgres, Label: label, Notes: notes}}, "Noted on set %s.", label), nil
}

func planFreeze(st facts.State, args map[string]string) (markPlan, error) {
	why := args["why"]
	if why == "" {
		return markPlan{}, badArgument("why must be the reason; it is recorded and shown.")
	}
	if f := st.Backups.Frozen; f != nil {
		return said(doc.ActionFreeze, "It was forbidden already to delete backups: %s.", f.Why), nil
	}
	p := changes(doc.ActionFreeze, facts.Command{SetFreeze: &facts.SetFreeze{Frozen: true, Why: why}},
		"No backup is deleted from now on, until understudy ledger thaw. Locations may fill up: look at understudy locations.")
	p.seen = func(st facts.State) bool { return st.Backups.Frozen != nil }
	return p, nil
}

func planThaw(st facts.State, args map[string]string) (markPlan, error) {
	if st.Backups.Frozen == nil {
		text := "Nobody had forbidden to delete backups."
		if why := st.PruneFrozen(facts.ProfilePostgres); why != "" {
			text += " Nothing is deleted all the same: " + why + "."
		}
		return said(doc.ActionThaw, "%s", text), nil
	}
	p := changes(doc.ActionThaw, facts.Command{SetFreeze: &facts.SetFreeze{Why: args["why"]}}, "Backups that the retention lets go are deleted again.")
	p.seen = func(st facts.State) bool { return st.Backups.Frozen == nil }
	return p, nil
}

func planCloseGap(st facts.State, args map[string]string) (markPlan, error) {
	name := args["name"]
	timeline, terr := strconv.ParseUint(args["timeline"], 10, 32)
	from, ferr := pos.ParseLSN(args["from"])
	given := args["given_up"]
	if terr != nil || ferr != nil || given != "" && given != "true" {
		return markPlan{}, badArgument("timeline must be a number, from an LSN such as 0/3000000, and given_up true or absent.")
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	gaps := c.Places[name].Gaps
	i := slices.IndexFunc(gaps, func(g catalog.Gap) bool { return g.Timeline == pos.Timeline(timeline) && g.From == from })
	switch {
	case i < 0:
		return markPlan{}, refusedAction(fmt.Sprintf("no gap is recorded at %q that begins at %s of timeline %d; list them with: understudy locations", name, from, timeline))
	case given != "" && args["why"] == "":
		return markPlan{}, badArgument("giving a gap up needs a reason in why.")
	}
	text := "The gap of %s from %s to %s is off the record."
	if given != "" {
		text = "The gap of %s from %s to %s is given up: what lies in it cannot be restored from there."
	}
	return changes(doc.ActionCloseGap, facts.Command{CloseGap: &facts.CloseGap{
		Profile: facts.ProfilePostgres, Location: name, Timeline: pos.Timeline(timeline), From: from, GivenUp: given != "", Why: args["why"],
	}}, text, name, from, gaps[i].To), nil
}

// initLocation makes the directory of a local location of this node, or only
// says what that would do.
func (n *Node) initLocation(st facts.State, args map[string]string) (doc.Mark, error) {
	name := args["name"]
	p, ok := st.Policy.Locations[name]
	switch {
	case !ok:
		return doc.Mark{}, &admin.ActionError{Code: admin.CodeUnknownLocation, Text: fmt.Sprintf("The policy has no location %.40q; add it first with: understudy policy apply FILE", name)}
	case p.Kind != facts.LocationLocal:
		return doc.Mark{}, refusedAction(fmt.Sprintf("location %s is of kind %s; only a local directory has to be made", name, p.Kind))
	case p.Node != n.cfg.Name:
		return doc.Mark{}, refusedAction(fmt.Sprintf("location %s is a directory of %s; run this there", name, p.Node))
	}
	dataDir := ""
	if n.server != nil {
		dataDir = n.server.DataDir
	}
	m, err := describeInit(name, p.Path, dataDir)
	if err != nil || !m.Changed || args["dry_run"] == "true" {
		return m, err
	}
	if err := local.Init(p.Path); err != nil {
		return doc.Mark{}, refusedAction(err.Error())
	}
	m.Sentence = fmt.Sprintf("%s is location %s now; the log goes there within seconds, and a full backup follows.", p.Path, name)
	n.log.Info("made a location", "location", name, "path", p.Path)
	return m, nil
}

// describeInit says what making a location would do.
func describeInit(name, path, dataDir string) (doc.Mark, error) {
	m := doc.Mark{Action: doc.ActionLocationInit}
	if _, err := os.Lstat(filepath.Join(path, local.Marker)); err == nil {
		m.Sentence = fmt.Sprintf("%s is a location already.", path)
		return m, nil
	}
	m.Changed = true
	on, text := path, ""
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		on = filepath.Dir(path)
		if _, err := os.Stat(on); err != nil {
			return doc.Mark{}, refusedAction(fmt.Sprintf("%s is not there: is its disk mounted? Make that folder first", on))
		}
		text = fmt.Sprintf("The directory %s is made for location %s", path, name)
	case errors.Is(err, syscall.ENOTDIR):
		return doc.Mark{}, refusedAction(path + " is no directory")
	case err != nil:
		return doc.Mark{}, refusedAction(fmt.Sprintf("%s cannot be read: %v", path, err))
	case len(entries) > 0:
		text = fmt.Sprintf("The directory %s becomes location %s; it is not empty (%d entries), and they stay", path, name, len(entries))
	default:
		text = fmt.Sprintf("The empty directory %s becomes location %s", path, name)
	}
	free, same := roomAt(on, dataDir)
	m.Sentence = text + free + "."
	if same {
		m.Sentence += " It is on the file system of the database: a disk that dies takes both."
	}
	return m, nil
}

// roomAt says what is free at a directory, and whether the database lies on the
// same file system.
func roomAt(dir, dataDir string) (free string, same bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		free = fmt.Sprintf(", with %.1f GiB free", float64(fs.Bavail)*float64(fs.Bsize)/(1<<30))
	}
	var a, b unix.Stat_t
	if dataDir != "" && unix.Stat(dir, &a) == nil && unix.Stat(dataDir, &b) == nil {
		same = a.Dev == b.Dev
	}
	return free, same
}
