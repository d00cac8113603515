package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"understudy/shipper/pos"
)

// The words of the protocol: one request and one answer for each connection.
//
//	request   GET <name>\n
//	answer    OK <bytes>\n<the file>
//	          NONE | OUTSIDE | LATER | UNKNOWN | FAILED, each with " <text>\n"
const (
	maxRequest   = 64
	maxAnswer    = 4 << 10
	maxServed    = 4 // connections
	requestIn    = 10 * time.Second
	writeStall   = 60 * time.Second
	dialIn       = 5 * time.Second
	maxFileBytes = maxSegSize
)

// ErrFailed is returned by RequestFile for an error on the machine that serves
// the files.
var ErrFailed = errors.New("the log cannot be handed over")

var answers = []struct {
	word string
	err  error
}{{"OUTSIDE", ErrOutside}, {"NONE", ErrNotExist}, {"LATER", ErrNotYet}, {"UNKNOWN", ErrUnknown}, {"FAILED", ErrFailed}}

// ServeFetch answers RequestFile on l until ctx ends; it closes l and waits
// for the answers under way. Who may connect is for the owner of l to decide.
func ServeFetch(ctx context.Context, l net.Listener, f *Fetcher) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxServed)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("serve log: %w", err), l.Close())
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close() // nobody asks for so many
			continue
		}
		wg.Go(func() {
			f.serve(ctx, conn)
			_ = conn.Close() // the answer is out, or cannot be sent
			<-slots
		})
	}
}

// serve answers one connection.
func (f *Fetcher) serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetReadDeadline(time.Now().Add(requestIn))
	line, err := bufio.NewReaderSize(conn, maxRequest).ReadSlice('\n')
	name, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "GET ")
	if err != nil || !ok {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go func() { // the client says no more: this ends when it leaves or is answered
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	f.mu.Lock()
	f.serial++
	path := filepath.Join(f.cfg.Dir, "served-"+strconv.Itoa(f.serial))
	f.mu.Unlock()
	defer func() { _ = os.Remove(path) }() // else the next Fetcher does
	if err := f.Get(ctx, name, path); err != nil {
		answer(conn, err)
		return
	}
	if err := sendFile(conn, path); err != nil && ctx.Err() == nil {
		f.cfg.Log.Warn("log was not handed over", "file", name, "error", err)
	}
}

func answer(conn net.Conn, err error) {
	word := "FAILED"
	for _, a := range answers {
		if errors.Is(err, a.err) {
			word = a.word
			break
		}
	}
	text := strings.ToValidUTF8(strings.NewReplacer("\n", " ", "\r", " ").Replace(err.Error()), "?")
	_ = conn.SetWriteDeadline(time.Now().Add(requestIn))
	_, _ = fmt.Fprintf(conn, "%s %.2000s\n", word, text) // a client that left needs no answer
}

func sendFile(conn net.Conn, path string) error {
	r, err := os.Open(path)
	if err != nil {
		answer(conn, err)
		return err
	}
	defer r.Close()
	fi, err := r.Stat()
	if err != nil {
		answer(conn, err)
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writeStall))
	if _, err := fmt.Fprintf(conn, "OK %d\n", fi.Size()); err != nil {
		return err
	}
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(writeStall))
		switch _, err := io.CopyN(conn, r, 1<<20); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// RequestFile asks the server behind a unix socket for a file and puts it at
// dest, by a rename. The errors are those of Fetcher.Get; ErrUnknown when
// nobody answers, ErrFailed when the server's machine fails.
func RequestFile(ctx context.Context, socket, name, dest string) error {
	if _, ok := historyName(name); !ok {
		if _, _, err := pos.ParseSegName(name, minSegSize); err != nil {
			return fmt.Errorf("%w: %.80q is no segment and no history", ErrNotExist, name)
		}
	}
	d := net.Dialer{Timeout: dialIn}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%w: ask for %s: %w", ErrUnknown, name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := fmt.Fprintf(conn, "GET %s\n", name); err != nil {
		return fmt.Errorf("%w: ask for %s: %w", ErrUnknown, name, err)
	}
	r := bufio.NewReaderSize(conn, maxAnswer)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("%w: ask for %s: %w", ErrUnknown, name, err)
	}
	word, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	for _, a := range answers {
		if word == a.word {
			return &Refused{Why: a.err, Text: rest}
		}
	}
	size, err := strconv.ParseInt(rest, 10, 64)
	if word != "OK" || err != nil || size < 0 || size > maxFileBytes {
		return fmt.Errorf("%w: ask for %s: answer %.80q", ErrUnknown, name, line)
	}
	return receiveFile(r, size, name, dest)
}

// receiveFile makes dest of the bytes that follow an answer.
func receiveFile(r io.Reader, size int64, name, dest string) error {
	cut := false
	err := writeFile(dest, func(w io.Writer) error {
		_, err := io.CopyN(w, r, size)
		var local *os.PathError
		cut = err != nil && !errors.As(err, &local)
		return err
	})
	if cut {
		return fmt.Errorf("%w: receive %s: %w", ErrUnknown, name, err)
	}
	if err != nil {
		return fmt.Errorf("receive %s: %w", name, err)
	}
	return nil
}

// Refused is a server's answer other than a file.
type Refused struct {
	Why  error  // ErrNotExist, ErrOutside, ErrNotYet, ErrUnknown or ErrFailed
	Text string // the server's words
}

// Error is the server's words.
func (e *Refused) Error() string { return e.Text }

// Unwrap is Why.
func (e *Refused) Unwrap() error { return e.Why }
