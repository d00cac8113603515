package local

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
)

// explain gives an error of the system the sentinel that says what it means
// for a location. What has none, such as EIO, is passed on as it is.
func explain(verb string, err error, writing bool) error {
	var mark error
	switch {
	case err == nil:
		return nil
	case is(err, unix.ENOSPC, unix.EDQUOT):
		mark = location.ErrNoSpace
	case is(err, unix.EROFS), writing && is(err, unix.EACCES, unix.EPERM):
		mark = location.ErrReadOnly
	case is(err, unix.EACCES, unix.EPERM):
		mark = location.ErrRefused
	case is(err, unix.ESTALE, unix.ENOTCONN, unix.ENXIO, unix.ENODEV, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EHOSTUNREACH):
		mark = location.ErrUnreachable
	case errors.Is(err, fs.ErrClosed):
		mark = location.ErrClosed
	case errors.Is(err, fs.ErrNotExist):
		mark = location.ErrNotExist
	}
	if mark == nil || errors.Is(err, mark) {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return fmt.Errorf("%s: %w: %w", verb, mark, err)
}

func is(err error, codes ...unix.Errno) bool {
	for _, c := range codes {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}
