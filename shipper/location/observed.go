package location

import (
	"context"
	"errors"
	"io"
	"time"
)

// Op is a kind of Call.
type Op string

// The kinds of calls.
const (
	OpPut    Op = "put" // from Create to the end of the upload
	OpGet    Op = "get" // from Open to the closing of the reader
	OpStat   Op = "stat"
	OpList   Op = "list"
	OpRemove Op = "remove"
	OpSpace  Op = "space"
	OpSweep  Op = "sweep"
)

// Call is one finished use of a location.
type Call struct {
	Op    Op
	Key   string // or prefix
	Bytes int64  // moved
	Began time.Time
	Took  time.Duration
	// Err is the first error. An upload that was given up without one has
	// ErrAborted or ErrSuspended.
	Err error
}

var (
	// ErrAborted is the Call.Err of an upload that its caller aborted.
	ErrAborted = errors.New("the upload was aborted")
	// ErrSuspended is the Call.Err of an upload that its caller suspended.
	ErrSuspended = errors.New("the upload was suspended")
)

// Observed is loc with a report on every call, for metrics and logs. report is
// called at the end of each, by several goroutines at a time.
func Observed(loc Location, report func(Call)) Location { return &observed{loc, report} }

type observed struct {
	loc    Location
	report func(Call)
}

// watch is a call under way.
type watch struct {
	Call
	report func(Call)
	over   bool
}

func (o *observed) begin(op Op, key string) *watch {
	return &watch{Call: Call{Op: op, Key: key, Began: time.Now()}, report: o.report}
}

// saw keeps the first error.
func (w *watch) saw(err error) {
	if w.Err == nil {
		w.Err = err
	}
}

// end reports the call once.
func (w *watch) end() {
	if w.over {
		return
	}
	w.over = true
	w.Took = time.Since(w.Began)
	w.report(w.Call)
}

func (w *watch) done(err error) {
	w.saw(err)
	w.end()
}

// Create implements Location.
func (o *observed) Create(ctx context.Context, key string, opt CreateOptions) (Upload, error) {
	w := o.begin(OpPut, key)
	u, err := o.loc.Create(ctx, key, opt)
	if err != nil {
		w.done(err)
		return nil, err
	}
	return &observedUpload{u, w}, nil
}

type observedUpload struct {
	Upload
	watch *watch
}

// Write implements Upload.
func (u *observedUpload) Write(b []byte) (int, error) {
	n, err := u.Upload.Write(b)
	u.watch.Bytes += int64(n)
	u.watch.saw(err)
	return n, err
}

// Commit implements Upload. A failed one is reported when the caller has given
// the upload up.
func (u *observedUpload) Commit(ctx context.Context) (Info, error) {
	info, err := u.Upload.Commit(ctx)
	u.watch.saw(err)
	if err == nil {
		u.watch.end()
	}
	return info, err
}

// Suspend implements Upload.
func (u *observedUpload) Suspend() error {
	err := u.Upload.Suspend()
	u.watch.saw(ErrSuspended)
	u.watch.end()
	return err
}

// Abort implements Upload.
func (u *observedUpload) Abort() error {
	err := u.Upload.Abort()
	u.watch.saw(ErrAborted)
	u.watch.end()
	return err
}

// Open implements Location.
func (o *observed) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	w := o.begin(OpGet, key)
	r, err := o.loc.Open(ctx, key, off, n)
	if err != nil {
		w.done(err)
		return nil, err
	}
	return &observedReader{r, w}, nil
}

type observedReader struct {
	io.ReadCloser
	watch *watch
}

// Read implements io.Reader.
func (r *observedReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.watch.Bytes += int64(n)
	if err != io.EOF {
		r.watch.saw(err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *observedReader) Close() error {
	err := r.ReadCloser.Close()
	r.watch.done(err)
	return err
}

// Stat implements Location.
func (o *observed) Stat(ctx context.Context, key string) (Info, error) {
	w := o.begin(OpStat, key)
	info, err := o.loc.Stat(ctx, key)
	w.done(err)
	return info, err
}

// List implements Location.
func (o *observed) List(ctx context.Context, prefix string, each func(Info) error) error {
	w := o.begin(OpList, prefix)
	err := o.loc.List(ctx, prefix, each)
	w.done(err)
	return err
}

// Remove implements Location.
func (o *observed) Remove(ctx context.Context, key string) error {
	w := o.begin(OpRemove, key)
	err := o.loc.Remove(ctx, key)
	w.done(err)
	return err
}

// Space implements Location.
func (o *observed) Space(ctx context.Context) (Space, error) {
	w := o.begin(OpSpace, "")
	s, err := o.loc.Space(ctx)
	w.done(err)
	return s, err
}

// Sweep implements Location.
func (o *observed) Sweep(ctx context.Context, before time.Time) (int, error) {
	w := o.begin(OpSweep, "")
	n, err := o.loc.Sweep(ctx, before)
	w.done(err)
	return n, err
}

// Close implements Location.
func (o *observed) Close() error { return o.loc.Close() }
