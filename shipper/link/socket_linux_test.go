package link_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"understudy/shipper/link"
)

func TestTLS_SocketOptions(t *testing.T) {
	g := newGroup(t, "g1")
	served := make(chan map[string]int, 1)
	l := listen(t, g.network(t, "main"), map[link.Protocol]link.Handler{
		link.Stream: func(_ context.Context, c net.Conn, _ link.Peer) { served <- socketOptions(t, c) },
	})
	c, _ := dial(t, g.network(t, "backup"), l, link.Stream, "main")
	for side, got := range map[string]map[string]int{"dialled": socketOptions(t, c), "accepted": receive(t, served)} {
		want := map[string]int{"user timeout": int(link.UserTimeout.Milliseconds()), "no delay": 1, "keepalive idle": 5, "keepalive interval": 1}
		for name, v := range want {
			if got[name] != v {
				t.Errorf("%s: %s is %d, want %d", side, name, got[name], v)
			}
		}
	}
}

func socketOptions(t *testing.T, c net.Conn) map[string]int {
	raw, err := c.(*tls.Conn).NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Error(err)
		return nil
	}
	out := map[string]int{}
	err = raw.Control(func(fd uintptr) {
		for name, opt := range map[string]int{
			"user timeout": unix.TCP_USER_TIMEOUT, "no delay": unix.TCP_NODELAY,
			"keepalive idle": unix.TCP_KEEPIDLE, "keepalive interval": unix.TCP_KEEPINTVL,
		} {
			v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt)
			if err != nil {
				t.Error(err)
			}
			out[name] = v
		}
	})
	if err != nil {
		t.Error(err)
	}
	return out
}
