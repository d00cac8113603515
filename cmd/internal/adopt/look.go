package adopt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

// directory refuses what holds no whole database.
func (l *look) directory(context.Context) error {
	st, err := l.s.State()
	switch {
	case err != nil:
		return refused("%w", err)
	case st == pgctl.Empty:
		return refused("postgresql.data_dir %s is empty; run init without --adopt to make a new database in it", l.s.DataDir)
	case st == pgctl.Seeding || st == pgctl.Rewinding:
		return refused("%s was being seeded or rewound by a daemon with this state_dir and is no whole database; let that daemon finish, or restore to an empty directory", l.s.DataDir)
	case st == pgctl.Foreign:
		return refused("postgresql.data_dir %s holds no PostgreSQL database; name the directory with PG_VERSION in it", l.s.DataDir)
	}
	for _, name := range []string{restore.MarkName, "backup_label", "tablespace_map"} {
		if _, err := os.Lstat(filepath.Join(l.s.DataDir, name)); err == nil {
			return refused("%s is a base backup that was never recovered (it has %s); bring it to its end with understudy restore, or start it once with the log that it needs, and stop it", l.s.DataDir, name)
		}
	}
	return nil
}

// owner refuses a directory that PostgreSQL would refuse.
func (l *look) owner(context.Context) error {
	fi, err := os.Stat(l.s.DataDir)
	if err != nil {
		return refused("%w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if ok && st.Uid != l.s.UID {
		return refused("%s belongs to user id %d, and PostgreSQL will run as %s; run: chown -R %s %s", l.s.DataDir, st.Uid, l.s.Name, l.s.Name, l.s.DataDir)
	}
	if fi.Mode().Perm()&0o027 != 0 {
		return refused("others than %s may enter or write %s, which PostgreSQL refuses; run: chmod 700 %s", l.s.Name, l.s.DataDir, l.s.DataDir)
	}
	if err := l.s.Reachable(l.s.DataDir); err != nil {
		return refused("%w", err)
	}
	return nil
}

// running refuses a directory on which a server runs or will, and a taken port.
func (l *look) running(context.Context) error {
	pid, err := restore.Postmaster(l.s.DataDir)
	if err != nil {
		return refused("%w", err)
	}
	if pid != 0 {
		return refused("PostgreSQL runs on %s (process %d); stop it first: %s/pg_ctl stop -m fast -D %s", l.s.DataDir, pid, l.s.BinDir, l.s.DataDir)
	}
	dir := filepath.Dir(l.s.ConfigFile())
	if dir != "." && dir != filepath.Clean(l.s.DataDir) && !disabled(dir) {
		return refused("pg_ctlcluster could start %s with the configuration in %s, past understudy, at the next boot or by hand; run: echo disabled > %s", l.s.DataDir, dir, filepath.Join(dir, "start.conf"))
	}
	if _, err := l.s.ForeignPostmaster(); err != nil {
		return refused("%w", err)
	}
	return nil
}

// restored refuses a restore of ours that has not come to its end.
func (l *look) restored(context.Context) error {
	s, err := recover.Inspect(l.s.DataDir)
	switch {
	case errors.Is(err, recover.ErrNoRestore):
		return nil
	case err != nil:
		return refused("%w", err)
	case s.Step != recover.Finished:
		return refused("a restore to %s was interrupted at the step %s; repeat its command first", l.s.DataDir, s.Step)
	case s.Plan.Aim.Action == recover.Shutdown:
		return refused("the restore to %s stopped at its target without opening the database; repeat its command with --promote first", l.s.DataDir)
	}
	l.p.Restored = s.Plan.Label
	return nil
}

// standby refuses a database that follows another one, which may live.
func (l *look) standby(context.Context) error {
	for _, name := range []string{"standby.signal", "recovery.signal", "recovery.conf"} {
		if _, err := os.Lstat(filepath.Join(l.s.DataDir, name)); err == nil {
			return refused("%s is set up to follow or to recover (it has %s); if no other server goes on with its database, start it, promote it with pg_ctl promote, and stop it", l.s.DataDir, name)
		}
	}
	return nil
}

// control refuses a database that was not stopped in the regular way as a
// primary.
func (l *look) control(ctx context.Context) error {
	c, err := l.s.Control(ctx)
	if err != nil {
		return refused("%w", err)
	}
	l.ctl = c
	switch {
	case strings.Contains(c.State, "recovery") && c.State != "in crash recovery":
		return refused("%s was last a standby (%s); if no other server goes on with its database, start it, promote it with pg_ctl promote, and stop it", l.s.DataDir, c.State)
	case !c.CleanShutdown():
		return refused("%s was not stopped in the regular way (%s); start it once and stop it: %s/pg_ctl stop -m fast -D %s", l.s.DataDir, c.State, l.s.BinDir, l.s.DataDir)
	case c.BlockSize != pageSize:
		return refused("%s has pages of %d bytes; understudy works with %d only", l.s.DataDir, c.BlockSize, pageSize)
	}
	p := l.p
	p.SystemID, p.Timeline, p.StoppedAt, p.SegSize, p.Checksums = c.SystemID, c.Timeline, c.Checkpoint, c.SegSize, c.DataChecksums
	return nil
}

// pageSize is the only size of a page that is known here.
const pageSize = 8192

// group refuses the database of a node that may have a living group. Its mark is
// the managed configuration, which lies in that node's own state.
func (l *look) group(context.Context) error {
	conf := l.s.ManagedBy()
	if conf == "" || filepath.Dir(conf) == filepath.Clean(l.s.StateDir) {
		return nil // never managed, or by this node, whose own state is looked at
	}
	state := filepath.Dir(filepath.Dir(conf))
	m, err := spool.Peek(filepath.Join(state, "spool"))
	if err != nil {
		return nil // of a host that is not here
	}
	return refused("%s is the database of a node of group %s with its state in %s; start that node's daemon, or, if its group is gone for good, move %s away", l.s.DataDir, m.Group, state, state)
}

// log refuses a database without the log from which its first start begins.
func (l *look) log(context.Context) error {
	name := pos.SegName(l.ctl.Timeline, l.ctl.Redo, l.ctl.SegSize)
	fi, err := os.Stat(filepath.Join(l.s.DataDir, "pg_wal", name))
	if err != nil || fi.Size() != l.ctl.SegSize {
		return refused("the segment %s, in which the database was stopped, is not whole in %s/pg_wal; bring the directory back as it was when it was stopped", name, l.s.DataDir)
	}
	return nil
}

// history reads where the database comes from. The epochs are of before all
// groups.
func (l *look) history(context.Context) error {
	lines, err := l.s.History(l.ctl.Timeline)
	if err != nil {
		return refused("%w", err)
	}
	if len(lines) == 0 {
		return nil
	}
	at := pos.LSN(0)
	var out pos.Lineage
	add := func(t pos.Timeline, from pos.LSN) {
		out = append(out, pos.Entry{Epoch: pos.Epoch{Num: uint64(len(out) + 1)}, Timeline: t, Start: from})
	}
	for _, h := range lines {
		add(h.Timeline, at)
		at = h.End
	}
	add(l.ctl.Timeline, at)
	if err := out.Validate(); err != nil {
		return refused("the history of timeline %d in pg_wal: %w", l.ctl.Timeline, err)
	}
	l.p.Lineage = out
	return nil
}

// tree measures the database, and refuses what the account could not use.
func (l *look) tree(ctx context.Context) error {
	places, err := restore.LinkedTablespaces(l.s.DataDir)
	if err != nil {
		return refused("%w", err)
	}
	dirs := []string{l.s.DataDir}
	for _, pl := range places {
		if fi, err := os.Stat(pl.Dir); err != nil || !fi.IsDir() {
			return refused("tablespace %d of %s points to %s, which is no directory here; put it back, or mount its disk", pl.OID, l.s.DataDir, pl.Dir)
		}
		l.p.Spaces = append(l.p.Spaces, pl.Dir)
		dirs = append(dirs, pl.Dir)
	}
	if wal, err := filepath.EvalSymlinks(filepath.Join(l.s.DataDir, "pg_wal")); err == nil && wal != filepath.Join(l.s.DataDir, "pg_wal") {
		dirs = append(dirs, wal)
	}
	for _, dir := range dirs {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			err = filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error { return l.measure(ctx, path, d, err) })
		}
		if err != nil {
			return refused("%w", err)
		}
	}
	return nil
}

func (l *look) measure(ctx context.Context, path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	fi, err := d.Info()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != l.s.UID && d.Type()&fs.ModeSymlink == 0 && d.Name() != "lost+found" {
		return fmt.Errorf("%s belongs to user id %d, and PostgreSQL will run as %s; run: chown -R %s %s", path, st.Uid, l.s.Name, l.s.Name, l.s.DataDir)
	}
	if fi.Mode().IsRegular() {
		l.p.FileN++
		l.p.Bytes += fi.Size()
	}
	return nil
}

// settings refuses those that fight with what understudy decides.
func (l *look) settings(context.Context) error {
	conf := l.s.ConfigFile()
	if conf == "" {
		return refused("%s has no postgresql.conf, and no distribution keeps one for it in /etc/postgresql; put the file there that its server was run with (an empty one means PostgreSQL's defaults)", l.s.DataDir)
	}
	if filepath.Dir(conf) != filepath.Clean(l.s.DataDir) {
		l.p.Settings = conf
	} else if d := l.set["data_directory"]; d != "" && filepath.Clean(d) != filepath.Clean(l.s.DataDir) {
		return refused("%s says that the data is in %s; take data_directory out, or name that directory as postgresql.data_dir", conf, d)
	}
	for name, value := range l.s.FileSettings() {
		// Managed by nobody, and read by every standby that is made from here.
		if value != "" && (strings.HasPrefix(name, "recovery_target") && name != "recovery_target_timeline" && name != "recovery_target_action" && name != "recovery_target_inclusive" || name == "recovery_end_command") {
			return refused("%s sets %s, with which no standby of this database would follow to the end; take it out", conf, name)
		}
	}
	if l.archiving() && !l.o.KeepArchiving {
		return refused("another tool archives the log of this database (archive_mode is on, archive_command or archive_library is set); set archive_mode = off in %s when the group's backups replace it, or keep both with --keep-archiving", conf)
	}
	return nil
}

// disabled tells whether the distribution's tools refuse to start the database
// whose configuration they keep in a folder.
func disabled(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "start.conf"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), "#"); strings.TrimSpace(word) != "" {
			return strings.TrimSpace(word) == "disabled"
		}
	}
	return false
}

// slots are the replication slots of the database, by name, without ours.
func (l *look) slots() (out []string) {
	entries, err := os.ReadDir(filepath.Join(l.s.DataDir, "pg_replslot"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != floorSlot {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// floorSlot is the slot of a group's own, which goes on as it is.
const floorSlot = "understudy_floor"
