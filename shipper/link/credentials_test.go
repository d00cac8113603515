package link_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/link"
)

// files are where a node's credentials lie.
type files struct{ cert, key, ca string }

func (f files) write(t *testing.T, cert, key, ca []byte) {
	t.Helper()
	for name, b := range map[string][]byte{f.cert: cert, f.key: key, f.ca: ca} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (f files) issue(t *testing.T, g group, node string) {
	t.Helper()
	cert, key, err := link.Issue(g.cert, g.key, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, cert, key, g.cert)
}

// expired is a certificate of g that ended an hour ago.
func expired(t *testing.T, g group) tls.Certificate {
	t.Helper()
	return handmade(t, g, &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"g1"}, CommonName: "main"},
		NotBefore:   time.Now().Add(-2 * time.Hour),
		NotAfter:    time.Now().Add(-time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// handmade signs a certificate that Issue would not make.
func handmade(t *testing.T, g group, tmpl *x509.Certificate) tls.Certificate {
	t.Helper()
	ca, err := tls.X509KeyPair(g.cert, g.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(7)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pemPair(t *testing.T, c tls.Certificate) (cert, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestLoadIdentity(t *testing.T) {
	g, other := newGroup(t, "g1"), newGroup(t, "g2")
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	soon := time.Now().Add(time.Hour)
	tests := map[string]struct {
		corrupt func(t *testing.T, f files)
		want    error
		says    string
	}{
		"Good":          {func(*testing.T, files) {}, nil, ""},
		"NoCertificate": {func(t *testing.T, f files) { remove(t, f.cert) }, os.ErrNotExist, "node.crt"},
		"NoKey":         {func(t *testing.T, f files) { remove(t, f.key) }, os.ErrNotExist, "node.key"},
		"NoCA":          {func(t *testing.T, f files) { remove(t, f.ca) }, os.ErrNotExist, "ca.crt"},
		"KeyForAll": {func(t *testing.T, f files) {
			if err := os.Chmod(f.key, 0o644); err != nil {
				t.Fatal(err)
			}
		}, link.ErrCredentials, "node.key is accessible to everyone"},
		"CertificateIsText": {func(t *testing.T, f files) { overwrite(t, f.cert, []byte("hello")) }, link.ErrCredentials, "node.crt is not in PEM form"},
		"Directory": {func(t *testing.T, f files) {
			remove(t, f.ca)
			if err := os.Mkdir(f.ca, 0o700); err != nil {
				t.Fatal(err)
			}
		}, link.ErrCredentials, "ca.crt is not a regular file"},
		"Huge":     {func(t *testing.T, f files) { overwrite(t, f.ca, make([]byte, 2<<20)) }, link.ErrCredentials, "larger than"},
		"OtherKey": {func(t *testing.T, f files) { _, k := pemPair(t, other.pair(t, "main")); overwrite(t, f.key, k) }, link.ErrCredentials, "node.key"},
		"OtherCA":  {func(t *testing.T, f files) { overwrite(t, f.ca, other.cert) }, link.ErrForeignGroup, `"g2"`},
		"CAIsNode": {func(t *testing.T, f files) { c, _ := pemPair(t, g.pair(t, "x")); overwrite(t, f.ca, c) }, link.ErrCredentials, "not one of a CA"},
		"Expired": {func(t *testing.T, f files) {
			c, k := pemPair(t, expired(t, g))
			f.write(t, c, k, g.cert)
		}, link.ErrExpired, "node.crt"},
		"NoName": {func(t *testing.T, f files) {
			c, k := pemPair(t, handmade(t, g, &x509.Certificate{Subject: pkix.Name{Organization: []string{"g1"}}, NotAfter: soon, ExtKeyUsage: both}))
			f.write(t, c, k, g.cert)
		}, link.ErrCredentials, "node name"},
		"OtherOrganization": {func(t *testing.T, f files) {
			c, k := pemPair(t, handmade(t, g, &x509.Certificate{Subject: pkix.Name{Organization: []string{"g9"}, CommonName: "main"}, NotAfter: soon, ExtKeyUsage: both}))
			f.write(t, c, k, g.cert)
		}, link.ErrForeignGroup, `"g9"`},
		"ClientOnly": {func(t *testing.T, f files) {
			c, k := pemPair(t, handmade(t, g, &x509.Certificate{Subject: pkix.Name{Organization: []string{"g1"}, CommonName: "main"}, NotAfter: soon, ExtKeyUsage: both[1:]}))
			f.write(t, c, k, g.cert)
		}, link.ErrCredentials, "incompatible key usage"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := files{filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"), filepath.Join(dir, "ca.crt")}
			f.issue(t, g, "main")
			tt.corrupt(t, f)
			c, err := link.LoadIdentity(f.cert, f.key, f.ca)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if id := c.Identity(); id.Node != "main" || id.Group != "g1" || time.Until(id.NotAfter) < 9*365*24*time.Hour {
					t.Errorf("identity %+v", id)
				}
				return
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v and %q", err, tt.want, tt.says)
			}
		})
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIssue_Refuses(t *testing.T) {
	g, other := newGroup(t, "g1"), newGroup(t, "g2")
	for name, f := range map[string]func() error{
		"EmptyGroup":   func() error { _, _, err := link.NewCA(""); return err },
		"LongGroup":    func() error { _, _, err := link.NewCA(strings.Repeat("g", 65)); return err },
		"EmptyNode":    func() error { _, _, err := link.Issue(g.cert, g.key, "", nil); return err },
		"NodeWithLine": func() error { _, _, err := link.Issue(g.cert, g.key, "a\nb", nil); return err },
		"OtherKey":     func() error { _, _, err := link.Issue(g.cert, other.key, "main", nil); return err },
		"NoPEM":        func() error { _, _, err := link.Issue([]byte("x"), g.key, "main", nil); return err },
		"NodeSigns": func() error {
			c, k := pemPair(t, g.pair(t, "main"))
			_, _, err := link.Issue(c, k, "backup", nil)
			return err
		},
	} {
		if err := f(); !errors.Is(err, link.ErrCredentials) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssue_HostsAndValidity(t *testing.T) {
	g := newGroup(t, "g1")
	cert, _, err := link.Issue(g.cert, g.key, "main", []string{"10.0.0.1", "db.example", ""})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.IPAddresses) != 1 || len(c.DNSNames) != 1 || c.IsCA {
		t.Errorf("addresses %v, names %v, CA %v", c.IPAddresses, c.DNSNames, c.IsCA)
	}
}
