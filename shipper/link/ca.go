package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	caName   = "understudy CA"
	caYears  = 20
	ourYears = 10
	// clockSlack is how far the clocks of two nodes may differ when a
	// certificate is used right after it was issued.
	clockSlack = time.Hour
	// maxName is X.509's bound on organization and common name.
	maxName = 64
)

// NewCA makes a group's certificate authority: a self-signed ECDSA P-256
// certificate of 20 years, whose organization is the group id, and its key in
// PKCS #8. Whoever has the key can make members of the group.
func NewCA(group string) (certPEM, keyPEM []byte, err error) {
	if err := checkName("group id", group); err != nil {
		return nil, nil, err
	}
	key, serial, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make CA: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{group}, CommonName: caName},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.AddDate(caYears, 0, 0),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA: %w", err)
	}
	return encodePair(der, key)
}

// Issue makes a node's certificate, for 10 years or as long as the CA's lasts,
// and its key in PKCS #8. hosts, names or IP addresses, are for tools that
// check them; the link itself does not.
func Issue(caCert, caKey []byte, node string, hosts []string) (certPEM, keyPEM []byte, err error) {
	if err := checkName("node name", node); err != nil {
		return nil, nil, err
	}
	ca, err := parseCA(caCert)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	signer, err := parseKey(caKey, ca)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	key, serial, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: ca.Subject.Organization, CommonName: node},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              earlier(now.AddDate(ourYears, 0, 0), ca.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if h != "" {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	return encodePair(der, key)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// newKey makes a key and a serial number of 127 random bits.
func newKey() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	return key, serial.Add(serial, big.NewInt(1)), nil
}

func encodePair(der []byte, key *ecdsa.PrivateKey) (certPEM, keyPEM []byte, err error) {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), nil
}

// parseCA reads the group's one CA certificate.
func parseCA(caPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%w: the CA certificate is not in PEM form", ErrCredentials)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: parse the CA certificate: %w", ErrCredentials, err)
	}
	if !ca.IsCA {
		return nil, fmt.Errorf("%w: the CA certificate is not one of a CA but of %q", ErrCredentials, ca.Subject.CommonName)
	}
	if groupOf(ca) == "" {
		return nil, fmt.Errorf("%w: the CA certificate names no group", ErrCredentials)
	}
	return ca, nil
}

// parseKey reads the private key that belongs to cert.
func parseKey(keyPEM []byte, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%w: the key is not in PEM form", ErrCredentials)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: parse the key: %w", ErrCredentials, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: the key does not belong to the certificate of %q", ErrCredentials, cert.Subject.CommonName)
	}
	return key, nil
}

// groupOf is the group that a certificate names; empty unless it names one.
func groupOf(c *x509.Certificate) string {
	if len(c.Subject.Organization) != 1 {
		return ""
	}
	return c.Subject.Organization[0]
}

// checkName refuses what X.509 cannot hold or a log line would show wrongly.
func checkName(what, s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%w: %s must have 1 to %d characters, %q has %d", ErrCredentials, what, maxName, s, len(s))
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%w: %s %q: only printable ASCII without spaces", ErrCredentials, what, s)
		}
	}
	return nil
}
