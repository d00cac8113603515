package walsource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"understudy/shipper/pos"
)

const (
	statusEvery = time.Second          // a status goes out at least this often
	retryEvery  = 2 * time.Millisecond // while the server does not drain its socket
)

// pgEpoch is PostgreSQL's zero time, in microseconds since 1970.
const pgEpoch = 946684800_000000

func pgTime(t time.Time) uint64 { return uint64(t.UnixMicro() - pgEpoch) }

// status holds the newest values for the server and writes them. The values
// replace each other, so a socket that is full for the moment costs only a
// repetition by the status loop: no caller ever waits.
type status struct {
	mu      sync.Mutex // protects all below; held during one non-blocking write
	raw     syscall.RawConn
	flushed pos.LSN // never falls
	applied pos.LSN
	reply   [39]byte // CopyData with a standby status update
	hs      [30]byte // CopyData with hot standby feedback

	// A write that the socket did not take: rest is what of a message
	// follows before any other message may.
	rest       []byte
	restBuf    [39]byte
	replyOwed  bool
	hsOwed     bool
	err        error // the connection is unusable
	retry      chan struct{}
	writing    []byte                // argument of write
	wrote      int                   // result of write
	writeErr   error                 // result of write
	writeNow   func(fd uintptr) bool // write as a value made once, to not allocate per call
	farewelled bool
}

func (o *status) init(c net.Conn) error {
	raw, err := rawConn(c)
	if err != nil {
		return err
	}
	o.raw, o.retry, o.writeNow = raw, make(chan struct{}, 1), o.write
	frame(o.reply[:], 'r')
	frame(o.hs[:], 'h')
	return nil
}

func frame(b []byte, kind byte) {
	b[0] = 'd'
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	b[5] = kind
}

// Confirm tells the server that everything below flushed is committed by the
// group, which releases the synchronous commits waiting there, and that
// standbys show it up to applied. Both are cut to what was received; flushed
// never falls, applied never exceeds it. Equal values are not sent again. One
// write, no allocation, and never blocks: if the socket is full the values go
// out as soon as it is not. The error is that of a dead connection.
func (s *Source) Confirm(flushed, applied pos.LSN) error {
	o := &s.out
	o.mu.Lock()
	defer o.mu.Unlock()
	flushed = max(min(flushed, s.Received()), o.flushed)
	applied = min(applied, flushed)
	if flushed == o.flushed && applied == o.applied {
		return o.err
	}
	o.flushed, o.applied = flushed, applied
	return o.sendReply()
}

// Feedback passes the oldest transaction ids that standbys still need, as
// full 64-bit ids; zero means none.
func (s *Source) Feedback(xmin, catalogXmin uint64) error {
	o := &s.out
	o.mu.Lock()
	defer o.mu.Unlock()
	binary.BigEndian.PutUint32(o.hs[14:], uint32(xmin))
	binary.BigEndian.PutUint32(o.hs[18:], uint32(xmin>>32))
	binary.BigEndian.PutUint32(o.hs[22:], uint32(catalogXmin))
	binary.BigEndian.PutUint32(o.hs[26:], uint32(catalogXmin>>32))
	return o.sendFeedback()
}

func (o *status) repeat() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sendReply()
}

// sendReply writes the status; mu is held.
func (o *status) sendReply() error {
	b := o.reply[:]
	binary.BigEndian.PutUint64(b[6:], uint64(o.flushed))
	binary.BigEndian.PutUint64(b[14:], uint64(o.flushed))
	binary.BigEndian.PutUint64(b[22:], uint64(o.applied))
	binary.BigEndian.PutUint64(b[30:], pgTime(time.Now()))
	var err error
	o.replyOwed, err = o.send(b)
	return err
}

func (o *status) sendFeedback() error {
	binary.BigEndian.PutUint64(o.hs[6:], pgTime(time.Now()))
	var err error
	o.hsOwed, err = o.send(o.hs[:])
	return err
}

// send writes one message, or reports that it is owed.
func (o *status) send(b []byte) (owed bool, err error) {
	if len(o.rest) > 0 {
		if err := o.finishRest(); err != nil {
			return false, err
		}
		if len(o.rest) > 0 {
			o.askRetry()
			return true, nil
		}
	}
	n, err := o.try(b)
	switch {
	case err != nil:
		return false, err
	case n == len(b):
		return false, nil
	case n > 0:
		o.rest = o.restBuf[:copy(o.restBuf[:], b[n:])]
		o.askRetry()
		return false, nil
	}
	o.askRetry()
	return true, nil
}

func (o *status) finishRest() error {
	n, err := o.try(o.rest)
	o.rest = o.rest[n:]
	return err
}

func (o *status) askRetry() {
	select {
	case o.retry <- struct{}{}:
	default:
	}
}

// try writes what the socket takes now.
func (o *status) try(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	o.writing = b
	err := o.raw.Write(o.writeNow)
	if err == nil {
		err = o.writeErr
	}
	if err != nil {
		o.err = fmt.Errorf("write status to server: %w", err)
		return 0, o.err
	}
	return o.wrote, nil
}

// write runs under the descriptor's lock; true means do not wait.
func (o *status) write(fd uintptr) bool {
	o.wrote, o.writeErr = 0, nil
	for {
		n, err := syscall.Write(int(fd), o.writing)
		switch {
		case err == nil:
			o.wrote = n
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
		default:
			o.writeErr = err
		}
		return true
	}
}

// payOwed writes what a full socket refused before; it tells whether all of it
// is out.
func (o *status) payOwed() (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) > 0 {
		if err := o.finishRest(); err != nil {
			return false, err
		}
	}
	if o.replyOwed && len(o.rest) == 0 {
		if err := o.sendReply(); err != nil {
			return false, err
		}
	}
	if o.hsOwed && len(o.rest) == 0 {
		if err := o.sendFeedback(); err != nil {
			return false, err
		}
	}
	return len(o.rest) == 0 && !o.replyOwed && !o.hsOwed, nil
}

// goodbye ends the COPY and the connection from our side, best effort.
func (o *status) goodbye() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.farewelled || len(o.rest) > 0 {
		return
	}
	o.farewelled = true
	o.try([]byte{'c', 0, 0, 0, 4, 'X', 0, 0, 0, 4})
}

// loop repeats the status every second and writes what is owed, until ctx ends
// or the connection is dead.
func (o *status) loop(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	soon := time.NewTimer(retryEvery)
	defer soon.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			err = o.repeat()
		case <-o.retry:
			soon.Reset(retryEvery)
		case <-soon.C:
			var paid bool
			if paid, err = o.payOwed(); err == nil && !paid {
				soon.Reset(retryEvery)
			}
		}
		if err != nil {
			return // the receiving side sees the dead connection too
		}
	}
}
