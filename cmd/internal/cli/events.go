package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gorilla/websocket"
	"github.com/spf13/cobra"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/eventlog"
)

// feedSilence is how long a feed that samples every second may be silent.
const feedSilence = 15 * time.Second

func eventsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{Use: "events", Short: "Show what happened, oldest first", Args: cobra.NoArgs}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print one JSON object a line")
	since := c.Flags().Uint64("since", 0, "only events after this number")
	follow := c.Flags().Bool("follow", false, "go on with new events until interrupted")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := NewClient(*config)
		if err != nil {
			return err
		}
		defer client.Close()
		p := eventPrinter{out: opts.Out, asJSON: *asJSON, last: *since}
		ctx := commandContext(c)
		if err := p.past(ctx, client); err != nil || !*follow {
			return err
		}
		return p.follow(ctx, client)
	}
	return c
}

// eventPrinter prints every event once.
type eventPrinter struct {
	out    io.Writer
	asJSON bool
	last   uint64 // number of the newest event that was printed
}

// past prints what the daemon still has.
func (p *eventPrinter) past(ctx context.Context, client *Client) error {
	for {
		var reply admin.EventsReply
		if err := client.Get(ctx, fmt.Sprintf("/api/v1/events?since=%d", p.last), &reply); err != nil {
			return err
		}
		for _, e := range reply.Events {
			if err := p.print(e); err != nil {
				return err
			}
		}
		if len(reply.Events) == 0 || p.last >= reply.Last {
			return nil
		}
	}
}

// follow prints new events. A feed that ends is opened again where it ended,
// as long as the daemon answers.
func (p *eventPrinter) follow(ctx context.Context, client *Client) error {
	for {
		conn, err := client.Feed(ctx, fmt.Sprintf("since=%d", p.last))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err = p.read(ctx, client, conn)
		stop()
		_ = conn.Close()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// read prints events until the feed ends.
func (p *eventPrinter) read(ctx context.Context, client *Client, conn *websocket.Conn) error {
	conn.SetReadLimit(maxReplyBytes)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(feedSilence)); err != nil {
			return nil
		}
		var m admin.Message
		if err := conn.ReadJSON(&m); err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				return fmt.Errorf("read feed: %w", err)
			}
			return nil
		}
		switch {
		case m.Type == admin.MessageEvent && m.Event != nil:
			if err := p.print(*m.Event); err != nil {
				return err
			}
		case m.Type == admin.MessageSnapshot && m.Gap:
			// The daemon numbers from elsewhere now, or we missed too much:
			// print what there is.
			if m.Last < p.last {
				p.last = 0
			}
			if err := p.past(ctx, client); err != nil {
				return err
			}
		}
	}
}

func (p *eventPrinter) print(e eventlog.Event) error {
	if e.N <= p.last {
		return nil
	}
	p.last = e.N
	if p.asJSON {
		return json.NewEncoder(p.out).Encode(e)
	}
	node := e.Node
	if node == "" {
		node = "-"
	}
	_, err := fmt.Fprintf(p.out, "%6d  %s  %-7s  %-10s  %s\n", e.N, e.At.Local().Format("2006-01-02 15:04:05.000"), e.Severity, printable(node), printable(e.Text))
	return err
}
