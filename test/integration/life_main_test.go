package integration_test

import (
	"os"
	"testing"

	"understudy/test/cluster"
)

func TestMain(m *testing.M) { cluster.RunTests(m) }

// onlyWithAll leaves the test to make groups, see the package's comment.
func onlyWithAll(t *testing.T) {
	t.Helper()
	if os.Getenv("UNDERSTUDY_INTEGRATION") != "all" {
		t.Skip("make groups runs it")
	}
}
