package hook

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// Account is who runs the hooks.
type Account struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32
	// Switch is true when the daemon is root and so has to become the account;
	// otherwise it is the account.
	Switch bool
}

// ResolveAccount finds the account of the hooks: name, or the database's when
// name is empty. A daemon that is not root can only run them as itself.
func ResolveAccount(name, database string) (Account, error) {
	if os.Geteuid() != 0 {
		return ownAccount(name)
	}
	if name == "" {
		name = database
	}
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, fmt.Errorf("account %q of the hooks: %w", name, err)
	}
	a := Account{Name: u.Username, Switch: true}
	if a.UID, err = parseID(u.Uid); err != nil {
		return Account{}, err
	}
	if a.GID, err = parseID(u.Gid); err != nil {
		return Account{}, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		groups = nil // without a group database the primary one does
	}
	for _, s := range groups {
		g, err := parseID(s)
		if err != nil {
			return Account{}, err
		}
		a.Groups = append(a.Groups, g)
	}
	return a, nil
}

// ownAccount is the daemon's own account, which may have no name.
func ownAccount(name string) (Account, error) {
	a := Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	u, err := user.Current()
	if err == nil {
		a.Name = u.Username
	}
	if name != "" && name != a.Name {
		return Account{}, fmt.Errorf("account %q of the hooks: only root can run them as another user than itself (%s)", name, a.Name)
	}
	return a, nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read account: %w", err)
	}
	return uint32(n), nil
}
