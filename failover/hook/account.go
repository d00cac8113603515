package hook

import (
	"fmt"
	"os"

	"understudy/failover/account"
)

// Account is who runs the hooks.
type Account = account.Account

// ResolveAccount finds the account of the hooks: name, or the database's when
// name is empty. A daemon that is not root can only run them as itself, which
// may have no name.
func ResolveAccount(name, database string) (Account, error) {
	if os.Geteuid() == 0 && name == "" {
		name = database
	}
	a, err := account.Resolve(name)
	if err != nil {
		return Account{}, fmt.Errorf("account %q of the hooks: %w", name, err)
	}
	return a, nil
}
