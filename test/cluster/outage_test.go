package cluster

import (
	"testing"
	"time"

	"understudy/test/pgtest"
)

// The group's writers against a plain server: a lost row and a gap are seen
// without a daemon.
func TestMultiHostWriters_PlainServer(t *testing.T) {
	s := pgtest.New(t, "fsync=off", "shared_buffers=16MB", "max_connections=20")
	g := &Group{Main: &Node{Name: Main, Port: pgtest.FreePort(t)}, Backup: &Node{Name: Backup, Port: s.Port}}
	c := g.MultiHostWriters(t, 2)
	since := time.Now()
	Eventually(t, 10*time.Second, "commits", func() bool { return c.Acked() > 20 })
	if o := c.Outage(since); o <= 0 || o > 5*time.Second {
		t.Errorf("outage %s of a server that ran", o)
	}
	c.Stop()
	s.Exec(t, "delete from outage_acked where (writer, seq) = (0, 0)")
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if missing, err := c.Missing(t.Context(), conn); err != nil || len(missing) != 1 {
		t.Errorf("missing %v, %v; want one row", missing, err)
	}
}
