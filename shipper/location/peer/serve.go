package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"understudy/shipper/location"
)

// batch bounds the objects of one frame, in bytes, so that the first of a long
// list arrive soon.
const batch = 64 << 10

// Serve answers the requests of one connection of another node until it closes
// or ctx ends. open finds the location by its name; Serve does not close it.
// What a peer may name are keys; they are checked here, too. The error is nil
// when the peer closed the connection, as a client does to stop a request, and
// the cause of ctx when that ended it. conn is closed when Serve returns.
func Serve(ctx context.Context, conn net.Conn, open func(name string) (location.Location, error)) error {
	s := newSession(ctx, conn, defaultQuiet)
	defer s.end()
	hello, err := s.receive(defaultQuiet, false)
	if err != nil {
		return served(s, err)
	}
	if hello.kind != kindHello {
		return fmt.Errorf("%w: it begins with a frame of kind %d", errProtocol, hello.kind)
	}
	quiet := time.Duration(hello.a) * time.Millisecond
	if quiet < minQuiet || quiet > maxQuiet {
		return fmt.Errorf("%w: a quiet time of %s", errProtocol, quiet)
	}
	s.setQuiet(quiet)
	loc, err := open(hello.key)
	if err != nil {
		_ = s.send(failure(err)) // the error is reported here as well
		return fmt.Errorf("open location %.80q: %w", hello.key, err)
	}
	if err := s.send(message{kind: kindDone}); err != nil {
		return err
	}
	v := &service{session: s, loc: loc}
	return served(s, v.loop())
}

// served is what an error says about a session as a whole.
func served(s *session, err error) error {
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

// service answers requests, one after the other.
type service struct {
	*session
	loc location.Location
}

func (v *service) loop() error {
	for {
		m, err := v.receive(0, false) // a client that lives may be idle
		if err != nil {
			return err
		}
		if err := v.answer(m); err != nil {
			return err
		}
		v.rest()
	}
}

// answer does what m asks for. Errors of the location are told to the client;
// those returned end the connection.
func (v *service) answer(m message) error {
	switch m.kind {
	case kindCreate:
		return v.put(m)
	case kindOpen:
		return v.get(m)
	case kindList:
		return v.list(m)
	}
	reply, err := v.simple(m)
	switch {
	case errors.Is(err, errProtocol):
		return err
	case err != nil:
		return v.send(failure(err))
	}
	return v.send(reply)
}

// simple are the requests with one answer.
func (v *service) simple(m message) (message, error) {
	switch m.kind {
	case kindStat:
		if err := location.CheckKey(m.key); err != nil {
			return message{}, err
		}
		i, err := v.loc.Stat(v.ctx, m.key)
		return message{kind: kindObject, infos: []location.Info{i}}, err
	case kindRemove:
		if err := location.CheckKey(m.key); err != nil {
			return message{}, err
		}
		return message{kind: kindDone}, v.loc.Remove(v.ctx, m.key)
	case kindSpace:
		sp, err := v.loc.Space(v.ctx)
		return message{kind: kindRoom, a: sp.Free, b: sp.Total}, err
	case kindSweep:
		n, err := v.loc.Sweep(v.ctx, fromNanos(m.a))
		return message{kind: kindNumber, a: int64(n)}, err
	}
	return message{}, fmt.Errorf("%w: a frame of kind %d is no request", errProtocol, m.kind)
}

// put takes an upload. When the connection ends it is suspended.
func (v *service) put(m message) error {
	err := errors.Join(location.CheckKey(m.key), location.CheckToken(m.token))
	var u location.Upload
	if err == nil {
		u, err = v.loc.Create(v.ctx, m.key, location.CreateOptions{Size: max(m.a, -1), Token: m.token})
	}
	if err != nil {
		return v.send(failure(err))
	}
	r := receiving{service: v, u: u, total: u.Offset()}
	if err = v.send(message{kind: kindNumber, a: u.Offset()}); err == nil {
		err = r.loop()
	}
	if !r.over {
		// The client is gone or confused; it finds the rest by its token.
		if serr := u.Suspend(); serr != nil {
			return fmt.Errorf("suspend the upload of %s: %w", m.key, serr)
		}
	}
	return err
}

// receiving is an upload under way.
type receiving struct {
	*service
	u      location.Upload
	total  int64
	failed bool // the client was told that it failed
	over   bool // ended as the client wished
}

func (r *receiving) loop() error {
	for !r.over {
		m, err := r.receive(0, false)
		if err != nil {
			return err
		}
		if err := r.take(m); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiving) take(m message) error {
	switch m.kind {
	case kindData:
		if !r.failed {
			n, err := r.u.Write(m.data)
			r.total += int64(n)
			if err := r.fail(err); err != nil {
				return err
			}
		}
		return r.used(m)
	case kindCommit:
		return r.commit(m.a)
	case kindSuspend:
		return r.leave(r.u.Suspend())
	case kindAbort:
		return r.leave(r.u.Abort())
	}
	return fmt.Errorf("%w: a frame of kind %d in an upload", errProtocol, m.kind)
}

// fail tells the client once that the upload has failed.
func (r *receiving) fail(err error) error {
	if err == nil {
		return nil
	}
	r.failed = true
	return r.send(failure(err))
}

func (r *receiving) commit(total int64) error {
	switch {
	case r.failed:
		return nil // the client knows, or is about to
	case total != r.total:
		return r.fail(fmt.Errorf("%w: %d bytes arrived of %d", location.ErrDamaged, r.total, total))
	}
	i, err := r.u.Commit(r.ctx)
	if err != nil {
		return r.fail(err)
	}
	r.over = true
	return r.send(message{kind: kindObject, infos: []location.Info{i}})
}

func (r *receiving) leave(err error) error {
	r.over = true
	if err != nil {
		return r.send(failure(err))
	}
	return r.send(message{kind: kindDone})
}

// get sends an object's bytes.
func (v *service) get(m message) error {
	err := location.CheckKey(m.key)
	var r io.ReadCloser
	if err == nil {
		r, err = v.loc.Open(v.ctx, m.key, m.a, max(m.b, -1))
	}
	if err != nil {
		return v.send(failure(err))
	}
	defer r.Close() // only read from
	if err := v.send(message{kind: kindDone}); err != nil {
		return err
	}
	buf := make([]byte, maxPayload)
	for total := int64(0); ; {
		n, err := readPiece(r, buf)
		if n > 0 {
			if err := v.deliver(message{kind: kindData, data: buf[:n]}); err != nil {
				return err
			}
			total += int64(n)
		}
		switch {
		case err == io.EOF:
			return v.send(message{kind: kindNumber, a: total})
		case err != nil:
			return v.send(failure(err))
		}
	}
}

// readPiece fills b as far as r goes; io.EOF is its proper end.
func readPiece(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

// deliver sends a frame of data. A client that speaks meanwhile breaks the
// protocol.
func (v *service) deliver(m message) error {
	instead, err := v.give(m, 0)
	if err == nil && instead.kind != 0 {
		err = fmt.Errorf("%w: a frame of kind %d before the answer was complete", errProtocol, instead.kind)
	}
	return err
}

// errLost ends a list whose client is gone.
type errLost struct{ error }

// list sends the objects below a prefix.
func (v *service) list(m message) error {
	if err := location.CheckPrefix(m.key); err != nil {
		return v.send(failure(err))
	}
	if err := v.send(message{kind: kindDone}); err != nil {
		return err
	}
	total, size := int64(0), 0
	items := message{kind: kindItems}
	flush := func() error {
		if len(items.infos) == 0 {
			return nil
		}
		if err := v.deliver(items); err != nil {
			return errLost{err}
		}
		items.infos, size = items.infos[:0], 0
		return nil
	}
	err := v.loc.List(v.ctx, m.key, func(i location.Info) error {
		total++
		size += infoSize(i)
		items.infos = append(items.infos, i)
		if size < batch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	var lost errLost
	switch {
	case errors.As(err, &lost):
		return lost.error
	case err != nil:
		return v.send(failure(err))
	}
	return v.send(message{kind: kindNumber, a: total})
}
