package hook_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/failover/hook"
)

// tree is where a row of TestRunner_Trust builds its hook.
type tree struct {
	t   *testing.T
	dir string
}

func (b tree) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// folder makes a folder with exactly that mode below the tree.
func (b tree) folder(name string, mode os.FileMode) string {
	p := filepath.Join(b.dir, name)
	b.must(os.MkdirAll(p, 0o755))
	b.must(os.Chmod(p, mode))
	return p
}

// hook makes a hook that succeeds.
func (b tree) hook(name string, mode os.FileMode) string {
	p := script(b.t, filepath.Join(b.dir, filepath.Dir(name)), filepath.Base(name), "true")
	b.must(os.Chmod(p, mode))
	return p
}

func (b tree) link(to, name string) string {
	p := filepath.Join(b.dir, name)
	b.must(os.Symlink(to, p))
	return p
}

func (b tree) give(path string, uid int) string {
	if os.Geteuid() != 0 {
		b.t.Skip("only root can give files away")
	}
	b.must(os.Lchown(path, uid, uid))
	return path
}

const stranger = 54321

func TestRunner_Trust(t *testing.T) {
	for name, tt := range map[string]struct {
		build func(b tree) string
		want  string // part of the error after the tree's path; empty: it runs
	}{
		"Plain":      {func(b tree) string { return b.hook("h", 0o755) }, ""},
		"OnlyForOne": {func(b tree) string { return b.hook("h", 0o700) }, ""},
		"GroupWrites": {func(b tree) string { return b.hook("h", 0o775) },
			"/h can be written by others"},
		"WorldWrites": {func(b tree) string { return b.hook("h", 0o757) },
			"/h can be written by others"},
		"NotExecutable": {func(b tree) string { return b.hook("h", 0o644) },
			"/h is not executable"},
		"Folder":      {func(b tree) string { return b.folder("h", 0o755) }, "/h is a folder"},
		"FolderAbove": {func(b tree) string { return b.dir + "/.." }, "is a folder"},
		"OthersFile":  {func(b tree) string { return b.give(b.hook("h", 0o755), stranger) }, "/h belongs neither to root nor"},
		"FolderGroupWrites": {func(b tree) string {
			b.folder("d", 0o755)
			h := b.hook("d/h", 0o755)
			b.folder("d", 0o775)
			return h
		}, "/d can be written by others"},
		"FolderOfOthers": {func(b tree) string {
			b.folder("d", 0o755)
			h := b.hook("d/h", 0o755)
			b.give(b.dir+"/d", stranger)
			return h
		}, "/d belongs neither to root nor"},
		"FolderSticky": {func(b tree) string {
			b.folder("d", 0o755)
			h := b.hook("d/h", 0o755)
			b.folder("d", 0o777|os.ModeSticky)
			return h
		}, "/d can be written by others"},
		"StickyAbove": {func(b tree) string {
			b.folder("d/e", 0o755)
			h := b.hook("d/e/h", 0o755)
			b.folder("d", 0o777|os.ModeSticky)
			return h
		}, ""},
		"WritableAbove": {func(b tree) string {
			b.folder("d/e", 0o755)
			h := b.hook("d/e/h", 0o755)
			b.folder("d", 0o777)
			return h
		}, "/d can be written by others"},
		"UpFromSticky": {func(b tree) string { // the last folder is d, however it was reached
			b.folder("d/e", 0o755)
			b.hook("d/h", 0o755)
			b.folder("d", 0o777|os.ModeSticky)
			return b.dir + "/d/e/../h"
		}, "/d can be written by others"},
		"Link": {func(b tree) string {
			b.folder("d", 0o755)
			b.hook("d/h", 0o755)
			return b.link("d/../d/./h", "l")
		}, ""},
		"LinkAbsolute": {func(b tree) string { return b.link(b.hook("h", 0o755), "l") }, ""},
		"LinkToWritable": {func(b tree) string { return b.link(b.hook("h", 0o777), "l") },
			"/h can be written by others"},
		"LinkInWritable": {func(b tree) string {
			b.folder("d", 0o755)
			l := b.link(b.hook("h", 0o755), "d/l")
			b.folder("d", 0o777)
			return l
		}, "/d can be written by others"},
		"LinkOfOthers": {func(b tree) string { return b.give(b.link(b.hook("h", 0o755), "l"), stranger) },
			"/l belongs neither to root nor"},
		"LinkedFolderWritable": {func(b tree) string {
			b.folder("d", 0o755)
			b.hook("d/h", 0o755)
			b.folder("d", 0o777)
			return b.link("d", "l") + "/h"
		}, "/d can be written by others"},
		"LinkLoop":    {func(b tree) string { return b.link("l", "l") }, "/l: too many symbolic links"},
		"LinkNowhere": {func(b tree) string { return b.link("none", "l") }, "/none: no such file"},
		"FileAsFolder": {func(b tree) string { return b.hook("h", 0o755) + "/x" },
			"/h is no folder"},
	} {
		t.Run(name, func(t *testing.T) {
			b := tree{t, folder(t)}
			r, _ := runner(t, hook.Config{Commands: map[string]string{"before_switchover": tt.build(b)}})
			res, err := r.Run(t.Context(), event(hook.BeforeSwitchover))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			case res.Ran != (tt.want == ""):
				t.Errorf("ran: %t", res.Ran)
			}
		})
	}
}

// The account of the hooks may own them; root's own hooks may not be owned by
// it.
func TestRunner_TrustsItsAccount(t *testing.T) {
	b := tree{t, folder(t)}
	h := b.give(b.hook("h", 0o755), stranger)
	r, _ := runner(t, hook.Config{Account: hook.Account{Name: "stranger", UID: stranger, GID: stranger, Switch: true},
		Commands: map[string]string{"before_switchover": h}})
	if _, err := r.Run(t.Context(), event(hook.BeforeSwitchover)); err != nil {
		t.Error(err)
	}
}
