package recover

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The lines around our settings in postgresql.auto.conf.
const (
	blockBegin = "# understudy restore begin"
	blockEnd   = "# understudy restore end"
)

// maxConf bounds a configuration file that is changed.
const maxConf = 1 << 20

// settings writes what recovery needs to where PostgreSQL reads last, and takes
// out of the configuration what would keep a server from starting here.
func (x *execution) settings() error {
	conf, err := x.confText("postgresql.conf")
	if err != nil {
		return err
	}
	mended, notes := mendConf(conf, x.p.Mode == Beside, func(path string) bool {
		if !filepath.IsAbs(path) {
			path = filepath.Join(x.p.DataDir, path)
		}
		_, err := os.Stat(path)
		return err == nil
	})
	if conf == "" {
		mended = "# Made by understudy restore: the set had no postgresql.conf in the data directory.\n"
	}
	for _, n := range notes {
		x.o.Log.Warn("changed postgresql.conf", "change", n)
	}
	if mended != conf {
		if err := x.putConf("postgresql.conf", mended); err != nil {
			return err
		}
	}
	hba, err := x.confText("pg_hba.conf")
	if err == nil && hba == "" {
		err = x.putConf("pg_hba.conf", "# Made by understudy restore: the set had no pg_hba.conf in the data directory.\nlocal all all peer\n")
	}
	if err != nil {
		return err
	}
	auto, err := x.confText("postgresql.auto.conf")
	if err != nil {
		return err
	}
	text, err := x.p.recoveryConf(auto)
	if err != nil {
		return err
	}
	if err := x.putConf("postgresql.auto.conf", text); err != nil {
		return err
	}
	return x.putConf("recovery.signal", "")
}

func (x *execution) confText(name string) (string, error) {
	fi, err := x.tree.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if fi.Size() > maxConf {
		return "", fmt.Errorf("%s has %d bytes, more than %d", name, fi.Size(), maxConf)
	}
	b, err := x.tree.root.ReadFile(name)
	return string(b), err
}

func (x *execution) putConf(name, text string) error {
	return writeFile(x.p.DataDir, name, stateTemp, []byte(text), 0o600, x.p.Owner)
}

// recoveryConf is the text of a postgresql.auto.conf with the plan's settings.
func (p Plan) recoveryConf(auto string) (string, error) {
	return withSettings(withoutSettings(auto, p.settingNames()), p.Settings())
}

// settingNames are those of the plan's settings, and of targets that it has not.
func (p Plan) settingNames() map[string]string {
	names := p.Settings()
	for _, n := range targetNames() {
		names[n] = ""
	}
	return names
}

// withSettings returns the text of a postgresql.auto.conf with settings in a
// block of ours at its end, and nowhere else.
func withSettings(text string, set map[string]string) (string, error) {
	var b strings.Builder
	b.WriteString(withoutSettings(text, set))
	b.WriteString(blockBegin + ": what the host of the set had must not count here\n")
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if strings.ContainsAny(set[name], "\n\r\x00") {
			return "", fmt.Errorf("setting %s: line breaks are not possible", name)
		}
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(set[name]))
	}
	b.WriteString(blockEnd + "\n")
	return b.String(), nil
}

// withoutSettings drops lines that set any of the names, and the lines of ours
// around them. ALTER SYSTEM keeps settings and drops comments, so the names are
// what counts.
func withoutSettings(text string, names map[string]string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		t := strings.TrimSpace(line)
		if _, ours := names[settingOf(t)]; ours || strings.HasPrefix(t, blockBegin) || strings.HasPrefix(t, blockEnd) {
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

// settingOf is the name that a line of a configuration file sets; empty for a
// comment.
func settingOf(line string) string {
	i := strings.IndexAny(line, " \t='")
	if line == "" || line[0] == '#' || i <= 0 {
		return ""
	}
	return strings.ToLower(line[:i])
}

// mendConf takes out of a postgresql.conf the block that the daemon of the set's
// host managed, and includes of what is not here, without which no server
// starts. Beside the original, it takes out the file in which the original has
// its process id, too.
func mendConf(text string, beside bool, exists func(path string) bool) (mended string, notes []string) {
	var b strings.Builder
	managed := false
	for line := range strings.Lines(text) {
		t := strings.TrimSpace(line)
		name := settingOf(t)
		switch {
		case strings.HasPrefix(t, "# understudy begin"):
			managed = true
			notes = append(notes, "took out what understudy managed on the host of the set")
			continue
		case managed && t == "# understudy end":
			managed = false
			continue
		case managed && (t == "" || name == "include"):
			continue
		case (name == "include" || name == "include_dir") && !exists(includedPath(t[len(name):])):
			notes = append(notes, "took out "+t+", which is not here")
			b.WriteString("# not on this host: ")
		case name == "external_pid_file" && beside:
			b.WriteString("# of the original: ")
		case slices.Contains(targetNames(), name):
			notes = append(notes, "took out "+name+" of another recovery")
			b.WriteString("# of another recovery: ")
		}
		managed = false
		b.WriteString(line)
	}
	return b.String(), notes
}

// includedPath reads the value of an include line.
func includedPath(s string) string {
	s = strings.TrimSpace(s)
	s = strings.TrimSpace(strings.TrimPrefix(s, "="))
	if rest, ok := strings.CutPrefix(s, "'"); ok {
		s, _, _ = strings.Cut(rest, "'")
		return s
	}
	s, _, _ = strings.Cut(s, "#")
	return strings.TrimSpace(s)
}

// ofRecovery are the settings that end with the recovery; the others keep a
// restored database from acting as the original would.
func ofRecovery(name string) bool {
	switch name {
	case "restore_command", "recovery_end_command", "archive_cleanup_command", "ssl", "data_sync_retry":
		return true
	}
	return strings.HasPrefix(name, "recovery_") || neededSettings()[name]
}
