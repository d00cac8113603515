package raftnode

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hclogger hands Raft's warnings and errors to slog, each at most once in
// quietFor about the same peer, and drops the rest: Raft tells of every
// heartbeat, and of every one that fails.
type hclogger struct {
	log   *slog.Logger
	name  string
	args  []any
	limit *limiter
}

func newHclog(l *slog.Logger) hclog.Logger {
	return &hclogger{log: l.With("component", "raft"), limit: &limiter{seen: map[string]*repeated{}}}
}

// The bounds of a limiter.
const (
	quietFor    = 10 * time.Second
	maxMessages = 256
)

// limiter remembers which messages were logged lately.
type limiter struct {
	mu   sync.Mutex
	seen map[string]*repeated // guarded by mu
}

type repeated struct {
	at         time.Time
	suppressed int
}

// allow tells whether the message may be logged now, and how many like it were
// not since the last one.
func (l *limiter) allow(key string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.seen[key]
	if r != nil && now.Sub(r.at) < quietFor {
		r.suppressed++
		return 0, false
	}
	if r != nil {
		suppressed = r.suppressed
	} else if len(l.seen) >= maxMessages {
		clear(l.seen)
	}
	l.seen[key] = &repeated{at: now}
	return suppressed, true
}

// subject is what the message is about: its text and the peer it names.
func subject(msg string, args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "peer" || args[i] == "target" {
			return fmt.Sprint(msg, " ", args[i+1])
		}
	}
	return msg
}

func (h *hclogger) emit(level slog.Level, msg string, args []any) {
	suppressed, ok := h.limit.allow(subject(msg, args), time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		defer func() {
			h.log.Log(context.Background(), level, "similar messages suppressed", "message", msg, "n", suppressed)
		}()
	}
	attrs := make([]any, len(args))
	copy(attrs, args)
	for i := 0; i < len(attrs); i += 2 {
		if k, ok := attrs[i].(string); ok {
			attrs[i] = strings.NewReplacer("-", "_", " ", "_").Replace(k)
		}
		if i+1 < len(attrs) {
			if f, ok := attrs[i+1].(hclog.Format); ok && len(f) > 0 {
				attrs[i+1] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
			}
		}
	}
	h.log.Log(context.Background(), level, msg, attrs...)
}

// Log is part of hclog.Logger.
func (h *hclogger) Log(level hclog.Level, msg string, args ...any) {
	switch level {
	case hclog.Warn:
		h.Warn(msg, args...)
	case hclog.Error:
		h.Error(msg, args...)
	}
}

func (h *hclogger) Trace(string, ...any)          {}
func (h *hclogger) Debug(string, ...any)          {}
func (h *hclogger) Info(string, ...any)           {}
func (h *hclogger) Warn(msg string, args ...any)  { h.emit(slog.LevelWarn, msg, args) }
func (h *hclogger) Error(msg string, args ...any) { h.emit(slog.LevelError, msg, args) }
func (h *hclogger) IsTrace() bool                 { return false }
func (h *hclogger) IsDebug() bool                 { return false }
func (h *hclogger) IsInfo() bool                  { return false }
func (h *hclogger) IsWarn() bool                  { return true }
func (h *hclogger) IsError() bool                 { return true }
func (h *hclogger) ImpliedArgs() []any            { return h.args }
func (h *hclogger) Name() string                  { return h.name }
func (h *hclogger) SetLevel(hclog.Level)          {}
func (h *hclogger) GetLevel() hclog.Level         { return hclog.Warn }

// With is part of hclog.Logger.
func (h *hclogger) With(args ...any) hclog.Logger {
	all := append(append([]any(nil), h.args...), args...)
	return &hclogger{log: h.log.With(args...), name: h.name, args: all, limit: h.limit}
}

// Named is part of hclog.Logger; names do not show.
func (h *hclogger) Named(name string) hclog.Logger {
	return &hclogger{log: h.log, name: name, args: h.args, limit: h.limit}
}

// ResetNamed is part of hclog.Logger.
func (h *hclogger) ResetNamed(name string) hclog.Logger { return h.Named(name) }

// StandardLogger is part of hclog.Logger.
func (h *hclogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

// StandardWriter is part of hclog.Logger; what is written is a warning.
func (h *hclogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return warnings{h} }

type warnings struct{ h *hclogger }

func (w warnings) Write(p []byte) (int, error) {
	w.h.Warn(strings.TrimSpace(string(p)))
	return len(p), nil
}
