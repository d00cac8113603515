package localsock_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/shipper/localsock"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := localsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := localsock.Listen(path); err == nil || !strings.Contains(err.Error(), "another server listens") {
		t.Errorf("while it is in use: %v", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	uid, err := localsock.PeerUID(peer)
	if err != nil || uid != uint32(os.Getuid()) {
		t.Errorf("the other end is account %d, %v", uid, err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := localsock.Listen(path) // a file that nobody listens on is in nobody's way
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestListen_Refuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, "/" + strings.Repeat("x", 107), filepath.Join(t.TempDir(), "none", "s")} {
		if l, err := localsock.Listen(path); err == nil {
			l.Close()
			t.Errorf("%q was taken", path)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "kept" {
		t.Errorf("a file in the way: %q, %v", b, err)
	}
}

func TestAllowed(t *testing.T) {
	me := uint32(os.Geteuid())
	for _, tt := range []struct {
		uids []uint32
		uid  uint32
		want bool
	}{{nil, me, true}, {nil, me + 1, false}, {[]uint32{7}, 7, true}, {[]uint32{7}, me, false}} {
		if got := localsock.Allowed(tt.uids, tt.uid); got != tt.want {
			t.Errorf("%v, %d: %t", tt.uids, tt.uid, got)
		}
	}
}
