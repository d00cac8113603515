package cluster

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"understudy/test/cluster/clients"
)

// MultiHostWriters starts n writers against whichever data node takes writes,
// as an application with a connection string of both hosts does, and returns
// when each has had a commit acknowledged. Unlike those of Writers their
// statements and dials have deadlines, so an outage is what such clients see.
// The test's end stops them.
func (g *Group) MultiHostWriters(t testing.TB, n int) *clients.Clients {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := clients.Start(ctx, clients.Config{Hosts: []string{g.Main.Address(), g.Backup.Address()}, Writers: n, Think: think})
	if err != nil {
		t.Fatalf("start %d writers: %v", n, err)
	}
	t.Cleanup(c.Stop)
	return c
}

// Address is where clients find this node's PostgreSQL.
func (n *Node) Address() string { return net.JoinHostPort(n.IP(), strconv.Itoa(n.Port)) }
