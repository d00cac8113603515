package demo

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

const loadWriters = 4

// Load keeps writers busy with small transactions until ctx ends. A writer
// that loses its connection dials anew.
func Load(ctx context.Context, dsn string, writers int) {
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				write(ctx, dsn, w)
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	wg.Wait()
}

// write inserts rows until something fails.
func write(ctx context.Context, dsn string, writer int) {
	dctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	c, err := pgx.Connect(dctx, dsn)
	cancel()
	if err != nil {
		return
	}
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, `create table if not exists demo_load (id bigint generated always as identity primary key, writer int, at timestamptz default clock_timestamp())`); err != nil {
		return
	}
	for ctx.Err() == nil {
		if _, err := c.Exec(ctx, `insert into demo_load (writer) values ($1)`, writer); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// loadCommand is the background writer of a detached demo.
func loadCommand() *cobra.Command {
	var dsn string
	c := &cobra.Command{Use: "load", Hidden: true, Args: cobra.NoArgs}
	c.Flags().StringVar(&dsn, "dsn", "", "where to write")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		Load(cmd.Context(), dsn, loadWriters)
		return nil
	}
	return c
}
