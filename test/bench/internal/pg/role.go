package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// readOnly is the SQLSTATE of a write on a standby.
const readOnly = "25006"

// FastStop makes a checkpoint, then has pg_ctl order a fast shutdown, and
// returns how long it took from the order to the server's end.
func (c *Cluster) FastStop(ctx context.Context) (time.Duration, error) {
	if c.cmd == nil {
		return 0, errors.New("the server does not run")
	}
	if err := c.Exec(ctx, "checkpoint"); err != nil {
		return 0, err
	}
	began := time.Now()
	// Without waiting: pg_ctl looks only ten times a second.
	if _, err := c.tools.Run(ctx, "pg_ctl", "stop", "-D", c.Data(), "-m", "fast", "-W"); err != nil {
		return 0, err
	}
	select {
	case <-c.exited:
		c.cmd = nil
		return time.Since(began), nil
	case <-time.After(stopWithin):
		return 0, fmt.Errorf("the server on port %d did not end within %s", c.Port, stopWithin)
	}
}

// Promote has pg_ctl promote a standby, and returns how long it took from the
// order until a session that was there before could write. The table must have
// one integer column.
func (c *Cluster) Promote(ctx context.Context, table string) (time.Duration, error) {
	conn, err := c.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	began := time.Now()
	if _, err := c.tools.Run(ctx, "pg_ctl", "promote", "-D", c.Data(), "-W"); err != nil {
		return 0, err
	}
	deadline := began.Add(stopWithin)
	for {
		_, err := conn.PgConn().Exec(ctx, "insert into "+table+" values (1)").ReadAll()
		if err == nil {
			return time.Since(began), nil
		}
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != readOnly {
			return 0, fmt.Errorf("write after the promotion: %w", err)
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the standby on port %d takes no writes %s after its promotion", c.Port, stopWithin)
		}
		time.Sleep(time.Millisecond)
	}
}

// Follow starts a stopped server as a standby of another one, without a slot.
// It must not have diverged.
func (c *Cluster) Follow(ctx context.Context, primary Server, name string) error {
	if err := c.Configure(map[string]string{"primary_conninfo": primary.DSN(name), "primary_slot_name": ""}); err != nil {
		return err
	}
	signal := filepath.Join(c.Data(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	if err := c.tools.Own(signal); err != nil {
		return err
	}
	return c.Start(ctx)
}
