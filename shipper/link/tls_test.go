package link_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/cpu"

	"understudy/shipper/link"
)

// group is a CA whose nodes talk over TLS.
type group struct{ cert, key []byte }

func newGroup(t *testing.T, id string) group {
	t.Helper()
	cert, key := newCA(t, id)
	return group{cert, key}
}

func (g group) network(t *testing.T, node string) link.Network {
	t.Helper()
	return link.TLS(credentials(t, g.cert, g.key, node), quiet())
}

// pair is a node's certificate for TLS without the link.
func (g group) pair(t *testing.T, node string) tls.Certificate {
	t.Helper()
	cert, key, err := link.Issue(g.cert, g.key, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (g group) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(g.cert)
	return p
}

// logBuffer collects a log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// waitFor polls until the log holds text.
func (l *logBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !strings.Contains(l.String(), text); {
		if time.Now().After(end) {
			t.Fatalf("no %q in the log:\n%s", text, l)
		}
		time.Sleep(time.Millisecond)
	}
}

func rawDial(t *testing.T, l link.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantEnd expects the other side to end the connection.
func wantEnd(t *testing.T, c net.Conn) {
	t.Helper()
	var ne net.Error
	if _, err := io.Copy(io.Discard, c); errors.As(err, &ne) && ne.Timeout() {
		t.Error("the connection stays open")
	}
}

func TestTLS_GarbageIsClosed(t *testing.T) {
	g := newGroup(t, "g1")
	l := listen(t, g.network(t, "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	for name, bytes := range map[string]string{
		"HTTP":  "GET / HTTP/1.1\r\nHost: main\r\n\r\n",
		"Zeros": strings.Repeat("\x00", 4096),
		"Hello": "\x16\x03\x01\x00\xff" + strings.Repeat("\x01", 255),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, l)
			if _, err := io.WriteString(c, bytes); err != nil {
				t.Fatal(err)
			}
			wantEnd(t, c)
		})
	}
	c, _ := dial(t, g.network(t, "backup"), l, link.Stream, "main")
	if err := ping(c, "still here"); err != nil {
		t.Error(err)
	}
}

func TestTLS_SilentClientsAreBounded(t *testing.T) {
	g := newGroup(t, "g1")
	l := listen(t, g.network(t, "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	begin := time.Now()
	waiting := make([]net.Conn, link.MaxHandshakes)
	for i := range waiting {
		waiting[i] = rawDial(t, l)
	}
	wantEnd(t, rawDial(t, l)) // one too many
	if d := time.Since(begin); d >= link.HandshakeTimeout {
		t.Errorf("refused only after %s", d)
	}
	for _, c := range waiting {
		wantEnd(t, c)
	}
	if d := time.Since(begin); d < link.HandshakeTimeout {
		t.Errorf("given up after %s", d)
	}
	c, _ := dial(t, g.network(t, "backup"), l, link.Stream, "main")
	if err := ping(c, "room again"); err != nil {
		t.Error(err)
	}
}

func TestTLS_ListenerRefusesClient(t *testing.T) {
	g, other := newGroup(t, "g1"), newGroup(t, "g2")
	for name, tt := range map[string]struct {
		config *tls.Config
		logged string
	}{
		"ForeignGroup":  {&tls.Config{Certificates: []tls.Certificate{other.pair(t, "backup")}}, link.ErrForeignGroup.Error()},
		"Expired":       {&tls.Config{Certificates: []tls.Certificate{expired(t, g)}}, link.ErrExpired.Error()},
		"NoCertificate": {&tls.Config{}, "didn't provide a certificate"},
		"OldTLS":        {&tls.Config{Certificates: []tls.Certificate{g.pair(t, "backup")}, MaxVersion: tls.VersionTLS12}, "unsupported versions"},
		"NoProtocol":    {&tls.Config{Certificates: []tls.Certificate{g.pair(t, "backup")}, NextProtos: []string{}}, link.ErrProtocol.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var logged logBuffer
			n := link.TLS(credentials(t, g.cert, g.key, "main"), slog.New(slog.NewTextHandler(&logged, nil)))
			l := listen(t, n, map[link.Protocol]link.Handler{
				link.Stream: func(_ context.Context, _ net.Conn, p link.Peer) { t.Errorf("served %+v", p) },
			})
			config := tt.config.Clone()
			config.InsecureSkipVerify = true
			if config.NextProtos == nil {
				config.NextProtos = []string{string(link.Stream)}
			}
			certs := config.Certificates
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(certs) == 0 {
					return new(tls.Certificate), nil
				}
				return &certs[0], nil
			}
			wantEnd(t, tls.Client(rawDial(t, l), config))
			logged.waitFor(t, tt.logged)
		})
	}
}

// TestTLS_DialExplainsAlerts pins the texts of the alerts that a Dial has to
// tell apart.
func TestTLS_DialExplainsAlerts(t *testing.T) {
	g, other := newGroup(t, "g1"), newGroup(t, "g2")
	for name, tt := range map[string]struct {
		config *tls.Config
		want   error
	}{
		"UnknownCA": {&tls.Config{ClientCAs: other.pool()}, link.ErrForeignGroup},
		"Expired":   {&tls.Config{ClientCAs: g.pool(), Time: func() time.Time { return time.Now().AddDate(11, 0, 0) }}, link.ErrExpired},
		"Rejected":  {&tls.Config{ClientCAs: g.pool(), VerifyConnection: func(tls.ConnectionState) error { return errors.New("no") }}, link.ErrForeignGroup},
		"Protocol":  {&tls.Config{ClientCAs: g.pool(), NextProtos: []string{"h2"}}, link.ErrProtocol},
		"OldTLS":    {&tls.Config{ClientCAs: g.pool(), MaxVersion: tls.VersionTLS12}, link.ErrNotTLS},
	} {
		t.Run(name, func(t *testing.T) {
			config := tt.config.Clone()
			config.Certificates = []tls.Certificate{g.pair(t, "main")}
			config.ClientAuth = tls.RequireAndVerifyClientCert
			if config.NextProtos == nil {
				config.NextProtos = []string{string(link.Stream)}
			}
			addr := answer(t, func(c net.Conn) {
				s := tls.Server(c, config)
				_ = s.Handshake()
				_ = s.Close()
			})
			_, _, err := g.network(t, "backup").Dial(t.Context(), addr, link.Stream, "main")
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// answer runs f for the first connection to the address it returns.
func answer(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		f(c)
	}()
	t.Cleanup(func() { l.Close(); receive(t, done) })
	return l.Addr().String()
}

func TestTLS_DialOtherServers(t *testing.T) {
	g := newGroup(t, "g1")
	for name, tt := range map[string]struct {
		f    func(net.Conn)
		want error
	}{
		"SSH": {func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.0\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, link.ErrNotTLS},
		"ClosesAtOnce":      {func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }, nil},
		"ExpiredServer":     {serveWith(expired(t, g)), link.ErrExpired},
		"ServerUnderNoCA":   {serveWith(newGroup(t, "g1").pair(t, "main")), link.ErrForeignGroup},
		"ServerWithoutLink": {serveWith(g.pair(t, "main")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := g.network(t, "backup").Dial(t.Context(), answer(t, tt.f), link.Stream, "main")
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// serveWith shakes hands and closes.
func serveWith(cert tls.Certificate) func(net.Conn) {
	return func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{string(link.Stream)}, ClientAuth: tls.RequireAnyClientCert})
		_ = s.Handshake()
		_ = s.Close()
	}
}

func TestTLS_SuiteAndProtocol(t *testing.T) {
	g := newGroup(t, "g1")
	l := listen(t, g.network(t, "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	c, _ := dial(t, g.network(t, "backup"), l, link.Stream, "main")
	s := c.(*tls.Conn).ConnectionState()
	if s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != string(link.Stream) || s.DidResume {
		t.Errorf("%+v", s)
	}
	if cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Errorf("suite %s", tls.CipherSuiteName(s.CipherSuite))
	}
}

func TestTLS_ReloadTakesEffect(t *testing.T) {
	g := newGroup(t, "g1")
	dir := t.TempDir()
	f := files{filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"), filepath.Join(dir, "ca.crt")}
	f.issue(t, g, "main")
	creds, err := link.LoadIdentity(f.cert, f.key, f.ca)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, link.TLS(creds, quiet()), map[link.Protocol]link.Handler{link.Stream: echo})
	backup := g.network(t, "backup")
	serial := func() string {
		c, _ := dial(t, backup, l, link.Stream, "main")
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	f.issue(t, g, "main")
	if again := serial(); again != first {
		t.Error("renewed without Reload")
	}
	if err := creds.Reload(); err != nil {
		t.Fatal(err)
	}
	second := serial()
	if second == first {
		t.Error("not renewed by Reload")
	}
	f.issue(t, g, "witness")
	if err := creds.Reload(); !errors.Is(err, link.ErrCredentials) {
		t.Errorf("another node's certificate: %v", err)
	}
	f.issue(t, newGroup(t, "g2"), "main")
	if err := creds.Reload(); !errors.Is(err, link.ErrCredentials) {
		t.Errorf("another group's certificate: %v", err)
	}
	if serial() != second || creds.Identity().Node != "main" {
		t.Error("a refused Reload changed the credentials")
	}
}
