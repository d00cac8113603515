package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"understudy/cmd/internal/admin"
	"understudy/configs"
)

const (
	dialTimeout   = 2 * time.Second
	maxReplyBytes = 32 << 20
	// logTailBytes is how much of the end of a log is searched for errors.
	logTailBytes = 64 << 10
	logTailLines = 5
)

// Client talks to a local daemon. It is safe for use by many goroutines; Close
// it when done.
type Client struct {
	socket string
	node   *configs.Node // nil when the socket was given
	http   *http.Client
	trans  *http.Transport
}

// NewClient reads the node file at config and returns a client for that node's
// daemon. It does not connect yet. A file that is missing or not valid is an
// ExitError with ExitUsage.
func NewClient(config string) (*Client, error) {
	n, err := configs.Load(config)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("the node file %s does not exist; name it with --config", config)
		}
		return nil, &ExitError{Code: ExitUsage, Err: err}
	}
	c := newSocketClient(n.AdminSocket())
	c.node = n
	return c, nil
}

func newSocketClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", socket)
	}
	t := &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConns: 1}
	return &Client{socket: socket, http: &http.Client{Transport: t}, trans: t}
}

// Close gives up idle connections.
func (c *Client) Close() { c.trans.CloseIdleConnections() }

// Get asks for path and decodes the reply into v.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://understudy"+path, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	return c.send(req, v)
}

// Do has the daemon carry out a command and decodes its result into v, which
// may be nil. A refusal is an ExitError with ExitRefused and the daemon's
// sentence.
func (c *Client) Do(ctx context.Context, action string, args map[string]string, v any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode arguments: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://understudy/api/v1/do/"+action, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return c.send(req, v)
}

func (c *Client) send(req *http.Request, v any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return fmt.Errorf("read reply of the daemon: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return replyError(resp.StatusCode, body)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode reply of the daemon: %w", err)
	}
	return nil
}

func replyError(status int, body []byte) error {
	var e admin.ErrorReply
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("the daemon answered with status %d", status)
	}
	code := ExitFailure
	switch status {
	case http.StatusConflict, http.StatusForbidden:
		code = ExitRefused
	case http.StatusBadRequest, http.StatusNotFound:
		code = ExitUsage
	}
	return &ExitError{Code: code, Err: errors.New(printable(e.Error))}
}

// unreachable explains a failed connection.
func (c *Client) unreachable(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return &ExitError{Code: ExitNotRunning, Err: errors.New(c.notRunning())}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("this account may not use the daemon's socket %s", c.socket)
	}
	return fmt.Errorf("ask the daemon: %w", err)
}

// notRunning says that nobody answers and what the daemon logged last.
func (c *Client) notRunning() string {
	if c.node == nil {
		return fmt.Sprintf("no daemon answers on %s.", c.socket)
	}
	text := fmt.Sprintf("the daemon of node %s is not running (%s does not answer).", c.node.Name, c.socket)
	if c.node.Log.File == "" {
		return text
	}
	lines, err := lastErrors(c.node.Log.File)
	switch {
	case err != nil && exists(c.node.Log.File):
		return text + " Its log " + c.node.Log.File + " cannot be read."
	case len(lines) > 0:
		return text + " The last errors in " + c.node.Log.File + ":\n  " + strings.Join(lines, "\n  ")
	}
	return text
}

// lastErrors are the newest lines of a log that say ERROR, oldest first.
func lastErrors(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(info.Size(), logTailBytes))
	n, err := f.ReadAt(tail, info.Size()-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(tail[:n])) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, `"level":"ERROR"`) {
			out = append(out, printable(strings.TrimSpace(line)))
		}
	}
	return out[max(0, len(out)-logTailLines):], nil
}

// printable keeps control characters of others off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// Feed opens the daemon's feed; query is for example "since=12". The caller
// closes the connection.
func (c *Client) Feed(ctx context.Context, query string) (*websocket.Conn, error) {
	d := websocket.Dialer{NetDialContext: c.trans.DialContext, HandshakeTimeout: dialTimeout}
	conn, resp, err := d.DialContext(ctx, "ws://understudy/api/v1/feed?"+query, nil)
	if err == nil {
		return conn, nil
	}
	if resp != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes)) // gorilla keeps the first KiB
		return nil, replyError(resp.StatusCode, body)
	}
	return nil, c.unreachable(err)
}
