package pgctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Permit writes the file without which the server does not start: call it with
// pid zero just before the start and with the postmaster's pid right after.
// It must stay while the server runs, since every reload reads it.
func (s *Server) Permit(ctx context.Context, pid int) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.RunDir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return s.managed(s.permitFile(), fmt.Sprintf("# understudy permits this server to run\n# boot_id=%s\n# pid=%d\n", boot, pid))
}

// Unpermit removes the permit: a start by hand fails from now on.
func (s *Server) Unpermit() error { return remove(s.permitFile()) }

// RemoveStalePermit removes a permit of an earlier boot, or one whose server
// does not run any more. The daemon calls it before anything else.
func (s *Server) RemoveStalePermit() error {
	boot, pid, err := s.permit()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	now, berr := bootID()
	if berr != nil {
		return berr
	}
	if err == nil && boot == now && pid != 0 && s.serves(pid) {
		return nil
	}
	return s.Unpermit()
}

func (s *Server) permit() (boot string, pid int, err error) {
	b, err := os.ReadFile(s.permitFile())
	if err != nil {
		return "", 0, fmt.Errorf("read permit: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "# boot_id="); ok {
			boot = v
		}
		if v, ok := strings.CutPrefix(line, "# pid="); ok {
			if pid, err = strconv.Atoi(v); err != nil {
				return "", 0, fmt.Errorf("read permit: %w", err)
			}
		}
	}
	return boot, pid, nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// serves tells whether pid is a living process that works in our data
// directory, as every process of a PostgreSQL server does.
func (s *Server) serves(pid int) bool {
	cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return false // gone, a zombie, or of another user
	}
	real, err := filepath.EvalSymlinks(s.DataDir)
	return err == nil && cwd == real
}

// postmaster is the pid of the server that runs on the data directory, zero
// when none does.
func (s *Server) postmaster() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read postmaster.pid: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return 0, nil // being written, or left by a crash: PostgreSQL judges
	}
	if !s.serves(pid) {
		return 0, nil
	}
	return pid, nil
}

// ForeignPostmaster looks for what would keep our server from starting: a
// server on the data directory that is not the one our permit names, the
// distribution's own service set to start on it at boot (both ErrForeignServer), or a
// port in use (ErrPortTaken). pid is that server's, zero when unknown.
func (s *Server) ForeignPostmaster() (pid int, err error) {
	pid, err = s.postmaster()
	if err != nil {
		return 0, err
	}
	service := s.debianService("/etc/postgresql")
	if pid != 0 {
		if _, ours, err := s.permit(); err == nil && ours == pid {
			return 0, nil
		}
		hint := "pg_ctl stop -m fast -D " + s.DataDir
		if service != "" {
			hint = "systemctl disable --now " + service
		}
		return pid, fmt.Errorf("%w: process %d runs on %s; stop it with: %s", ErrForeignServer, pid, s.DataDir, hint)
	}
	if service != "" && s.startsAtBoot("/etc/postgresql", service) {
		return 0, fmt.Errorf("%w: the service %s would start on %s at boot; write \"manual\" into its start.conf and run: systemctl disable --now %s", ErrForeignServer, service, s.DataDir, service)
	}
	return 0, s.portFree()
}

// debianService is the name of the distribution's service for our data
// directory, empty when there is none.
func (s *Server) debianService(etc string) string {
	conf := s.debianConf(etc)
	if conf == "" {
		return ""
	}
	dir := filepath.Dir(conf)
	return "postgresql@" + filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir)
}

// debianConf is the distribution's postgresql.conf of our data directory, empty
// when there is none.
func (s *Server) debianConf(etc string) string {
	files, _ := filepath.Glob(filepath.Join(etc, "*", "*", "postgresql.conf"))
	for _, f := range files {
		set := make(map[string]string)
		readConf(f, "", 0, set)
		if filepath.Clean(set["data_directory"]) == filepath.Clean(s.DataDir) {
			return f
		}
	}
	return ""
}

func (s *Server) startsAtBoot(etc, service string) bool {
	version, name, _ := strings.Cut(strings.TrimPrefix(service, "postgresql@"), "-")
	b, err := os.ReadFile(filepath.Join(etc, version, name, "start.conf"))
	if err != nil {
		return true // the default of a missing file
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == "auto" {
			return true
		}
	}
	return false
}

// portFree tries what the postmaster will try.
func (s *Server) portFree() error {
	for _, addr := range s.Listen {
		if addr == "*" {
			addr = ""
		}
		l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(s.Port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: another process listens on port %d of %q; stop it or choose another port", ErrPortTaken, s.Port, addr)
		}
		if err != nil {
			return fmt.Errorf("try port %d of %q: %w", s.Port, addr, err)
		}
		l.Close()
	}
	for _, dir := range []string{s.SocketDir, s.ClientSocketDir} {
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(s.Port))
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return fmt.Errorf("%w: another server answers on %s; stop it or choose another port", ErrPortTaken, path)
		}
	}
	return nil
}
