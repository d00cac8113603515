// Package localsock makes the unix sockets on which a daemon serves programs of
// its own host that run under other accounts, and tells who they are.
package localsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes the socket at path, of at most 107 bytes; a file that nobody
// listens on is removed first. The socket is open to all accounts: who may go
// on is decided by the peer's credentials.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) == 0 || len(path) > 107 {
		return nil, fmt.Errorf("socket path %q has %d bytes, 1 to 107 are possible", path, len(path))
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("another server listens on %s", path)
	}
	return os.Remove(path)
}

// PeerUID is the account of the program at the other end.
func PeerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// Allowed tells whether an account is among those allowed; an empty list means
// the account of this process only.
func Allowed(uids []uint32, uid uint32) bool {
	if len(uids) == 0 {
		return uid == uint32(os.Geteuid())
	}
	return slices.Contains(uids, uid)
}
