package pgctl

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// maxConfBytes and maxConfDepth bound what is read of an operator's files.
const (
	maxConfBytes = 4 << 20
	maxConfDepth = 10
)

// readConf collects the settings of a configuration file, includes followed,
// the last value of a name winning; skip is a file that is left out. What
// cannot be read is left out too: the server itself will complain.
func readConf(path, skip string, depth int, into map[string]string) {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > maxConfBytes || depth > maxConfDepth || path == skip {
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	abs := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(filepath.Dir(path), p)
	}
	for line := range strings.Lines(string(b)) {
		name, value, ok := parseSetting(line)
		switch {
		case !ok:
		case name == "include" || name == "include_if_exists":
			readConf(abs(value), skip, depth+1, into)
		case name == "include_dir":
			files, _ := filepath.Glob(filepath.Join(abs(value), "[^.]*.conf"))
			sort.Strings(files)
			for _, f := range files {
				readConf(f, skip, depth+1, into)
			}
		default:
			into[name] = value
		}
	}
}

// parseSetting reads one line: name, an optional equals sign, a value that may
// be quoted, a comment.
func parseSetting(line string) (name, value string, ok bool) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, " \t='")
	if line == "" || line[0] == '#' || i <= 0 {
		return "", "", false
	}
	name = strings.ToLower(line[:i])
	rest := strings.TrimSpace(line[i:])
	rest = strings.TrimSpace(strings.TrimPrefix(rest, "="))
	if !strings.HasPrefix(rest, "'") {
		rest, _, _ = strings.Cut(rest, "#")
		value = strings.TrimSpace(rest)
		return name, value, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == '\'' && i+1 < len(rest) && rest[i+1] == '\'', rest[i] == '\\' && i+1 < len(rest):
			i++
			b.WriteByte(rest[i])
		case rest[i] == '\'':
			return name, b.String(), true
		default:
			b.WriteByte(rest[i])
		}
	}
	return "", "", false // no closing quote
}

// operatorSettings is what the operator's own files and settings say, before
// anything is forced: postgresql.conf, then Parameters, then ALTER SYSTEM.
func (s *Server) operatorSettings() map[string]string {
	set := make(map[string]string)
	readConf(filepath.Join(s.DataDir, "postgresql.conf"), s.managedConf(), 0, set)
	for k, v := range s.Parameters {
		set[strings.ToLower(k)] = v
	}
	readConf(filepath.Join(s.DataDir, "postgresql.auto.conf"), "", maxConfDepth, set)
	return set
}

const (
	blockBegin = "# understudy begin: managed, do not edit"
	blockEnd   = "# understudy end"
)

// withBlock returns the text of a postgresql.conf without any managed block, of
// this node or of the one it was copied from, and with ours at the end.
func withBlock(text, include string) string {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		switch t := strings.TrimSpace(line); {
		case strings.HasPrefix(t, "# understudy begin"):
			inside = true
		case t == blockEnd:
			inside = false
		case inside && strings.HasPrefix(t, "include "):
		case inside && t == "":
		default:
			inside = false // a block that lost its end hides nothing else
			out.WriteString(line)
		}
	}
	kept := strings.TrimRight(out.String(), "\n")
	if kept != "" {
		kept += "\n\n"
	}
	return kept + blockBegin + "\ninclude " + include + "\n" + blockEnd + "\n"
}

// withoutManaged drops from the text of a postgresql.auto.conf, which is read
// after everything else, what only we may decide.
func withoutManaged(text string) (string, []string) {
	var out strings.Builder
	var dropped []string
	for line := range strings.Lines(text) {
		name, _, ok := parseSetting(line)
		if ok && (strings.HasPrefix(name, "recovery_") && name != "recovery_prefetch" && name != "recovery_init_sync_method" || decided[name]) {
			dropped = append(dropped, name)
			continue
		}
		out.WriteString(line)
	}
	return out.String(), dropped
}
