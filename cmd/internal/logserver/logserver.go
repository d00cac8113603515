// Package logserver gives a recovering PostgreSQL its log: the socket on which
// restore_command asks for files, and the folder from which it takes them.
package logserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"understudy/failover/pgctl"
	"understudy/shipper/archive"
)

// Hand makes the folder from which the database account takes files, and says
// how they become its own: for archive.FetchConfig.
func Hand(dir string, a pgctl.Account) (own func(path string) error, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	own = func(path string) error {
		if !a.Switch {
			return nil
		}
		return os.Chown(path, int(a.UID), int(a.GID))
	}
	return own, own(dir)
}

// Serve answers questions for log on a socket until the function it returns is
// called; that one returns why it ended early. The database account and this
// one may ask.
func Serve(ctx context.Context, socket string, a pgctl.Account, f *archive.Fetcher) (stop func() error, err error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	err = os.Chmod(socket, 0o600)
	if err == nil && a.Switch {
		err = os.Chown(socket, int(a.UID), int(a.GID))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- archive.ServeFetch(ctx, l, f) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

// ProgramFor is this program where the database account can execute it: a copy
// at the path given when it lies where only root may go.
func ProgramFor(binary, at string, a pgctl.Account) (string, error) {
	if !a.Switch || everybodyReaches(binary) {
		return binary, nil
	}
	src, err := os.Open(binary)
	if err != nil {
		return "", err
	}
	defer src.Close()
	temp := at + ".new"
	dst, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return "", fmt.Errorf("copy this program to where account %s can run it: %w", a.Name, err)
	}
	return at, os.Rename(temp, at)
}

// everybodyReaches tells whether any account can execute a file.
func everybodyReaches(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for p := path; ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil || fi.Mode().Perm()&0o001 == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}
