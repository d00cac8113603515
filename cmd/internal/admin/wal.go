package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNotYet is returned by a Backend's WAL when the file is not there and may
// come later.
var ErrNotYet = errors.New("not available yet")

// ErrLedgerUnknown is returned by a Backend's WAL when the daemon cannot tell
// which log is the right one. Recovery must not take this for the log's end.
var ErrLedgerUnknown = errors.New("the group's history is not known yet")

// walName is a whole segment or a timeline history; never a partial segment or
// a backup label.
var walName = regexp.MustCompile(`^([0-9A-F]{24}|[0-9A-F]{8}\.history)$`)

// WALHandler answers GET /wal/NAME for PostgreSQL's restore_command, on a
// socket of its own. 200 with the file, 404 for not yet, 503 while the ledger's
// state is unknown, 500 for the rest. An error after the first byte cuts the
// connection, so that half a file is never taken for a whole one.
func WALHandler(get func(ctx context.Context, name string, w io.Writer) error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /wal/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if !walName.MatchString(name) {
			writeError(w, http.StatusNotFound, CodeBadArgument, fmt.Sprintf("%.64q is no name of a segment or history file.", name))
			return
		}
		body := &walBody{w: w}
		err := get(r.Context(), name, body)
		switch {
		case err == nil:
			body.start()
		case body.started:
			panic(http.ErrAbortHandler) // the way net/http offers to cut a reply
		case errors.Is(err, ErrNotYet):
			writeError(w, http.StatusNotFound, "not-yet", err.Error())
		case errors.Is(err, ErrLedgerUnknown):
			writeError(w, http.StatusServiceUnavailable, "ledger-unknown", err.Error())
		default:
			writeError(w, http.StatusInternalServerError, "failed", err.Error())
		}
	})
	return mux
}

// walBody writes the header with the first byte.
type walBody struct {
	w       http.ResponseWriter
	started bool
}

func (b *walBody) start() {
	if !b.started {
		b.started = true
		b.w.Header().Set("Content-Type", "application/octet-stream")
		b.w.WriteHeader(http.StatusOK)
	}
}

func (b *walBody) Write(p []byte) (int, error) {
	b.start()
	return b.w.Write(p)
}

// ServeWAL is ServeUnix for a socket that every account may open and on which
// only processes of the given user ids are answered.
func ServeWAL(ctx context.Context, path string, h http.Handler, uids []uint32) error {
	l, err := listenUnix(ctx, path, 0o666)
	if err != nil {
		return err
	}
	return Serve(ctx, &credListener{Listener: l, uids: slices.Clone(uids)}, h)
}

// credListener closes the connections of other accounts.
type credListener struct {
	net.Listener
	uids []uint32
}

func (l *credListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && slices.Contains(l.uids, uid) {
			return c, nil
		}
		_ = c.Close()
	}
}

// peerUID is the user id of the process at the other end, by the kernel's word.
func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, os.ErrInvalid
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}
