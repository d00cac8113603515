package walserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	oidBytea = 17
	oidInt8  = 20
	oidInt4  = 23
	oidText  = 25
)

var errTorn = errors.New("an earlier write to the client failed")

// refusal is an error whose words go to the client before the connection ends.
type refusal struct{ msg *pgproto3.ErrorResponse }

// Error implements error.
func (r *refusal) Error() string {
	if r.msg.Detail != "" {
		return r.msg.Message + ": " + r.msg.Detail
	}
	return r.msg.Message
}

func refuse(code, message, detail string) error { return &refusal{fatal(code, message, detail)} }

func fatal(code, message, detail string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message, Detail: detail}
}

// put appends an answer; it is sent by ready or flush.
func (c *conn) put(m pgproto3.BackendMessage) {
	b, err := m.Encode(c.out)
	if err != nil {
		// Only an answer beyond a gigabyte does not encode.
		panic(fmt.Sprintf("encode %T: %v", m, err))
	}
	c.out = b
}

type column struct {
	name string
	oid  uint32
}

func (c *conn) row(cols []column, values ...[]byte) {
	var d pgproto3.RowDescription
	for _, col := range cols {
		size := int16(-1)
		switch col.oid {
		case oidInt4:
			size = 4
		case oidInt8:
			size = 8
		}
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(col.name), DataTypeOID: col.oid, DataTypeSize: size, TypeModifier: -1})
	}
	c.put(&d)
	c.put(&pgproto3.DataRow{Values: values})
}

// ready ends the answer to a command.
func (c *conn) ready() error {
	c.put(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return c.flush()
}

func (c *conn) flush() error {
	err := c.send(c.out)
	c.out = c.out[:0]
	return err
}

// send writes whole messages in one call. Nothing may follow one that was cut:
// the client would take the next bytes for the rest of the WAL in it.
func (c *conn) send(b []byte) error {
	if c.torn {
		return errTorn
	}
	if _, err := c.net.Write(b); err != nil {
		c.torn = true
		return fmt.Errorf("write to client: %w", err)
	}
	return nil
}

// reject answers a command with an error; the connection stays.
func (c *conn) reject(code, message, detail string) error {
	c.put(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: message, Detail: detail})
	return c.ready()
}

// lastWords tells the client why the connection ends, if it still listens.
func (c *conn) lastWords(m *pgproto3.ErrorResponse) {
	c.net.SetWriteDeadline(time.Now().Add(writeGrace))
	c.out = c.out[:0]
	c.put(m)
	_ = c.flush() // best effort: the connection is closed next
}

// read takes one message; body is valid until the next call.
func (c *conn) read() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[1:])) - 4
	if size < 0 || size > maxMessage {
		return 0, nil, refuse("08P01", fmt.Sprintf("message %q of %d bytes", head[0], size), "")
	}
	if int64(cap(c.buf)) < size {
		c.buf = make([]byte, size)
	}
	c.buf = c.buf[:size]
	if _, err := io.ReadFull(c.in, c.buf); err != nil {
		return 0, nil, err
	}
	return head[0], c.buf, nil
}
