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
	"sync"
	"syscall"
	"time"
)

type tlsListener struct {
	*server
	creds *Credentials
	raw   net.Listener
	quiet limiter
	log   *slog.Logger
}

// Addr implements Listener.
func (l *tlsListener) Addr() net.Addr { return l.raw.Addr() }

// Close implements Listener.
func (l *tlsListener) Close() error {
	if !l.shut() {
		return nil
	}
	return l.raw.Close()
}

// Serve implements Listener.
func (l *tlsListener) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	// From outside in: no new connections, then the end of the open ones, then
	// wait for their handlers.
	defer wg.Wait()
	defer cancel()
	defer l.Close()
	wg.Go(func() {
		select {
		case <-l.done:
			cancel()
		case <-ctx.Done():
			l.Close()
		}
	})
	return l.acceptLoop(ctx, &wg)
}

// acceptLoop ends with Close. A shortage of file descriptors or memory is
// waited out, since it ends when others let go.
func (l *tlsListener) acceptLoop(ctx context.Context, wg *sync.WaitGroup) error {
	slots := make(chan struct{}, MaxHandshakes)
	for wait := time.Duration(0); ; {
		raw, err := l.raw.Accept()
		switch {
		case err == nil:
			wait = 0
		case errors.Is(err, net.ErrClosed):
			return nil
		case transient(err):
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			l.refused(nil, err)
			select {
			case <-time.After(wait):
			case <-l.done:
			}
			continue
		default:
			return fmt.Errorf("accept on %s: %w", l.raw.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			raw.Close()
			l.refused(raw.RemoteAddr(), fmt.Errorf("%w: %d are in handshakes", ErrBusy, MaxHandshakes))
			continue
		}
		wg.Go(func() { l.serve(ctx, raw, slots) })
	}
}

func transient(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serve takes one connection from its first byte to its end.
func (l *tlsListener) serve(ctx context.Context, raw net.Conn, slots <-chan struct{}) {
	c, h, peer, err := l.shake(ctx, raw)
	<-slots
	if err != nil {
		raw.Close()
		if ctx.Err() == nil {
			l.refused(raw.RemoteAddr(), err)
		}
		return
	}
	defer l.release()
	serveConn(ctx, c, peer, h)
}

// shake is the listening side's handshake. On success a place is reserved.
func (l *tlsListener) shake(ctx context.Context, raw net.Conn) (net.Conn, Handler, Peer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, HandshakeTimeout, errSlowHandshake)
	defer cancel()
	if err := tune(raw); err != nil {
		return nil, nil, Peer{}, err
	}
	// Covers the verdict as well, which HandshakeContext does not see.
	if err := raw.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return nil, nil, Peer{}, err
	}
	peer := Peer{Addr: raw.RemoteAddr().String()}
	c := tls.Server(raw, l.config(&peer))
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, Peer{}, explainServer(ctx, err)
	}
	h, err := l.admit(Protocol(c.ConnectionState().NegotiatedProtocol))
	if err != nil {
		verdict := byte(verdictProtocol)
		if errors.Is(err, ErrBusy) {
			verdict = verdictBusy
		}
		// The refusal is the error to report, not that it could not be told.
		_, _ = c.Write([]byte{verdict})
		_ = c.Close()
		return nil, nil, Peer{}, fmt.Errorf("node %q: %w", peer.Node, err)
	}
	if _, err = c.Write([]byte{verdictOK}); err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		l.release()
		return nil, nil, Peer{}, err
	}
	return c, h, peer, nil
}

// config is made for each handshake, since credentials and protocols change
// while serving.
func (l *tlsListener) config(peer *Peer) *tls.Config {
	m := l.creds.now.Load()
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{m.cert},
		NextProtos:                  l.protocols(),
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		// The standard verification sends the alerts that tell the dialling
		// side why; VerifyConnection then reads the name.
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  m.pool,
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Now())
			peer.Node, peer.Group = id.Node, id.Group
			return err
		},
	}
}

// explainServer is explain for the listening side, whose own refusal of a
// certificate comes from the standard verification.
func explainServer(ctx context.Context, err error) error {
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case ctx.Err() == nil && errors.As(err, &cert) && len(cert.UnverifiedCertificates) > 0:
		leaf := cert.UnverifiedCertificates[0]
		switch {
		case errors.As(err, &unknown):
			return fmt.Errorf("%w: node %q of group %q: %w", ErrForeignGroup, leaf.Subject.CommonName, groupOf(leaf), err)
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return fmt.Errorf("%w: that of node %q: %w", ErrExpired, leaf.Subject.CommonName, err)
		}
	}
	return explain(ctx, err)
}

// refused logs a connection that did not come about: port checks for debugging
// only, the others at most once a second, since anybody can cause them.
func (l *tlsListener) refused(from net.Addr, err error) {
	addr := ""
	if from != nil {
		addr = from.String()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		l.log.Debug("connection ended in the handshake", "peer_addr", addr, "error", err)
		return
	}
	if skipped, ok := l.quiet.allow(time.Now()); ok {
		l.log.Warn("connection refused", "peer_addr", addr, "error", err, "skipped_n", skipped)
	}
}

// limiter lets one event through per interval and counts those it holds back.
type limiter struct {
	every time.Duration

	mu      sync.Mutex
	last    time.Time
	skipped int
}

func (l *limiter) allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.Sub(l.last) < l.every {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.last = l.skipped, 0, now
	return skipped, true
}
