package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// order is one line from the daemon. Every order is answered by a notice with
// its ID.
type order struct {
	ID      uint64        `json:"id"`
	Op      string        `json:"op"`
	Time    time.Duration `json:"time_ns,omitempty"` // renew: contact; extend: until
	Tag     *Tag          `json:"tag,omitempty"`
	Primary bool          `json:"primary,omitempty"`
	Mode    StopMode      `json:"mode,omitempty"`
}

// The orders.
const (
	opPing    = "ping"
	opRenew   = "renew"
	opExtend  = "extend"
	opTag     = "tag"
	opPrimary = "primary"
	opSignal  = "signal"
	opKill    = "kill" // immediate, then SIGKILL to every descendant
)

// notice is one line from the guard: the answer to an order, the greeting
// (ID 0, Hello set), or the end of the server (ID 0, Exited set).
type notice struct {
	ID     uint64 `json:"id"`
	Error  string `json:"error,omitempty"`
	Hello  *hello `json:"hello,omitempty"`
	Exited string `json:"exited,omitempty"`
}

type hello struct {
	GuardPID   int    `json:"guard_pid"`
	ServerPID  int    `json:"server_pid"`
	ServerTick uint64 `json:"server_tick"` // start time of that process, against reused ids
	Tag        Tag    `json:"tag"`
}

// ready is what the guard tells the process that started it, once.
type ready struct {
	Error string `json:"error,omitempty"`
	Taken bool   `json:"taken,omitempty"` // another guard answers on the socket
}

var errLineTooLong = fmt.Errorf("message longer than %d bytes", maxLine)

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) >= maxLine {
		return errLineTooLong
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// readLine decodes one line; r must have a buffer of maxLine bytes.
func readLine(r *bufio.Reader, v any) error {
	b, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return errLineTooLong
	}
	if err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}
