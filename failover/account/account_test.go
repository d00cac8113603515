package account_test

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"understudy/failover/account"
)

// same compares with what the system says of a user.
func same(t *testing.T, got account.Account, u *user.User) {
	t.Helper()
	groups, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, g := range got.Groups {
		ids = append(ids, strconv.Itoa(int(g)))
	}
	if got.Name != u.Username || strconv.Itoa(int(got.UID)) != u.Uid || strconv.Itoa(int(got.GID)) != u.Gid || strings.Join(ids, " ") != strings.Join(groups, " ") {
		t.Errorf("got %+v, want %+v in the groups %v", got, u, groups)
	}
}

func TestResolve_RootBecomesAnybody(t *testing.T) {
	for _, name := range []string{"root", "nobody", "daemon"} {
		u, err := user.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		a, err := account.ResolveAs(name, true)
		if err != nil || !a.Switch {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		same(t, a, u)
	}
	for _, name := range []string{"no-such-user-here", ""} {
		if a, err := account.ResolveAs(name, true); err == nil {
			t.Errorf("%q was found: %+v", name, a)
		}
	}
}

func TestResolve_OthersAreThemselves(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skipf("this test runs as a user without a name: %v", err)
	}
	for _, name := range []string{"", me.Username} {
		a, err := account.ResolveAs(name, false)
		if err != nil || a.Switch || int(a.UID) != os.Geteuid() {
			t.Errorf("%q: %+v, %v", name, a, err)
		}
		same(t, a, me)
	}
	if a, err := account.ResolveAs("no-such-user-here", false); err == nil || !strings.Contains(err.Error(), "only root") || !strings.Contains(err.Error(), me.Username) {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestResolve_LooksWhoItIs(t *testing.T) {
	a, err := account.Resolve("nobody")
	if root := os.Geteuid() == 0; root != (err == nil && a.Switch) {
		t.Errorf("root %v: %+v, %v", root, a, err)
	}
}
