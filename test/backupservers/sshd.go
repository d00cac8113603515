package backupservers

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"understudy/test/pgtest"
)

// SSHD is one OpenSSH server that serves SFTP, and nothing else of use, to one
// user.
type SSHD struct {
	Address string // host:port
	User    string
	HostKey string // its public key, as in authorized_keys
	Key     []byte // the user's private key, PEM
	// Dir is an empty directory of the user's.
	Dir string

	bin, conf string
	env       []string
	proc      *process
}

// NewSSHD starts an OpenSSH server; as root it runs as the account of
// pgtest.Credential. Lines go to its configuration.
func NewSSHD(t testing.TB, lines ...string) *SSHD {
	t.Helper()
	dir := pgtest.Dir(t)
	s := &SSHD{Address: fmt.Sprintf("127.0.0.1:%d", pgtest.FreePort(t)), User: account(t), Dir: filepath.Join(dir, "files"), conf: filepath.Join(dir, "sshd_config")}
	s.findBinary(t, dir)
	s.mkdir(t, s.Dir)
	hostKey, public := NewKey(t, "")
	s.HostKey = public
	var authorized string
	s.Key, authorized = NewKey(t, "")
	s.file(t, dir, "host_key", hostKey)
	s.file(t, dir, "authorized_keys", []byte(authorized+"\n"))
	_, port, _ := strings.Cut(s.Address, ":")
	conf := []string{
		"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + filepath.Join(dir, "host_key"),
		"AuthorizedKeysFile " + filepath.Join(dir, "authorized_keys"), "StrictModes no", "UsePAM no", "PidFile none",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "UseDNS no", "LogLevel VERBOSE", "Subsystem sftp internal-sftp",
	}
	for name, option := range map[string]string{"sshd-session": "SshdSessionPath", "sshd-auth": "SshdAuthPath"} {
		p := filepath.Join(filepath.Dir(s.bin), "..", "lib", "openssh", name)
		if _, err := os.Stat(p); err == nil && s.env != nil {
			conf = append(conf, option+" "+p) // since 10.0 a server is three programs
		}
	}
	s.file(t, dir, "sshd_config", []byte(strings.Join(append(conf, lines...), "\n")+"\n"))
	s.Start(t)
	return s
}

// NewDir makes another empty directory of the user's, below Dir.
func (s *SSHD) NewDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(s.Dir, "dir-"+strings.ToLower(rand.Text()[:10]))
	s.mkdir(t, dir)
	return dir
}

func (s *SSHD) mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, dir)
}

// account is the name of the user that a test's server runs as.
func account(t testing.TB) string {
	t.Helper()
	id := os.Geteuid()
	if c := pgtest.Credential(t); c != nil {
		id = int(c.Uid)
	}
	u, err := user.LookupId(fmt.Sprint(id))
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// findBinary sets the program and its environment. What the script unpacked is
// copied to where the server's account can reach it.
func (s *SSHD) findBinary(t testing.TB, dir string) {
	t.Helper()
	for _, p := range []string{os.Getenv("UNDERSTUDY_SSHD"), "/usr/sbin/sshd"} {
		if fi, err := os.Stat(p); p != "" && err == nil && fi.Mode().IsRegular() {
			s.bin = p
			return
		}
	}
	from, to := cached(t, "openssh"), filepath.Join(dir, "openssh")
	if _, err := os.Stat(filepath.Join(from, "usr/sbin/sshd")); err != nil {
		t.Fatalf("no OpenSSH server found: %s, or set UNDERSTUDY_SSHD", install)
	}
	var libs []string
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		switch base := filepath.Base(path); {
		case strings.Contains(base, ".so"):
			libs = append(libs, filepath.Join(to, filepath.Dir(rel)))
		case !strings.HasPrefix(base, "sshd"):
			return nil
		}
		return copyProgram(path, filepath.Join(to, rel))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.bin = filepath.Join(to, "usr/sbin/sshd")
	s.env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
}

func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// file writes a file that only the server's account can read.
func (s *SSHD) file(t testing.TB, dir, name string, body []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}

// Start starts the server again after Kill, at the same address.
func (s *SSHD) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(s.bin, "-D", "-e", "-f", s.conf)
	cmd.Env = s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pgtest.Credential(t)}
	s.proc = launch(t, cmd)
	s.proc.await(t, func() error { return dialable(s.Address) })
}

// Kill ends the server and all its connections at once.
func (s *SSHD) Kill() { s.proc.kill() }

// Freeze stops the server and all its connections from running: they stay open
// and nothing answers.
func (s *SSHD) Freeze() { s.proc.signal(syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (s *SSHD) Thaw() { s.proc.signal(syscall.SIGCONT) }

// KillConns ends the processes of all connections; the server goes on.
func (s *SSHD) KillConns() {
	for _, pid := range descendants(s.proc.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// NewKey makes an ed25519 key: the private one in PEM, encrypted when a
// passphrase is given, and the public one as in authorized_keys.
func NewKey(t testing.TB, passphrase string) (private []byte, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p)))
}
