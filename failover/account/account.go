// Package account finds the operating-system account that a daemon runs other
// programs as.
package account

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// Account is whom a program runs as.
type Account struct {
	Name     string
	UID, GID uint32
	Groups   []uint32 // supplementary
	// Switch is true when this process is root and so has to become the account;
	// otherwise it is the account.
	Switch bool
}

// Resolve finds the account of that name for root, which may become any. Any
// other user can only run programs as itself: the name must be empty or its
// own. Only that account may come back without a name, when the system knows
// none for it.
func Resolve(name string) (Account, error) { return resolve(name, os.Geteuid() == 0) }

func resolve(name string, root bool) (Account, error) {
	if !root {
		return own(name)
	}
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	a, err := read(u)
	a.Switch = true
	return a, err
}

func own(name string) (Account, error) {
	a := Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if u, err := user.Current(); err == nil {
		if a, err = read(u); err != nil {
			return Account{}, err
		}
	}
	if name != "" && name != a.Name {
		return Account{}, fmt.Errorf("only root can run programs as another user than itself (%s)", a.Name)
	}
	return a, nil
}

func read(u *user.User) (Account, error) {
	groups, err := u.GroupIds()
	if err != nil {
		groups = nil // without a group database the primary one does
	}
	var ids []uint32
	for _, s := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return Account{}, fmt.Errorf("read user or group id: %w", err)
		}
		ids = append(ids, uint32(n))
	}
	return Account{Name: u.Username, UID: ids[0], GID: ids[1], Groups: ids[2:]}, nil
}
