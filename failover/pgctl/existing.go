package pgctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"understudy/shipper/pos"
)

// What a group has to know of a database that somebody else made and ran.

// ConfigFile is the postgresql.conf that the server of the data directory was
// run with: its own, or, where it has none, the one that the distribution keeps
// elsewhere. Empty when there is none.
func (s *Server) ConfigFile() string { return s.configFile("/etc/postgresql") }

func (s *Server) configFile(etc string) string {
	own := filepath.Join(s.DataDir, "postgresql.conf")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return s.debianConf(etc)
}

// AccessFile is the pg_hba.conf beside ConfigFile, empty when there is none.
func (s *Server) AccessFile() string {
	conf := s.ConfigFile()
	if conf == "" {
		return ""
	}
	path := filepath.Join(filepath.Dir(conf), "pg_hba.conf")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// FileSettings is what ConfigFile and what it includes say, by lower-case names;
// what understudy manages is left out.
func (s *Server) FileSettings() map[string]string {
	set := make(map[string]string)
	if conf := s.ConfigFile(); conf != "" {
		readConf(conf, s.ManagedBy(), 0, set)
	}
	return set
}

// OperatorSettings is FileSettings with what ALTER SYSTEM has said since.
func (s *Server) OperatorSettings() map[string]string {
	set := s.FileSettings()
	readConf(filepath.Join(s.DataDir, "postgresql.auto.conf"), "", maxConfDepth, set)
	return set
}

// Overruled are the settings of ALTER SYSTEM that Configure takes out, because
// understudy decides them.
func (s *Server) Overruled() []string {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "postgresql.auto.conf"))
	if err != nil {
		return nil
	}
	_, dropped := withoutManaged(string(b))
	set := make(map[string]string)
	readConf(filepath.Join(s.DataDir, "postgresql.auto.conf"), "", maxConfDepth, set)
	dropped = slices.DeleteFunc(dropped, func(name string) bool { return set[name] == "" })
	slices.Sort(dropped)
	return slices.Compact(dropped)
}

// ManagedBy is the managed configuration that the data directory's own
// postgresql.conf includes, empty when no understudy has had it.
func (s *Server) ManagedBy() string {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "postgresql.conf"))
	if err != nil {
		return ""
	}
	inside, found := false, ""
	for line := range strings.Lines(string(b)) {
		t := strings.TrimSpace(line)
		name, value, ok := parseSetting(line)
		switch {
		case strings.HasPrefix(t, "# understudy begin"):
			inside = true
		case t == blockEnd:
			inside = false
		case inside && ok && name == "include":
			found = value
		}
	}
	return found
}

// TakeConfig makes a configuration file from elsewhere the data directory's own
// postgresql.conf: what tells where the files of the server are is left out, and
// includes are made to mean the same files.
func (s *Server) TakeConfig(from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("take over the configuration: %w", err)
	}
	if len(b) > maxConfBytes {
		return fmt.Errorf("take over the configuration: %s has %d bytes", from, len(b))
	}
	text, err := movedConf(string(b), from)
	if err != nil {
		return fmt.Errorf("take over %s: %w", from, err)
	}
	return s.owned("postgresql.conf", text)
}

// movedConf is the text of a configuration file for another folder.
func movedConf(text, from string) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "# Taken over by understudy from %s\n", from)
	for line := range strings.Lines(text) {
		name, value, ok := parseSetting(line)
		switch {
		case !ok:
		case name == "data_directory", name == "hba_file", name == "ident_file", name == "external_pid_file":
			out.WriteString("# not here: ")
		case (name == "include" || name == "include_dir" || name == "include_if_exists") && !filepath.IsAbs(value):
			q, err := quote(filepath.Join(filepath.Dir(from), value))
			if err != nil {
				return "", err
			}
			line = name + " " + q + "\n"
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return out.String(), nil
}

// History are the ancestors of a timeline as the data directory has them, none
// when it has no history of it.
func (s *Server) History(t pos.Timeline) ([]HistoryLine, error) {
	b, err := os.ReadFile(s.historyFile(t))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", t, err)
	}
	lines, err := ParseHistory(b)
	if err != nil {
		return nil, fmt.Errorf("the history of timeline %d in %s: %w", t, s.walDir(), err)
	}
	if n := len(lines); n > 0 && lines[n-1].Timeline >= t {
		return nil, fmt.Errorf("the history of timeline %d in %s names timeline %d as its ancestor", t, s.walDir(), lines[n-1].Timeline)
	}
	return lines, nil
}

// Reachable tells whether the database account may enter a directory and all
// above it; the error names the one that it may not.
func (s *Server) Reachable(dir string) error { return s.reachable(dir) }

// AmendFounding changes whom Founding lets in while that lasts: the name of the
// superuser was a mistake, and was mended in the node file.
func (s *Server) AmendFounding(superuser string) error {
	was, err := s.founder()
	if err != nil || was == "" || was == superuser {
		return err
	}
	return s.Founding(superuser)
}
