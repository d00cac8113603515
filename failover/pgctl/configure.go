package pgctl

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// decided are the reloadable settings that the managed file alone may set; what
// needs a restart is forced on the command line, which beats every file.
var decided = map[string]bool{
	"primary_conninfo": true, "primary_slot_name": true, "restore_command": true,
	"synchronous_standby_names": true, "archive_cleanup_command": true, "promote_trigger_file": true,
}

// oursBegin stands in the managed file before what understudy decides.
const oursBegin = "# What understudy decides:\n"

func (s *Server) managedConf() string { return filepath.Join(s.StateDir, "postgresql.understudy.conf") }
func (s *Server) hbaFile() string     { return filepath.Join(s.StateDir, "pg_hba.conf") }
func (s *Server) identFile() string   { return filepath.Join(s.StateDir, "pg_ident.conf") }

// PermitFile is the file without which the server does not start.
func (s *Server) PermitFile() string { return s.permitFile() }

func (s *Server) permitFile() string { return filepath.Join(s.RunDir, "permit.conf") }

// Configure writes everything a server needs before it is started in mode m,
// with ordinary clients locked out: the managed configuration, who may
// connect, and the one include line at the end of postgresql.conf. What another
// node left in a copied base is replaced. For a standby, standby.signal is put
// down; for a primary it is removed, as the last step, so call it just before
// the start. Everything is durable on return.
func (s *Server) Configure(ctx context.Context, m Mode) error {
	if m.SyncName == "" && !m.Async {
		return errors.New("configure server: a quorum needs a synchronous standby name")
	}
	if err := s.checkMajor(); err != nil {
		return err
	}
	if st, err := s.State(); err != nil || m.Primary && st != Cluster {
		return errors.Join(err, refusePrimary(st))
	}
	if err := s.directories(); err != nil {
		return err
	}
	// A directory that was a standby stays one until everything else is done.
	if !m.Primary {
		if err := s.owned("standby.signal", ""); err != nil {
			return err
		}
	}
	if err := remove(filepath.Join(s.DataDir, "recovery.signal")); err != nil {
		return err
	}
	conf, err := s.renderConf(m)
	if err != nil {
		return err
	}
	if err := s.managed(s.managedConf(), conf); err != nil {
		return err
	}
	if err := s.writeAccess(true); err != nil {
		return err
	}
	if err := s.writeIncludes(); err != nil {
		return err
	}
	if m.Primary {
		return remove(filepath.Join(s.DataDir, "standby.signal"))
	}
	return nil
}

func refusePrimary(st DirState) error {
	return fmt.Errorf("configure server: the data directory is in state %q and cannot be a primary; it must be seeded again", st)
}

// directories makes our directories and checks that the account reaches them.
func (s *Server) directories() error {
	if err := errors.Join(os.MkdirAll(s.StateDir, 0o755), os.MkdirAll(s.RunDir, 0o755)); err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	if err := s.makeDir(s.SocketDir, 0o700); err != nil {
		return err
	}
	if s.ClientSocketDir != "" {
		if _, err := os.Stat(s.ClientSocketDir); err != nil {
			if err := s.makeDir(s.ClientSocketDir, 0o755); err != nil {
				return err
			}
		}
	}
	for _, d := range []string{s.SocketDir, s.ClientSocketDir} {
		if n := len(filepath.Join(d, ".s.PGSQL."+strconv.Itoa(s.Port))); n > 107 {
			return fmt.Errorf("socket directory %s: a unix socket path in it has %d bytes, at most 107 are possible; choose a shorter one", d, n)
		}
	}
	for _, d := range []string{s.StateDir, s.RunDir, s.SocketDir, s.DataDir} {
		if err := s.reachable(d); err != nil {
			return err
		}
	}
	return nil
}

// renderConf is the text of the managed file: operator first, ours after, the
// permit at the end.
func (s *Server) renderConf(m Mode) (string, error) {
	ours := []string{"recovery_target_timeline", "latest", "archive_cleanup_command", ""}
	sync := ""
	if !m.Async {
		v, err := syncValue(m.SyncName)
		if err != nil {
			return "", err
		}
		sync = v
	}
	conninfo, restore, slot, delay := m.PrimaryConninfo, m.RestoreCommand, m.SlotName, m.ApplyDelay
	if m.Primary {
		conninfo, restore, slot, delay = "", "", "", 0
	}
	ours = append(ours, "primary_conninfo", conninfo, "restore_command", restore, "primary_slot_name", slot,
		"synchronous_standby_names", sync, applyDelay, delayValue(delay), "understudy.generation", generation())
	if s.Major < 16 {
		ours = append(ours, "promote_trigger_file", "")
	}
	names := make([]string, 0, len(s.Parameters))
	for k := range s.Parameters {
		if !settingName(k) {
			return "", fmt.Errorf("setting %q: not the name of a PostgreSQL setting", k)
		}
		names = append(names, k)
	}
	sort.Strings(names)
	var b strings.Builder
	b.WriteString("# Managed by understudy: changes here are overwritten.\n# The operator's settings:\n")
	for _, k := range names {
		if err := writeSetting(&b, k, s.Parameters[k]); err != nil {
			return "", err
		}
	}
	b.WriteString(oursBegin)
	for i := 0; i < len(ours); i += 2 {
		if err := writeSetting(&b, ours[i], ours[i+1]); err != nil {
			return "", err
		}
	}
	permit, err := quote(s.permitFile())
	if err != nil {
		return "", err
	}
	b.WriteString("# Without this file, which exists only while understudy runs the server, no start:\ninclude " + permit + "\n")
	return b.String(), nil
}

func writeSetting(b *strings.Builder, name, value string) error {
	q, err := quote(value)
	if err != nil {
		return fmt.Errorf("setting %s: %w", name, err)
	}
	fmt.Fprintf(b, "%s = %s\n", name, q)
	return nil
}

func settingName(k string) bool {
	return k != "" && len(k) <= 128 && strings.Trim(strings.ToLower(k), "abcdefghijklmnopqrstuvwxyz0123456789_.") == "" &&
		!strings.HasPrefix(strings.ToLower(k), "include")
}

func syncValue(name string) (string, error) {
	if !plainName(name) {
		return "", fmt.Errorf("synchronous standby name %q: only letters, digits, '_' and '-' are possible", name)
	}
	return `FIRST 1 ("` + name + `")`, nil
}

// generation is a fresh value by which a running server shows which version of
// the managed file it has loaded.
func generation() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// amend changes settings of ours in the managed file and gives it a new
// generation, which is returned.
func (s *Server) amend(change map[string]string) (string, error) {
	text, gen, err := s.amended(change)
	if err != nil {
		return "", err
	}
	return gen, s.managed(s.managedConf(), text)
}

// amended is the text of the managed file with settings of ours changed, and
// the new generation in it.
func (s *Server) amended(change map[string]string) (text, gen string, err error) {
	b, err := os.ReadFile(s.managedConf())
	if err != nil {
		return "", "", fmt.Errorf("read managed configuration: %w", err)
	}
	gen = generation()
	set := map[string]string{"understudy.generation": gen}
	for k, v := range change {
		set[k] = v
	}
	_, ours, found := strings.Cut(string(b), oursBegin)
	if !found {
		return "", "", fmt.Errorf("%s was changed by hand: remove it and restart the daemon", s.managedConf())
	}
	head := strings.TrimSuffix(string(b), ours)
	var out strings.Builder
	for line := range strings.Lines(ours) {
		name, _, ok := parseSetting(line)
		v, changed := set[name]
		if !ok || !changed {
			out.WriteString(line)
			continue
		}
		delete(set, name)
		if err := writeSetting(&out, name, v); err != nil {
			return "", "", err
		}
	}
	if v, ok := set[applyDelay]; ok { // a file of a daemon from before delays
		delete(set, applyDelay)
		if err := writeSetting(&out, applyDelay, v); err != nil {
			return "", "", err
		}
	}
	if len(set) > 0 {
		return "", "", fmt.Errorf("%s was changed by hand: remove it and restart the daemon", s.managedConf())
	}
	return head + out.String(), gen, nil
}

// writeAccess writes pg_hba.conf, locked or open, and pg_ident.conf.
func (s *Server) writeAccess(locked bool) error {
	ident, hba, err := s.renderAccess(locked)
	if err != nil {
		return err
	}
	if err := s.managed(s.identFile(), ident); err != nil {
		return err
	}
	return s.managed(s.hbaFile(), hba)
}

// renderAccess is the text of pg_ident.conf and pg_hba.conf. Our roles come in
// by the private socket and by no other way, locked or open.
func (s *Server) renderAccess(locked bool) (ident, hba string, err error) {
	founder, err := s.founder()
	if err != nil {
		return "", "", err
	}
	for _, line := range s.ClientHBA {
		if strings.ContainsAny(line, "\n\r") {
			return "", "", fmt.Errorf("client access line %q: one pg_hba line each", line)
		}
	}
	me, err := user.Current()
	if err != nil {
		return "", "", fmt.Errorf("find own user: %w", err)
	}
	const head = "# Managed by understudy: changes here are overwritten.\n"
	var id, rules strings.Builder
	id.WriteString(head)
	rules.WriteString(head)
	admit := func(databases, role string) {
		for _, os := range []string{me.Username, s.Name} {
			fmt.Fprintf(&id, "understudy \"%s\" \"%s\"\n", os, role)
		}
		fmt.Fprintf(&rules, "local %s \"%s\" peer map=understudy\n", databases, role)
	}
	admit("all,replication", roleName)
	if founder != "" && founder != roleName {
		admit("all,replication", founder)
	}
	admit("postgres", RewindRole)
	rules.WriteString("local all,replication \"" + RewindRole + "\" reject\n")
	for _, role := range []string{roleName, RewindRole} {
		rules.WriteString("host all,replication \"" + role + "\" all reject\n")
	}
	if locked {
		rules.WriteString("# Ordinary clients are locked out until this server may serve them.\n" +
			"local all,replication all reject\nhost all,replication all all reject\n")
	} else {
		for _, line := range s.ClientHBA {
			rules.WriteString(line + "\n")
		}
	}
	return id.String(), rules.String(), nil
}

// writeIncludes puts our block at the end of postgresql.conf and takes what we
// decide out of postgresql.auto.conf.
func (s *Server) writeIncludes() error {
	include, err := quote(s.managedConf())
	if err != nil {
		return err
	}
	for _, name := range []string{"postgresql.conf", "postgresql.auto.conf"} {
		b, err := os.ReadFile(filepath.Join(s.DataDir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		text := withBlock(string(b), include)
		if name == "postgresql.auto.conf" {
			var dropped []string
			text, dropped = withoutManaged(string(b))
			if len(dropped) > 0 {
				s.Log.Warn("removed settings that understudy decides", "file", name, "settings", strings.Join(dropped, " "))
			}
		}
		if text == string(b) {
			continue
		}
		if err := s.owned(name, text); err != nil {
			return err
		}
	}
	return nil
}
