package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections of one listener.
	maxConns          = 256
	headerTimeout     = 5 * time.Second
	idleTimeout       = 60 * time.Second
	shutdownTimeout   = 2 * time.Second
	maxHeaderBytes    = 16 << 10
	readTimeout       = 15 * time.Second
	acceptedPeerCheck = time.Second
	// writeTimeout covers a command that waits for a switchover, and a segment
	// of 1 GiB; feeds have deadlines of their own.
	writeTimeout = 10 * time.Minute
)

// ServeTCP answers on addr (host:port) until ctx ends; then it gives requests
// 2 s to finish and returns nil. An address that cannot be opened is an error.
func ServeTCP(ctx context.Context, addr string, h http.Handler) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for http: %w", err)
	}
	return Serve(ctx, l, h)
}

// ServeUnix answers on a unix socket at path, which gets the file mode, until
// ctx ends. A socket left over by a daemon that died is replaced; one that
// still answers is an error. The socket is gone on return.
func ServeUnix(ctx context.Context, path string, h http.Handler, mode os.FileMode) error {
	l, err := listenUnix(ctx, path, mode)
	if err != nil {
		return err
	}
	return Serve(ctx, l, h)
}

func listenUnix(ctx context.Context, path string, mode os.FileMode) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: a file that is no socket is in the way", path)
		}
		if c, err := net.DialTimeout("unix", path, acceptedPeerCheck); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen on %s: another daemon answers there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove old socket: %w", err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers on l until ctx ends and closes it. Requests in progress see
// their context end at once, which ends the feeds; none is left on return.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var running sync.WaitGroup // Shutdown does not wait for feeds
	defer running.Wait()
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		h.ServeHTTP(w, r)
	})
	ctx, cancelAll := context.WithCancel(ctx)
	defer cancelAll()
	srv := &http.Server{
		Handler: counted, BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(newLimited(l, maxConns)) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve http: %w", errors.Join(err, srv.Close()))
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

// limited is a listener with at most n open connections; further ones wait in
// the kernel's queue.
type limited struct {
	net.Listener
	slots     chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limited) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
