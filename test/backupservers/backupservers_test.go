package backupservers_test

import (
	"io"
	"net"
	"testing"
	"time"

	"understudy/test/backupservers"
)

// echo answers with what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func TestProxy_DelaysEachDirection(t *testing.T) {
	p := backupservers.NewProxy(t, echo(t), 50*time.Millisecond)
	c, err := net.Dial("tcp", p.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	began := time.Now()
	want := make([]byte, 1<<20)
	go c.Write(want)
	if _, err := io.ReadFull(c, make([]byte, len(want))); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < 100*time.Millisecond {
		t.Errorf("1 MiB and back took %s", d)
	}
	p.Cut()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that was cut is still there")
	}
}

func TestSSHD_FreezesAndDies(t *testing.T) {
	s := backupservers.NewSSHD(t)
	banner := func(d time.Duration) error {
		c, err := net.Dial("tcp", s.Address)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(d))
		_, err = io.ReadFull(c, make([]byte, 4))
		return err
	}
	if err := banner(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	s.Freeze()
	if err := banner(300 * time.Millisecond); err == nil {
		t.Error("a frozen server speaks")
	}
	s.Thaw()
	if err := banner(10 * time.Second); err != nil {
		t.Error(err)
	}
	s.Kill()
	if err := banner(time.Second); err == nil {
		t.Error("a dead server speaks")
	}
	s.Start(t)
	if err := banner(10 * time.Second); err != nil {
		t.Error(err)
	}
}
