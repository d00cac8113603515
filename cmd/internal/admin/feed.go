package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"understudy/cmd/internal/eventlog"
	"understudy/cmd/internal/view"
)

const (
	maxFeedClients   = 64
	feedBuffer       = 256 // events a client may fall behind
	feedReadLimit    = 4 << 10
	feedWriteTimeout = 5 * time.Second
)

// The types of feed messages.
const (
	MessageSnapshot = "snapshot"
	MessageEvent    = "event"
	MessageSample   = "sample"
)

// Message is one message of the feed. The first is a snapshot; a client that
// asked to resume with ?since=N gets instead the events after N, or a snapshot
// with Gap set if those are not all at hand. Then come events in the order of
// their numbers, and every second a sample.
type Message struct {
	Type string `json:"type"`
	// Feed names the numbering; numbers of different feeds do not compare. A
	// client that names it with ?feed= is told of a change by a gap.
	Feed string `json:"feed,omitempty"`
	// Last is the newest event that the client has been sent or that the
	// snapshot includes.
	Last   uint64          `json:"last"`
	Gap    bool            `json:"gap,omitempty"`
	Status *view.Status    `json:"status,omitempty"`
	Event  *eventlog.Event `json:"event,omitempty"`
}

var errSlowClient = errors.New("client is too slow")

// feed sends a Message stream until the client or the request's context ends.
func (s *server) feed(w http.ResponseWriter, r *http.Request) {
	since, err := number(r.URL.Query().Get("since"), 0)
	if err != nil {
		writeError(w, http.StatusBadRequest, CodeBadArgument, "since must be the number of an event.")
		return
	}
	select {
	case s.clients <- struct{}{}:
		defer func() { <-s.clients }()
	default:
		writeError(w, http.StatusServiceUnavailable, "busy", "The feed has as many clients as it takes ("+strconv.Itoa(maxFeedClients)+").")
		return
	}
	up := websocket.Upgrader{HandshakeTimeout: feedWriteTimeout} // admits only pages of the same host
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		s.drain(conn)
	}()
	c := feedClient{s: s, conn: conn}
	err = c.run(ctx, r.URL.Query().Has("since"), since, r.URL.Query().Get("feed"))
	code, text := websocket.CloseGoingAway, ""
	if errors.Is(err, errSlowClient) {
		code, text = websocket.CloseTryAgainLater, err.Error()
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
	_ = conn.Close()
	<-gone
}

// drain reads what the client sends, for its pongs and its goodbye, and returns
// when it is gone or silent for two pings.
func (s *server) drain(conn *websocket.Conn) {
	conn.SetReadLimit(feedReadLimit)
	alive := func(string) error { return conn.SetReadDeadline(time.Now().Add(2 * s.opts.PingEvery)) }
	conn.SetPongHandler(alive)
	if alive("") != nil {
		return
	}
	for {
		_, r, err := conn.NextReader()
		if err != nil {
			return
		}
		// Read to the end: the limit is counted from one NextReader to the
		// next, and a message may come in many frames.
		if _, err := io.Copy(io.Discard, r); err != nil {
			return
		}
	}
}

// feedClient is the one writer of a connection.
type feedClient struct {
	s    *server
	conn *websocket.Conn
	last uint64 // newest event sent or included
}

func (c *feedClient) run(ctx context.Context, resume bool, since uint64, feed string) error {
	// Subscribe before looking back: nothing falls between, and what comes
	// twice is told by its number.
	events, cancel := c.s.b.Events().Subscribe(feedBuffer)
	defer cancel()
	if err := c.begin(ctx, resume, since, feed); err != nil {
		return err
	}
	ping := time.NewTicker(c.s.opts.PingEvery)
	defer ping.Stop()
	sample := time.NewTicker(c.s.opts.SampleEvery)
	defer sample.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errSlowClient
			}
			err = c.event(e)
		case <-sample.C:
			err = c.status(ctx, Message{Type: MessageSample})
		case <-ping.C:
			err = c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(feedWriteTimeout))
		}
		if err != nil {
			return err
		}
	}
}

// begin sends what the client lacks.
func (c *feedClient) begin(ctx context.Context, resume bool, since uint64, feed string) error {
	log := c.s.b.Events()
	last := log.Last()
	first := Message{Type: MessageSnapshot, Feed: c.s.feedID}
	if resume {
		missed, oldest := log.Since(since, 0)
		if !gap(since, oldest, last) && (feed == "" || feed == c.s.feedID) {
			c.last = since
			for _, e := range missed {
				if err := c.event(e); err != nil {
					return err
				}
			}
			return c.status(ctx, Message{Type: MessageSample, Feed: c.s.feedID})
		}
		first.Gap = true
	}
	c.last = last
	return c.status(ctx, first)
}

func (c *feedClient) event(e eventlog.Event) error {
	if e.N <= c.last {
		return nil
	}
	c.last = e.N
	return c.write(Message{Type: MessageEvent, Last: e.N, Event: &e})
}

// status sends m with the status; without one there is nothing to sample.
func (c *feedClient) status(ctx context.Context, m Message) error {
	st, err := c.s.b.Status(ctx)
	if err == nil {
		m.Status = &st
	} else if m.Type == MessageSample && m.Feed == "" {
		return nil
	}
	m.Last = c.last
	return c.write(m)
}

func (c *feedClient) write(m Message) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(feedWriteTimeout)); err != nil {
		return err
	}
	return c.conn.WriteJSON(m)
}
