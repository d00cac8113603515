package backupservers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"understudy/test/pgtest"
)

// MinIO is one S3 server with an empty bucket.
type MinIO struct {
	Address   string // host:port
	Endpoint  string // http or https and the address
	Bucket    string
	AccessKey string
	SecretKey string
	CA        []byte // PEM, when it speaks TLS

	bin, dir string
	data     string
	proc     *process
}

// MinIOOptions are what a test may want of a MinIO.
type MinIOOptions struct {
	TLS bool
	// Data is an existing directory to keep objects in, instead of one of its
	// own.
	Data string
}

// NewMinIO starts a MinIO.
func NewMinIO(t testing.TB, o MinIOOptions) *MinIO {
	t.Helper()
	m := &MinIO{
		Address: fmt.Sprintf("127.0.0.1:%d", pgtest.FreePort(t)), Bucket: "backups",
		AccessKey: "understudy", SecretKey: rand.Text(), dir: t.TempDir(), data: o.Data, bin: minioBinary(t),
	}
	if m.data == "" {
		m.data = filepath.Join(m.dir, "data")
	}
	// In this mode of MinIO a directory is a bucket.
	if err := os.MkdirAll(filepath.Join(m.data, m.Bucket), 0o700); err != nil {
		t.Fatal(err)
	}
	m.Endpoint = "http://" + m.Address
	if o.TLS {
		m.Endpoint = "https://" + m.Address
		m.makeCertificate(t)
	}
	m.Start(t)
	return m
}

func minioBinary(t testing.TB) string {
	t.Helper()
	for _, p := range []string{os.Getenv("UNDERSTUDY_MINIO"), cached(t, "minio")} {
		if fi, err := os.Stat(p); p != "" && err == nil && fi.Mode().IsRegular() {
			return p
		}
	}
	t.Fatalf("no MinIO found: %s, or set UNDERSTUDY_MINIO", install)
	return ""
}

// Start starts the server again after Kill, at the same address.
func (m *MinIO) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(m.bin, "server", m.data, "--address", m.Address, "--console-address", fmt.Sprintf("127.0.0.1:%d", pgtest.FreePort(t)),
		"--certs-dir", m.certs(), "--quiet")
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+m.AccessKey, "MINIO_ROOT_PASSWORD="+m.SecretKey, "MINIO_UPDATE=off", "MINIO_BROWSER=off", "HOME="+m.dir)
	m.proc = launch(t, cmd)
	client := m.Client(t)
	m.proc.await(t, func() error {
		// Who does not sign is refused, as soon as there is somebody to refuse.
		resp, err := client.Get(m.Endpoint + "/" + m.Bucket + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			return fmt.Errorf("it says %s", resp.Status)
		}
		return nil
	})
	client.CloseIdleConnections()
}

// Client is an HTTP client that trusts this server.
func (m *MinIO) Client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	if m.CA != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(m.CA)
		tr.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: tr, Timeout: 5 * time.Second}
}

// Kill ends the server at once.
func (m *MinIO) Kill() { m.proc.kill() }

// Freeze stops the server from running: connections stay and nothing answers.
func (m *MinIO) Freeze() { m.proc.signal(syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (m *MinIO) Thaw() { m.proc.signal(syscall.SIGCONT) }

func (m *MinIO) certs() string { return filepath.Join(m.dir, "certs") }

// makeCertificate makes a certificate for loopback that is its own authority.
func (m *MinIO) makeCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.MkdirAll(m.certs(), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"public.crt": m.CA, "private.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(m.certs(), name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
