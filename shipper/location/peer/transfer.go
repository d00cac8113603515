package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"understudy/shipper/location"
)

// errOver is returned by an upload that was committed, suspended or aborted.
var errOver = errors.New("the upload has ended")

// Create implements location.Location.
func (l *Location) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	if err := location.CheckToken(o.Token); err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	le, m, err := l.ask(ctx, message{kind: kindCreate, key: key, token: o.Token, a: max(o.Size, -1)}, kindNumber)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	if m.a < 0 {
		le.release(false)
		return nil, fmt.Errorf("store %s: %w", key, unexpected(m))
	}
	return &upload{lease: le, key: key, token: o.Token, offset: m.a, total: m.a}, nil
}

// upload is an object on its way to the other node. The lease ends with it,
// and with the connection.
type upload struct {
	*lease
	key, token string
	offset     int64
	total      int64 // of the object, including what is in buf
	buf        []byte
	err        error // why nothing can be written any more
}

// Offset implements location.Upload.
func (u *upload) Offset() int64 { return u.offset }

// Write implements location.Upload.
func (u *upload) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if err := u.usable(); err != nil {
			return n, err
		}
		if u.buf == nil {
			u.buf = make([]byte, 0, maxPayload)
		}
		k := copy(u.buf[len(u.buf):cap(u.buf)], b)
		u.buf = u.buf[:len(u.buf)+k]
		u.total += int64(k)
		n, b = n+k, b[k:]
		if len(u.buf) == cap(u.buf) {
			if err := u.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (u *upload) usable() error {
	switch {
	case u.err != nil:
		return u.err
	case u.ctx.Err() != nil:
		return context.Cause(u.ctx)
	case u.over:
		return fmt.Errorf("store %s: %w", u.key, errOver)
	}
	return nil
}

// flush sends what is in the buffer.
func (u *upload) flush() error {
	if len(u.buf) == 0 {
		return nil
	}
	instead, err := u.give(message{kind: kindData, data: u.buf}, u.l.o.Patience)
	u.buf = u.buf[:0]
	if err != nil {
		return u.broken(err)
	}
	if instead.kind != 0 {
		return u.refused(instead)
	}
	return nil
}

// broken ends the upload with its connection.
func (u *upload) broken(err error) error {
	u.err = fmt.Errorf("store %s: %w", u.key, u.failed(err))
	u.release(false)
	return u.err
}

// refused keeps the connection: the other node waits for Suspend or Abort.
func (u *upload) refused(m message) error {
	u.err = fmt.Errorf("store %s: %w", u.key, unexpected(m))
	if m.kind != kindFail {
		u.release(false)
	}
	return u.err
}

// Commit implements location.Upload.
func (u *upload) Commit(ctx context.Context) (location.Info, error) {
	if err := u.usable(); err != nil {
		return location.Info{}, err
	}
	unhook := context.AfterFunc(ctx, func() { u.cancel(context.Cause(ctx)) })
	defer unhook()
	if err := u.flush(); err != nil {
		return location.Info{}, err
	}
	err := u.send(message{kind: kindCommit, a: u.total})
	var m message
	if err == nil {
		m, err = u.receive(u.l.o.Patience, false)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		u.err = context.Cause(ctx)
		u.release(false)
		return location.Info{}, u.err
	case err != nil:
		return location.Info{}, u.broken(err)
	case m.kind != kindObject:
		return location.Info{}, u.refused(m)
	}
	// Before the release, or the end of ctx would end the next call.
	u.release(unhook())
	return m.infos[0], checkInfo(m.infos[0], u.key)
}

// Suspend implements location.Upload.
func (u *upload) Suspend() error {
	if u.over {
		return nil // by its connection's end, which suspends it there
	}
	if u.err == nil {
		_ = u.flush() // what did not arrive is written again
	}
	return u.leave("suspend", kindSuspend)
}

// Abort implements location.Upload.
func (u *upload) Abort() error {
	if u.over && u.token != "" && u.err != nil {
		return fmt.Errorf("abort %s: %w: what was stored there stays until it is swept", u.key, location.ErrUnreachable)
	}
	return u.leave("abort", kindAbort)
}

// leave ends the upload. When the connection has ended the other node has done
// so by itself.
func (u *upload) leave(verb string, k kind) error {
	if u.over {
		return nil
	}
	err := u.send(message{kind: k})
	var m message
	if err == nil {
		m, err = u.receive(u.l.o.Patience, false)
	}
	switch {
	case err != nil:
		err = u.failed(err)
	case m.kind == kindDone:
		u.release(true)
		return nil
	default:
		// It may be the failure of a write, with the answer behind it: the
		// connection is of no use.
		err = unexpected(m)
	}
	u.release(false)
	return fmt.Errorf("%s %s: %w", verb, u.key, err)
}

// Open implements location.Location.
func (l *Location) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	le, _, err := l.ask(ctx, message{kind: kindOpen, key: key, a: off, b: max(n, -1)}, kindDone)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return &reader{lease: le, key: key}, nil
}

// reader takes an object's bytes as they come.
type reader struct {
	*lease
	key   string
	m     message // Data in use
	rest  []byte  // of m that was not read
	total int64
	err   error
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.next()
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next gets another frame. After an error the lease is over.
func (r *reader) next() error {
	if r.over {
		return fmt.Errorf("read %s: %w", r.key, location.ErrClosed)
	}
	if r.m.kind != 0 {
		if err := r.used(r.m); err != nil {
			return r.end(r.failed(err), false)
		}
		r.m = message{}
	}
	m, err := r.receive(r.l.o.Patience, false)
	switch {
	case err != nil:
		return r.end(r.failed(err), false)
	case m.kind == kindData:
		r.m, r.rest = m, m.data
		r.total += int64(len(m.data))
		return nil
	case m.kind == kindNumber && m.a == r.total:
		r.release(true)
		return io.EOF
	case m.kind == kindNumber:
		return r.end(fmt.Errorf("%w: %w: %d bytes came and %d were sent", location.ErrUnreachable, errProtocol, r.total, m.a), false)
	}
	return r.end(unexpected(m), m.kind == kindFail)
}

func (r *reader) end(err error, clean bool) error {
	r.release(clean)
	return fmt.Errorf("read %s: %w", r.key, err)
}

// Close implements io.Closer. Before the end of the object it ends the
// connection: what is on its way may take longer than a new one.
func (r *reader) Close() error {
	r.release(false)
	r.rest = nil
	if r.err == nil {
		r.err = fmt.Errorf("read %s: %w", r.key, location.ErrClosed)
	}
	return nil
}

// List implements location.Location.
func (l *Location) List(ctx context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	le, m, err := l.askList(ctx, prefix)
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	defer le.release(false)
	total := int64(0)
	for m.kind == kindItems {
		for _, i := range m.infos {
			if location.CheckKey(i.Key) != nil || !strings.HasPrefix(i.Key, prefix) {
				return fmt.Errorf("list %s: %w: %w: %q", prefix, location.ErrUnreachable, errProtocol, i.Key)
			}
			if err := each(i); err != nil {
				return err
			}
		}
		total += int64(len(m.infos))
		if err = le.used(m); err == nil {
			m, err = le.receive(l.o.Patience, false)
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, le.failed(err))
		}
	}
	if m.kind != kindNumber || m.a != total {
		return fmt.Errorf("list %s: %w", prefix, unexpected(m))
	}
	le.release(true)
	return nil
}

// askList is ask for the one request with two kinds of first answers.
func (l *Location) askList(ctx context.Context, prefix string) (*lease, message, error) {
	le, _, err := l.ask(ctx, message{kind: kindList, key: prefix}, kindDone)
	if err != nil {
		return nil, message{}, err
	}
	m, err := le.receive(l.o.Patience, false)
	if err != nil {
		err = le.failed(err)
		le.release(false)
	}
	return le, m, err
}
