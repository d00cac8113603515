package integration_test

import (
	"testing"

	"understudy/test/cluster"
)

func TestMain(m *testing.M) { cluster.RunTests(m) }
