package link

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxPEM bounds the size of a credentials file in bytes.
const maxPEM = 1 << 20

// Credentials are a node's certificate and key and its group's CA. They are
// safe for concurrent use and may be renewed while in use.
type Credentials struct {
	certFile, keyFile, caFile string // empty when made from memory

	reload sync.Mutex // one Reload at a time
	now    atomic.Pointer[material]
}

// material is one immutable state of Credentials.
type material struct {
	cert tls.Certificate
	ca   *x509.Certificate
	pool *x509.CertPool
	id   Identity
}

// LoadIdentity reads a node's credentials from PEM files. It checks that the
// key is not readable by everyone and belongs to the certificate, that the CA
// issued the certificate, and that it is valid now (else ErrExpired). Errors
// name the file.
func LoadIdentity(certFile, keyFile, caFile string) (*Credentials, error) {
	c := &Credentials{certFile: certFile, keyFile: keyFile, caFile: caFile}
	m, err := c.load()
	if err != nil {
		return nil, err
	}
	c.now.Store(m)
	return c, nil
}

// NewCredentials is LoadIdentity for PEM blocks in memory.
func NewCredentials(certPEM, keyPEM, caPEM []byte) (*Credentials, error) {
	m, err := newMaterial(certPEM, keyPEM, caPEM, time.Now())
	if err != nil {
		return nil, err
	}
	c := &Credentials{}
	c.now.Store(m)
	return c, nil
}

// Identity is what the certificate in use says.
func (c *Credentials) Identity() Identity { return c.now.Load().id }

// Reload reads the files again, for later handshakes; open connections go on.
// On an error, or when the files now belong to another node or group, the
// former credentials stay in use. For credentials made from memory it does
// nothing.
func (c *Credentials) Reload() error {
	if c.certFile == "" {
		return nil
	}
	c.reload.Lock()
	defer c.reload.Unlock()
	m, err := c.load()
	if err != nil {
		return fmt.Errorf("reload credentials: %w", err)
	}
	old := c.now.Load().id
	if m.id.Node != old.Node || m.id.Group != old.Group {
		return fmt.Errorf("reload credentials: %w: certificate file %s is now of node %q in group %q, this is %q in %q",
			ErrCredentials, c.certFile, m.id.Node, m.id.Group, old.Node, old.Group)
	}
	c.now.Store(m)
	return nil
}

func (c *Credentials) load() (*material, error) {
	certPEM, err := readPEM("certificate", c.certFile, false)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM("key", c.keyFile, true)
	if err != nil {
		return nil, err
	}
	caPEM, err := readPEM("CA certificate", c.caFile, false)
	if err != nil {
		return nil, err
	}
	m, err := newMaterial(certPEM, keyPEM, caPEM, time.Now())
	if err != nil {
		return nil, fmt.Errorf("use certificate file %s, key file %s and CA file %s: %w", c.certFile, c.keyFile, c.caFile, err)
	}
	return m, nil
}

// readPEM reads one file. The mode is checked on the open file, so that it is
// that of the bytes read.
func readPEM(what, name string, secret bool) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s file %s is not a regular file", ErrCredentials, what, name)
	}
	if secret && st.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%w: %s file %s is accessible to everyone (mode %04o); set it to 0600", ErrCredentials, what, name, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("%w: %s file %s is larger than %d bytes", ErrCredentials, what, name, maxPEM)
	}
	if block, _ := pem.Decode(b); block == nil {
		return nil, fmt.Errorf("%w: %s file %s is not in PEM form", ErrCredentials, what, name)
	}
	return b, nil
}

func newMaterial(certPEM, keyPEM, caPEM []byte, now time.Time) (*material, error) {
	ca, err := parseCA(caPEM)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate and key: %w", ErrCredentials, err)
	}
	m := &material{cert: cert, ca: ca, pool: x509.NewCertPool()}
	m.pool.AddCert(ca)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if m.id, err = m.verify([]*x509.Certificate{cert.Leaf}, usage, now); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
		}
	}
	return m, nil
}

// verify checks that chain[0] is a certificate of this group that may be used
// as usage says, and reads the identity from it. The CA signs nodes directly,
// so whatever else the other side sent is not looked at.
func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, fmt.Errorf("%w: none was sent", ErrForeignGroup)
	}
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: m.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Identity{}, fmt.Errorf("%w: that of node %q holds from %s to %s, it is %s", ErrExpired, leaf.Subject.CommonName,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case err != nil:
		return Identity{}, fmt.Errorf("%w: node %q of group %q is not certified by the CA of group %q: %w",
			ErrForeignGroup, leaf.Subject.CommonName, groupOf(leaf), groupOf(m.ca), err)
	}
	id := Identity{Node: leaf.Subject.CommonName, Group: groupOf(leaf), NotAfter: leaf.NotAfter}
	if id.Group != groupOf(m.ca) {
		return Identity{}, fmt.Errorf("%w: node %q is of group %q, not %q", ErrForeignGroup, id.Node, id.Group, groupOf(m.ca))
	}
	if err := checkName("node name", id.Node); err != nil {
		return Identity{}, err
	}
	return id, nil
}
