package sftp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// The bounds and defaults of a Config.
const (
	defaultConnections = 4
	maxConnections     = 16
	defaultKeepAlive   = 5 * time.Second
)

// Config says where a place is and who we are there.
type Config struct {
	// Address is the server, host or host:port; the port is 22 when not given.
	Address string
	// User is the account at the server.
	User string
	// Root is the directory at the server below which all objects are. A path
	// that does not begin with a slash is below the directory in which the
	// account begins. It must exist: a root that is made on demand would fill
	// the wrong disk when the right one is not mounted.
	Root string
	// HostKey is how the server is recognized: a line of known_hosts, a line
	// such as "ssh-ed25519 AAAA…", or a fingerprint "SHA256:…"; several, one per
	// line, are alternatives. There is no way to accept any key.
	HostKey string
	// Key is our private key, PEM, and Passphrase what it is encrypted with.
	Key        []byte
	Passphrase []byte
	// Connections bounds how many connections are open at once; 0 is 4. A
	// connection carries at most 2 MiB per round trip: four of them fill 1 Gbit/s
	// at 60 ms.
	Connections int
	// KeepAlive is how long a connection may be silent before the server is
	// asked to say something; 0 is 5 s. After three times that without a word
	// the connection is given up.
	KeepAlive time.Duration
}

// Validate tells whether the configuration is complete and its keys can be
// read.
func (c Config) Validate() error {
	_, err := c.prepare()
	return err
}

// patience is how long a server may be silent.
func (c Config) patience() time.Duration { return 3 * c.KeepAlive }

// prepared is a Config that was checked.
type prepared struct {
	Config
	signer ssh.Signer
	known  known
}

func (c Config) prepare() (prepared, error) {
	p := prepared{Config: c}
	if c.Address == "" || c.User == "" || c.Root == "" {
		return p, errors.New("sftp: address, user and root directory must be given")
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		p.Address = net.JoinHostPort(strings.Trim(c.Address, "[]"), "22")
	}
	p.Root = path.Clean(c.Root)
	if c.Connections < 0 || c.Connections > maxConnections {
		return p, fmt.Errorf("sftp: %d connections, 1 to %d are possible", c.Connections, maxConnections)
	}
	if c.KeepAlive < 0 {
		return p, errors.New("sftp: a keepalive time cannot be negative")
	}
	if c.Connections == 0 {
		p.Connections = defaultConnections
	}
	if c.KeepAlive == 0 {
		p.KeepAlive = defaultKeepAlive
	}
	var err error
	if p.known, err = parseKnown(c.HostKey); err != nil {
		return p, err
	}
	p.signer, err = parseKey(c.Key, c.Passphrase)
	return p, err
}

func parseKey(key, passphrase []byte) (ssh.Signer, error) {
	if len(key) == 0 {
		return nil, errors.New("sftp: a private key must be given")
	}
	s, err := ssh.ParsePrivateKey(key)
	var encrypted *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &encrypted) && len(passphrase) == 0:
		return nil, errors.New("sftp: the private key is encrypted: give its passphrase")
	case errors.As(err, &encrypted):
		s, err = ssh.ParsePrivateKeyWithPassphrase(key, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("sftp: read the private key: %w", err)
	}
	return s, nil
}

// known are the host keys that we accept.
type known struct {
	keys   []ssh.PublicKey
	prints []string // SHA256:…
}

var fingerprint = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}=?$`)

func parseKnown(text string) (known, error) {
	var k known
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case fingerprint.MatchString(line):
			k.prints = append(k.prints, strings.TrimSuffix(line, "="))
		default:
			key, err := parseKnownLine(line)
			if err != nil {
				return known{}, err
			}
			k.keys = append(k.keys, key)
		}
	}
	if len(k.keys)+len(k.prints) == 0 {
		return known{}, errors.New("sftp: the server's host key must be given: a line of known_hosts (ssh-keyscan prints it; compare it on the server) or its SHA256 fingerprint")
	}
	return k, nil
}

// parseKnownLine reads a line of known_hosts with or without the names before
// the key. The names are not compared: the line was given for this server.
func parseKnownLine(line string) (ssh.PublicKey, error) {
	fields := strings.Fields(line)
	if fields[0] == "@revoked" || fields[0] == "@cert-authority" {
		return nil, fmt.Errorf("sftp: %s is not understood in a host key: give the server's key itself", fields[0])
	}
	for i := 0; i+1 < len(fields) && i < 2; i++ {
		raw, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err != nil {
			continue
		}
		key, err := ssh.ParsePublicKey(raw)
		if err == nil && key.Type() == fields[i] {
			return key, nil
		}
	}
	return nil, fmt.Errorf("sftp: %.60q is neither a line of known_hosts nor a fingerprint such as SHA256:…", line)
}

// has tells whether the server may have this key.
func (k known) has(key ssh.PublicKey) bool {
	return slices.ContainsFunc(k.keys, func(x ssh.PublicKey) bool { return bytes.Equal(x.Marshal(), key.Marshal()) }) ||
		slices.Contains(k.prints, ssh.FingerprintSHA256(key))
}

// families are the kinds of host keys. A server has one key of each kind and
// shows that of the kind that is asked for first.
func families() [][]string {
	return [][]string{
		{ssh.KeyAlgoED25519},
		{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
		{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	}
}

// offers are the kinds of key to ask the server for, in turn: those of the
// keys that are known, and all when there is only a fingerprint.
func (k known) offers() [][]string {
	if len(k.prints) > 0 {
		return families()
	}
	var out []string
	for _, key := range k.keys {
		kind := []string{key.Type()}
		if key.Type() == ssh.KeyAlgoRSA {
			kind = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		out = append(out, kind...)
	}
	return [][]string{out}
}
