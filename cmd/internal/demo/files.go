package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"understudy/configs"
	"understudy/failover/pgctl"
	"understudy/shipper/link"
	"understudy/shipper/location/local"
)

// checkDir makes the directory and makes sure that the database account can
// reach it: root's own temporary directories are closed to it.
func (p *Playground) checkDir() error {
	if entries, err := os.ReadDir(p.Dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(p.Dir, "bin", "understudy")); err != nil {
			return fmt.Errorf("--dir %s is not empty and holds no playground; name another directory", p.Dir)
		}
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	if len(filepath.Join(p.Dir, "witness", "run", "wal", ".s.PGSQL.99999")) > 107 {
		return fmt.Errorf("--dir %s is too long for unix sockets in it; name a shorter one", p.Dir)
	}
	acc, err := pgctl.ResolveAccount("")
	if err != nil {
		return err
	}
	if !acc.Switch {
		return nil
	}
	for d := p.Dir; ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		if fi.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("--dir: user %s, who runs PostgreSQL, cannot enter %s (mode %04o); name a directory that it can reach, for example one under /var/tmp", acc.Name, d, fi.Mode().Perm())
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// copyBinary puts this program where the database account can execute it.
func (p *Playground) copyBinary() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if self == p.binary() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.binary()), 0o755); err != nil {
		return err
	}
	src, err := os.Open(self)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp := p.binary() + ".new"
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, p.binary())
}

func (p *Playground) makeNode(i int, name, binDir string, caCert, caKey []byte) error {
	dir := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cert, key, err := link.Issue(caCert, caKey, name, []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	for f, b := range map[string][]byte{"node.crt": cert, "node.key": key, "ca.crt": caCert} {
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
			return err
		}
	}
	var y strings.Builder
	fmt.Fprintf(&y, "name: %s\ngroup: demo\n", name)
	kind := "data"
	if name == "witness" {
		kind = "witness"
	}
	fmt.Fprintf(&y, "kind: %s\nstate_dir: state\nrun_dir: run\n", kind)
	fmt.Fprintf(&y, "listen: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\npeers:\n", p.Port+tlsOffset+i, p.Port+httpOffset+i)
	for j, other := range nodes {
		if j != i {
			fmt.Fprintf(&y, "  - {name: %s, address: \"127.0.0.1:%d\"}\n", other, p.Port+tlsOffset+j)
		}
	}
	y.WriteString("tls: {cert: node.crt, key: node.key, ca: ca.crt}\n")
	if kind == "data" {
		fmt.Fprintf(&y, "postgresql:\n  bin_dir: %s\n  data_dir: pgdata\n  port: %d\n  listen: [127.0.0.1]\n", binDir, p.Port+1+i)
		y.WriteString("  hba:\n    - host all all 127.0.0.1/32 trust\n")
		y.WriteString("  parameters: {max_connections: \"100\", allow_in_place_tablespaces: \"on\"}\n")
	}
	return os.WriteFile(p.config(name), []byte(y.String()), 0o644)
}

// readPort learns the ports of a playground that was made before.
func (p *Playground) readPort() error {
	cfg, err := configs.Load(p.config("main"))
	if err != nil {
		return err
	}
	p.Port = cfg.PostgreSQL.Port - 1
	return p.copyBinary()
}

func (p *Playground) loadPID() string { return filepath.Join(p.Dir, "load.pid") }

// startLoad keeps writers running in the background.
func (p *Playground) startLoad() error {
	cmd := exec.Command(p.binary(), "demo", "load", "--dsn", p.DSN())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait()
	return os.WriteFile(p.loadPID(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

func (p *Playground) stopLoad() {
	b, err := os.ReadFile(p.loadPID())
	if err != nil {
		return
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && pid > 0 && strings.Contains(string(cmdline), p.binary()) {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	os.Remove(p.loadPID())
}

// backups is the playground's location of backups, a directory of backup's.
func (p *Playground) backups() string { return filepath.Join(p.Dir, "backup", "backups") }

// makeLocation makes the directory for backups and the policy with which the
// group begins; it returns the policy's file.
func (p *Playground) makeLocation() (string, error) {
	if err := local.Init(p.backups()); err != nil {
		return "", fmt.Errorf("make the directory for backups: %w", err)
	}
	file := filepath.Join(p.Dir, "policy.yaml")
	text := fmt.Sprintf("location.disk.kind: local\nlocation.disk.node: backup\nlocation.disk.path: %q\n", p.backups())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write the first policy: %w", err)
	}
	return file, nil
}
