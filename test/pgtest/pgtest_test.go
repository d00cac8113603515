package pgtest_test

import (
	"syscall"
	"testing"

	"understudy/test/pgtest"
)

func TestCluster_SurvivesCrash(t *testing.T) {
	c := pgtest.New(t, "max_connections=20")
	c.Exec(t, "create table a(i int); insert into a values (1)")
	c.Crash()
	c.Start(t)
	if got := c.Query(t, "select i from a"); got != "1" {
		t.Errorf("got %s", got)
	}
	if got := c.Query(t, "show max_connections"); got != "20" {
		t.Errorf("got %s", got)
	}
	c.Stop(syscall.SIGINT)
}
