package link_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit is how long a test waits for what must happen.
const waitLimit = 10 * time.Second

// world makes the networks of nodes; the same group and node twice are two
// instances of one node.
type world func(t *testing.T, group, node string) link.Network

func worlds() map[string]func() world {
	return map[string]func() world{
		"TLS": func() world {
			var mu sync.Mutex
			cas := map[string][2][]byte{}
			return func(t *testing.T, group, node string) link.Network {
				t.Helper()
				mu.Lock()
				defer mu.Unlock()
				ca, ok := cas[group]
				if !ok {
					ca[0], ca[1] = newCA(t, group)
					cas[group] = ca
				}
				return link.TLS(credentials(t, ca[0], ca[1], node), quiet())
			}
		},
		"Memory": func() world {
			m := link.Memory()
			return func(_ *testing.T, group, node string) link.Network { return m.Member(group, node) }
		},
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newCA(t *testing.T, group string) (cert, key []byte) {
	t.Helper()
	cert, key, err := link.NewCA(group)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func credentials(t *testing.T, caCert, caKey []byte, node string) *link.Credentials {
	t.Helper()
	cert, key, err := link.Issue(caCert, caKey, node, []string{"127.0.0.1", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := link.NewCredentials(cert, key, caCert)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listen serves until the end of the test.
func listen(t *testing.T, n link.Network, handlers map[link.Protocol]link.Handler) link.Listener {
	t.Helper()
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for p, h := range handlers {
		l.Handle(p, h)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(t.Context()) }()
	t.Cleanup(func() {
		l.Close()
		if err := receive(t, served); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

func receive[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(waitLimit):
		t.Fatal("nothing came")
	}
	return v
}

func echo(_ context.Context, c net.Conn, _ link.Peer) { _, _ = io.Copy(c, c) }

// dial expects success.
func dial(t *testing.T, n link.Network, l link.Listener, p link.Protocol, node string) (net.Conn, link.Peer) {
	t.Helper()
	c, peer, err := n.Dial(t.Context(), l.Addr().String(), p, node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, peer
}

func ping(c net.Conn, text string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return fmt.Errorf("got %q", b)
	}
	return nil
}
