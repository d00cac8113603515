package tunnel_test

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"understudy/shipper/tunnel"
)

// TestAllowStalls: the link ends a connection whose reader rests for five
// seconds, which a tool that writes to a busy disk may do.
func TestAllowStalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	userTimeout := func() (ms int) {
		t.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return ms
	}
	tunnel.AllowStalls(tls.Client(c, &tls.Config{InsecureSkipVerify: true}))
	if got, want := userTimeout(), int(tunnel.StallTime.Milliseconds()); got != want {
		t.Errorf("a reader may rest for %d ms, want %d", got, want)
	}
	a, b := net.Pipe() // has nothing to set
	tunnel.AllowStalls(a)
	a.Close()
	b.Close()
	c.Close()
	tunnel.AllowStalls(c)
}
