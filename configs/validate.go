package configs

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	namePattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)
	accountPattern   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	parameterPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
)

const (
	maxPeers      = 16
	maxHBALines   = 1000
	maxParameters = 500
	maxValueBytes = 4096
	// A hook's limit: a shorter one kills every script, a longer one keeps a
	// group without a primary.
	minHookTimeout = 100 * time.Millisecond
	maxHookTimeout = 5 * time.Minute
	// maxRoleBytes is the longest role name that PostgreSQL does not truncate.
	maxRoleBytes = 63
)

// Validate checks a node with defaults filled in and absolute paths. The error
// is an *Error that names the first key at fault.
func (n *Node) Validate() error {
	for _, check := range []func() *Error{
		n.checkNames, n.checkPaths, n.checkAddresses, n.checkPeers, n.checkLog, n.checkPostgreSQL, n.checkHooks, n.checkSecrets,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) fail(key, format string, args ...any) *Error {
	return &Error{File: n.file, Key: key, Line: n.lines[key], Text: fmt.Sprintf(format, args...)}
}

func (n *Node) checkNames() *Error {
	for _, f := range []struct{ key, value string }{{"name", n.Name}, {"group", n.Group}} {
		if f.value == "" {
			return n.fail(f.key, "this key is required")
		}
		if !namePattern.MatchString(f.value) {
			return n.fail(f.key, "%q must be up to 40 lower-case letters, digits, dashes and underscores, and begin with a letter or digit", f.value)
		}
	}
	switch n.Kind {
	case KindData:
		if n.PostgreSQL == nil {
			return n.fail("postgresql", "this section is required when kind is data")
		}
	case KindWitness:
		if n.PostgreSQL != nil {
			return n.fail("postgresql", "a witness runs no PostgreSQL; remove this section, or set kind to data")
		}
	default:
		return n.fail("kind", "%q must be data or witness", n.Kind)
	}
	return nil
}

func (n *Node) checkPaths() *Error {
	if n.StateDir == "" {
		return n.fail("state_dir", "this key is required")
	}
	if n.RunDir == "" {
		return n.fail("run_dir", "this key is required, because the daemon does not run as root and XDG_RUNTIME_DIR is not set")
	}
	for _, p := range []struct{ key, value string }{
		{"state_dir", n.StateDir}, {"run_dir", n.RunDir}, {"log.file", n.Log.File},
		{"tls.cert", n.TLS.Cert}, {"tls.key", n.TLS.Key}, {"tls.ca", n.TLS.CA},
	} {
		if err := n.checkPath(p.key, p.value); err != nil {
			return err
		}
	}
	if n.RunDir == n.StateDir {
		return n.fail("run_dir", "it must differ from state_dir, since a boot may empty it")
	}
	if s := n.longestSocket(); len(s) > maxSocketPath {
		return n.fail("run_dir", "the path is %d bytes too long: the socket %s would exceed the %d bytes that Linux allows", len(s)-maxSocketPath, s, maxSocketPath)
	}
	return nil
}

// checkPath refuses what cannot be a path, secrets pasted in place of one
// included.
func (n *Node) checkPath(key, value string) *Error {
	if strings.Contains(value, "-----BEGIN") {
		return n.fail(key, "this must be the path of a PEM file, not its contents")
	}
	if strings.ContainsAny(value, "\x00\r\n") {
		return n.fail(key, "the path contains a line break or a zero byte")
	}
	return nil
}

func (n *Node) checkAddresses() *Error {
	if err := n.checkAddress("listen", n.Listen, true); err != nil {
		return err
	}
	if err := n.checkAddress("advertise", n.Advertise, false); err != nil {
		return err
	}
	if n.HTTP == HTTPOff {
		return nil
	}
	if err := n.checkAddress("http", n.HTTP, true); err != nil {
		return err
	}
	if n.HTTP == n.Listen {
		return n.fail("http", "%s is also the address of listen; they need different ports", n.HTTP)
	}
	return nil
}

// checkAddress wants host:port; anyHost allows the addresses that mean "all
// interfaces", which nobody can dial.
func (n *Node) checkAddress(key, value string, anyHost bool) *Error {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return n.fail(key, "%q must be host:port", value)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return n.fail(key, "%q must end in a port between 1 and 65535", value)
	}
	if strings.ContainsAny(host, " \t\r\n\x00/") {
		return n.fail(key, "%q is no host name or address", host)
	}
	ip := net.ParseIP(host)
	if !anyHost && (host == "" || ip != nil && ip.IsUnspecified()) {
		return n.fail(key, "%q must name an address that other nodes can reach", value)
	}
	return nil
}

func (n *Node) checkPeers() *Error {
	if len(n.Peers) > maxPeers {
		return n.fail("peers", "there are %d peers; at most %d are allowed", len(n.Peers), maxPeers)
	}
	seen := map[string]bool{n.Name: true}
	for i, p := range n.Peers {
		key := fmt.Sprintf("peers[%d]", i)
		if !namePattern.MatchString(p.Name) {
			return n.fail(key+".name", "%q must be up to 40 lower-case letters, digits, dashes and underscores, and begin with a letter or digit", p.Name)
		}
		if seen[p.Name] {
			return n.fail(key+".name", "%q is the name of this node or of another peer", p.Name)
		}
		seen[p.Name] = true
		if err := n.checkAddress(key+".address", p.Address, false); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) checkLog() *Error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, n.Log.Level) {
		return n.fail("log.level", "%q must be debug, info, warn or error", n.Log.Level)
	}
	return nil
}

func (n *Node) checkPostgreSQL() *Error {
	pg := n.PostgreSQL
	if pg == nil {
		return nil
	}
	for _, p := range []struct{ key, value string }{
		{"postgresql.bin_dir", pg.BinDir}, {"postgresql.data_dir", pg.DataDir}, {"postgresql.socket_dir", pg.SocketDir},
	} {
		if p.value == "" && p.key != "postgresql.socket_dir" {
			return n.fail(p.key, "this key is required")
		}
		if err := n.checkPath(p.key, p.value); err != nil {
			return err
		}
	}
	if inside(pg.DataDir, n.StateDir) || inside(n.StateDir, pg.DataDir) {
		return n.fail("postgresql.data_dir", "it and state_dir must not contain one another, since a re-seed replaces the data directory")
	}
	if pg.Port < 1 || pg.Port > 65535 {
		return n.fail("postgresql.port", "%d must be between 1 and 65535", pg.Port)
	}
	if pg.SocketDir != "" {
		if pg.SocketDir == n.PGSocketDir() || pg.SocketDir == n.WALSocketDir() {
			return n.fail("postgresql.socket_dir", "%s is the daemon's own folder", pg.SocketDir)
		}
		if s := filepath.Join(pg.SocketDir, pgSocketName(pg.Port)); len(s) > maxSocketPath {
			return n.fail("postgresql.socket_dir", "the path is %d bytes too long: the socket %s would exceed the %d bytes that Linux allows", len(s)-maxSocketPath, s, maxSocketPath)
		}
	}
	return n.checkClients(pg)
}

func (n *Node) checkClients(pg *PostgreSQL) *Error {
	for i, l := range pg.Listen {
		if l == "" || strings.ContainsAny(l, " \t\r\n\x00,'/:") && net.ParseIP(l) == nil {
			return n.fail(fmt.Sprintf("postgresql.listen[%d]", i), "%q must be a host name, an address or *", l)
		}
	}
	if !accountPattern.MatchString(pg.Account) {
		return n.fail("postgresql.account", "%q is no account name", pg.Account)
	}
	if pg.Account == "root" {
		return n.fail("postgresql.account", "PostgreSQL refuses to run as root")
	}
	if len(pg.Superuser) > maxRoleBytes || strings.ContainsAny(pg.Superuser, "\r\n\x00") {
		return n.fail("postgresql.superuser", "%q is no role name of at most %d bytes", pg.Superuser, maxRoleBytes)
	}
	if len(pg.ClientHBA) > maxHBALines {
		return n.fail("postgresql.hba", "there are more than %d lines", maxHBALines)
	}
	for i, line := range pg.ClientHBA {
		if text := hbaFault(line); text != "" {
			return n.fail(fmt.Sprintf("postgresql.hba[%d]", i), "%s", text)
		}
	}
	return n.checkParameters(pg.Parameters)
}

// hbaFault says what is wrong with a line for pg_hba.conf, empty when it is
// acceptable. PostgreSQL checks the rest when it reads the file.
func hbaFault(line string) string {
	if strings.ContainsAny(line, "\r\n\x00") {
		return "one entry must be one line"
	}
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return "an empty line or a comment is not needed here"
	}
	want := 5
	switch fields[0] {
	case "local":
		want = 4
	case "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc":
	default:
		return fmt.Sprintf("%q must begin with local, host, hostssl, hostnossl, hostgssenc or hostnogssenc", line)
	}
	if len(fields) < want {
		return fmt.Sprintf("%q has %d fields; this kind of line needs at least %d", line, len(fields), want)
	}
	return ""
}

func (n *Node) checkHooks() *Error {
	h := n.Hooks
	if _, given := n.lines["hooks"]; n.Kind == KindWitness && (given || len(h.Commands()) > 0) {
		return n.fail("hooks", "a witness never changes its role; remove this section")
	}
	for _, c := range h.commands() {
		key := "hooks." + c.key
		_, given := n.lines[key]
		switch {
		case c.line == "" && !given:
		case c.line == "":
			return n.fail(key, "this hook names no program; remove the key, or give the absolute path of one")
		case len(c.line) > maxValueBytes || strings.ContainsAny(c.line, "\x00\r\n"):
			return n.fail(key, "it must be one line of at most %d bytes: a path, and arguments separated by blanks", maxValueBytes)
		case c.line[0] != '/':
			return n.fail(key, "%q must begin with the absolute path of a program; arguments follow after blanks, and there is no shell", c.line)
		}
	}
	if n.Kind == KindData && (h.Timeout < minHookTimeout || h.Timeout > maxHookTimeout) {
		return n.fail("hooks.timeout", "%s must be between %s and 5m", h.Timeout, minHookTimeout)
	}
	if h.User != "" && !accountPattern.MatchString(h.User) {
		return n.fail("hooks.user", "%q is no account name", h.User)
	}
	return nil
}

// inside tells whether path is dir or below it.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
