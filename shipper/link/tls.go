package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// keepAlive finds a silent peer on an idle connection within about ten seconds.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5}

// The verdict: the one byte with which the listening side ends the handshake.
// In TLS 1.3 the dialling side is done before its certificate has been looked
// at; without this byte it would learn of a refusal only at its first read.
const (
	verdictOK       = 1
	verdictBusy     = 2
	verdictProtocol = 3
)

// TLS is the network of real nodes. Its suites are TLS 1.3's in Go's order,
// which begins with AES-128-GCM wherever the processor has AES instructions.
func TLS(c *Credentials, log *slog.Logger) Network { return &tlsNetwork{creds: c, log: log} }

type tlsNetwork struct {
	creds *Credentials
	log   *slog.Logger
}

// Listen implements Network.
func (n *tlsNetwork) Listen(addr string) (Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: another process listens on %s", ErrAddrInUse, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return &tlsListener{server: newServer(), creds: n.creds, raw: l, quiet: limiter{every: time.Second}, log: n.log}, nil
}

// Dial implements Network.
func (n *tlsNetwork) Dial(ctx context.Context, addr string, p Protocol, node string) (net.Conn, Peer, error) {
	d := net.Dialer{Timeout: HandshakeTimeout, KeepAliveConfig: keepAlive}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("reach node: %w", err) // names the address itself
	}
	if err := tune(raw); err != nil {
		raw.Close()
		return nil, Peer{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	peer := Peer{Addr: raw.RemoteAddr().String()}
	c := tls.Client(raw, n.clientConfig(p, node, &peer))
	if err := shake(ctx, c, p); err != nil {
		raw.Close()
		return nil, Peer{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, peer, nil
}

// clientConfig verifies by certificate alone and fills peer on success.
func (n *tlsNetwork) clientConfig(p Protocol, node string, peer *Peer) *tls.Config {
	m := n.creds.now.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{string(p)},
		// Sent whatever CAs the other side lists, so that it can say whose
		// certificate it refused.
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.cert, nil },
		DynamicRecordSizingDisabled: true,
		// The standard check is by host name, which plays no part here.
		// VerifyConnection does all of it instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now())
			if err != nil {
				return err
			}
			peer.Node, peer.Group = id.Node, id.Group
			return checkNode(id.Node, node, peer.Addr)
		},
	}
}

// shake is the dialling side's handshake up to the verdict.
func shake(ctx context.Context, c *tls.Conn, p Protocol) error {
	ctx, cancel := context.WithTimeoutCause(ctx, HandshakeTimeout, errSlowHandshake)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return explain(ctx, err)
	}
	// Closing is how a blocked read learns of the end of ctx.
	stop := context.AfterFunc(ctx, func() { c.NetConn().Close() })
	var verdict [1]byte
	_, err := io.ReadFull(c, verdict[:])
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return explain(ctx, err)
	}
	switch {
	case verdict[0] == verdictBusy:
		return ErrBusy
	case verdict[0] == verdictProtocol, c.ConnectionState().NegotiatedProtocol != string(p):
		return fmt.Errorf("%w: %q", ErrProtocol, p)
	case verdict[0] != verdictOK:
		return fmt.Errorf("%w: verdict %d", ErrNotTLS, verdict[0])
	}
	return nil
}

var errSlowHandshake = fmt.Errorf("no complete handshake within %s: %w", HandshakeTimeout, context.DeadlineExceeded)

// explain turns what the TLS library reports into an error that says whose
// certificate was refused and why.
func explain(ctx context.Context, err error) error {
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &op) && op.Op == "remote error":
		return explainAlert(op.Err)
	case errors.As(err, &record):
		return fmt.Errorf("%w: %w", ErrNotTLS, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the other side closed the connection during the handshake: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("handshake: %w", err)
}

// explainAlert reads an alert from the other side. The library keeps its type
// to itself, so that only the text is left to go by; a test pins the texts.
func explainAlert(alert error) error {
	switch alert.Error() {
	case "tls: unknown certificate authority", "tls: bad certificate", "tls: certificate required":
		return fmt.Errorf("%w: the other side does not accept this node's certificate, or this node is not the one it expected (%w)", ErrForeignGroup, alert)
	case "tls: expired certificate":
		return fmt.Errorf("%w: the other side holds this node's certificate for expired (%w)", ErrExpired, alert)
	case "tls: no application protocol":
		return fmt.Errorf("%w (%w)", ErrProtocol, alert)
	case "tls: protocol version not supported":
		return fmt.Errorf("%w: no TLS 1.3 (%w)", ErrNotTLS, alert)
	}
	return fmt.Errorf("the other side ended the handshake: %w", alert)
}

// tune sets what the net package has no option for. Go sets NoDelay itself.
func tune(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := setUserTimeout(t, UserTimeout); err != nil {
		return fmt.Errorf("set TCP user timeout: %w", err)
	}
	return nil
}
