package clients_test

import (
	"strings"
	"testing"
	"time"

	"understudy/test/cluster/clients"
	"understudy/test/pgtest"
)

// TestClients_Read: what a reader saw is known when it is gone, and writers with
// Trace know their server.
func TestClients_Read(t *testing.T) {
	s := server(t)
	c, err := clients.Start(t.Context(), clients.Config{Hosts: []string{host(s)}, Writers: 2, Think: time.Millisecond, Trace: true, Commit: "local"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	if got := s.Query(t, "select count(*) from pg_stat_activity where application_name = 'clients'"); got != "2" {
		t.Fatalf("%s writers are connected", got)
	}
	r := c.Read()
	defer r.Stop()
	pgtest.Eventually(t, 10*time.Second, "rows are seen", func() bool { return r.Seen() > 10 })
	c.Stop()
	r.Stop()
	conn := connect(t, s)
	if gone, err := r.Gone(t.Context(), conn); err != nil || len(gone) > 0 {
		t.Errorf("gone: %v, %v", gone, err)
	}
	if got := c.Servers(); len(got) != 1 || got[0].Address != host(s) || got[0].Timeline != 1 {
		t.Errorf("servers %v, want %s@1", got, host(s))
	}
	if err := c.CheckServers(); err != nil {
		t.Error(err)
	}
	s.Exec(t, "delete from outage_acked where writer = 1")
	gone, err := r.Gone(t.Context(), conn)
	if err != nil || len(gone) == 0 || gone[0].Row.Writer != 1 || gone[0].Standby || gone[0].Host != host(s) {
		t.Fatalf("gone: %v, %v", gone, err)
	}
	if said := c.About(gone[0].Row); !strings.Contains(said, "was sent at") || !strings.Contains(said, host(s)+"@1") {
		t.Errorf("of an acknowledged row is known: %s", said)
	}
	if said := c.About(clients.Row{Writer: 1, Seq: 1 << 40}); !strings.Contains(said, "was not acknowledged") {
		t.Errorf("of a row that nobody tried is known: %s", said)
	}
}
