package link_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"understudy/shipper/link"
)

// inMemory runs f in a bubble with main listening and echoing, so that the
// seconds of a cut pass at once.
func inMemory(t *testing.T, f func(t *testing.T, m *link.MemNetwork, l link.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		m := link.Memory()
		f(t, m, listen(t, m.Node("main"), map[link.Protocol]link.Handler{link.Stream: echo}))
	})
}

func TestMemNetwork_HealDeliversWhatWaited(t *testing.T) {
	inMemory(t, func(t *testing.T, m *link.MemNetwork, l link.Listener) {
		c, _ := dial(t, m.Node("backup"), l, link.Stream, "main")
		other, _ := dial(t, m.Node("witness"), l, link.Stream, "main")
		m.Cut("backup", "main")
		got := make(chan error, 1)
		go func() { got <- ping(c, "late") }()
		time.Sleep(link.UserTimeout - time.Second)
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("came through the cut: %v", err)
		default:
		}
		if err := ping(other, "uncut"); err != nil {
			t.Errorf("another pair: %v", err)
		}
		m.Heal("main", "backup")
		if err := receive(t, got); err != nil {
			t.Errorf("after Heal: %v", err)
		}
		time.Sleep(2 * link.UserTimeout)
		if err := ping(c, "alive"); err != nil {
			t.Errorf("a healed connection died: %v", err)
		}
	})
}

func TestMemNetwork_LongCutEndsConnections(t *testing.T) {
	inMemory(t, func(t *testing.T, m *link.MemNetwork, l link.Listener) {
		c, _ := dial(t, m.Node("backup"), l, link.Stream, "main")
		m.Cut("main", "backup")
		begin := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begin); d != link.UserTimeout {
			t.Errorf("after %s", d)
		}
		m.Heal("main", "backup")
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("write: %v", err)
		}
		again, _ := dial(t, m.Node("backup"), l, link.Stream, "main")
		if err := ping(again, "anew"); err != nil {
			t.Error(err)
		}
	})
}

func TestMemNetwork_DialThroughCut(t *testing.T) {
	inMemory(t, func(t *testing.T, m *link.MemNetwork, l link.Listener) {
		m.Cut("main", "backup")
		begin := time.Now()
		_, _, err := m.Node("backup").Dial(t.Context(), l.Addr().String(), link.Stream, "main")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != link.HandshakeTimeout {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		// A cut hides also that nobody listens any more.
		l.Close()
		if _, _, err = m.Node("backup").Dial(t.Context(), l.Addr().String(), link.Stream, "main"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closed port behind the cut: %v", err)
		}
		time.AfterFunc(time.Second, func() { m.Heal("main", "backup") })
		if _, _, err = m.Node("backup").Dial(t.Context(), l.Addr().String(), link.Stream, "main"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port after Heal: %v", err)
		}
	})
}

func TestMemNetwork_CloseAll(t *testing.T) {
	inMemory(t, func(t *testing.T, m *link.MemNetwork, l link.Listener) {
		c, _ := dial(t, m.Node("backup"), l, link.Stream, "main")
		m.CloseAll()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
		again, _ := dial(t, m.Node("backup"), l, link.Stream, "main")
		if err := ping(again, "anew"); err != nil {
			t.Error(err)
		}
	})
}

func TestMemNetwork_CloseWhileCut(t *testing.T) {
	inMemory(t, func(t *testing.T, m *link.MemNetwork, _ link.Listener) {
		l := listen(t, m.Node("witness"), map[link.Protocol]link.Handler{
			link.Stream: func(_ context.Context, c net.Conn, _ link.Peer) { _, _ = io.WriteString(c, "last words") },
		})
		c, _ := dial(t, m.Node("backup"), l, link.Stream, "witness")
		synctest.Wait() // the handler has written and its connection is closed
		m.Cut("witness", "backup")
		time.AfterFunc(time.Second, func() { m.Heal("witness", "backup") })
		begin := time.Now()
		b, err := io.ReadAll(c)
		if string(b) != "last words" || err != nil || time.Since(begin) != time.Second {
			t.Errorf("%q, %v after %s", b, err, time.Since(begin))
		}
	})
}
