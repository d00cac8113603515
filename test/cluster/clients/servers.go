package clients

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a primary as its clients know it. A timeline is written by one
// promotion only, so a newer one is a newer primary.
type Server struct {
	Address  string
	Timeline uint32
}

// String is address@timeline.
func (s Server) String() string { return fmt.Sprintf("%s@%d", s.Address, s.Timeline) }

// ask asks a server that takes writes who it is. Its control file does not tell:
// that has the old timeline for a while after a promotion.
func ask(ctx context.Context, conn *pgx.Conn) (Server, error) {
	var s Server
	ctx, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	var timeline int64
	err := conn.QueryRow(ctx, `select host(inet_server_addr()) || ':' || inet_server_port(),
('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint`).Scan(&s.Address, &timeline)
	s.Timeline = uint32(timeline)
	return s, err
}

// meet is the index of a server.
func (c *Clients) meet(s Server) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.found, s); i >= 0 {
		return i
	}
	c.found = append(c.found, s)
	return len(c.found) - 1
}

// Servers are those that the writers had, in the order in which they were met.
// It is empty without Config.Trace.
func (c *Clients) Servers() []Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.found[1:])
}

// CheckServers tells, of writers with Config.Trace, whether two primaries took
// commits at a time: no commit may be acknowledged on an older timeline after
// one that was acknowledged on a newer was sent, and one timeline has one
// server. Both times are of this process, so that no clocks are compared.
func (c *Clients) CheckServers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return judgeServers(c.found, c.acks)
}

// judgeServers compares acks, which are in order, by their servers.
func judgeServers(servers []Server, acks []ack) error {
	first := map[uint32]ack{} // by timeline, the one that was sent first
	for _, a := range acks {
		s := servers[a.server]
		f, seen := first[s.Timeline]
		if seen && servers[f.server] != s {
			return fmt.Errorf("%s and %s took commits on one timeline", servers[f.server], s)
		}
		if !seen || a.began < f.began {
			first[s.Timeline] = a
		}
	}
	late := 0
	var worst ack
	var by time.Duration
	var after ack
	for _, a := range acks {
		for t, f := range first {
			if t <= servers[a.server].Timeline || a.at <= f.began {
				continue
			}
			late++
			if d := a.at - f.began; d > by {
				worst, after, by = a, f, d
			}
		}
	}
	if late == 0 {
		return nil
	}
	return fmt.Errorf("%d commits were acknowledged by an older primary while a newer one took them: at the latest writer %d by %s at %s (sent %s), %s after one was sent to %s",
		late, worst.writer, servers[worst.server], worst.at, worst.began, by, servers[after.server])
}

// About is what is known of a row, for a failed test.
func (c *Clients) About(r Row) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.acked[r.Writer]
	if r.Seq < 0 || r.Seq >= int64(len(own)) || !own[r.Seq] {
		return fmt.Sprintf("row %s was not acknowledged", r)
	}
	n := 0 // of this writer's acknowledgements, the row's is the nth: its rows are in order
	for _, ok := range own[:r.Seq+1] {
		if ok {
			n++
		}
	}
	for _, a := range c.acks {
		if a.writer != r.Writer {
			continue
		}
		if n--; n == 0 {
			return fmt.Sprintf("row %s was sent at %s and acknowledged at %s by %s", r,
				c.began.Add(a.began).Format("15:04:05.000"), c.began.Add(a.at).Format("15:04:05.000"), c.found[a.server])
		}
	}
	return fmt.Sprintf("row %s was not acknowledged", r)
}
