package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Need makes the test, which is not parallel, use a server of at least the given
// major version: that of BinDir, that of UNDERSTUDY_PG17_BINDIR (with the
// number), or where scripts/install-postgres-major.sh puts it. The test is
// skipped when there is none.
func Need(t *testing.T, major int) {
	t.Helper()
	if Major(t) >= major {
		return
	}
	dir := os.Getenv(fmt.Sprintf("UNDERSTUDY_PG%d_BINDIR", major))
	if dir == "" {
		cache := "/var/cache/understudy"
		if home, err := os.UserCacheDir(); err == nil && os.Geteuid() != 0 {
			cache = filepath.Join(home, "understudy")
		}
		dir = filepath.Join(cache, fmt.Sprintf("postgresql-%[1]d/usr/lib/postgresql/%[1]d/bin", major))
	}
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
		t.Skipf("this needs PostgreSQL %d: run scripts/install-postgres-major.sh %d", major, major)
	}
	t.Setenv("UNDERSTUDY_PG_BINDIR", dir)
}
