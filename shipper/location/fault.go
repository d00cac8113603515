package location

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// Fault is a call to a location that failed, told in one sentence: the object
// by its key, the cause, and what to do. The name of the location is left to
// who tells of it; see Sentence.
type Fault struct {
	Location string // its name
	Where    string // what an operator looks at, such as a directory and its node
	Op       Op
	Key      string // or prefix
	Err      error
}

// Error implements error.
func (f *Fault) Error() string {
	return f.what() + ": " + cause(f.Err, f.Key) + f.advice()
}

// Unwrap implements errors.Is and errors.As.
func (f *Fault) Unwrap() error { return f.Err }

// what failed.
func (f *Fault) what() string {
	switch f.Op {
	case OpPut:
		return f.Key + " cannot be stored"
	case OpGet:
		return f.Key + " cannot be read"
	case OpStat:
		return f.Key + " cannot be looked up"
	case OpList:
		return "what lies below " + cmp.Or(f.Key, "its root") + " cannot be listed"
	case OpRemove:
		return f.Key + " cannot be removed"
	case OpSpace:
		return "its room cannot be measured"
	case OpSweep:
		return "unfinished uploads cannot be removed"
	}
	return "it fails"
}

// advice is what to do.
func (f *Fault) advice() string {
	switch {
	case errors.Is(f.Err, ErrNoSpace):
		return fmt.Sprintf("; make room at %s, or let it keep less", f.Where)
	case errors.Is(f.Err, ErrReadOnly):
		return fmt.Sprintf("; make %s writable", f.Where)
	case errors.Is(f.Err, ErrRefused):
		return fmt.Sprintf("; correct the policy, the secrets of this node, or %s", f.Where)
	case errors.Is(f.Err, ErrDamaged):
		return fmt.Sprintf("; when that comes again, test the disk and the memory of %s", f.Where)
	}
	return fmt.Sprintf("; look at %s", f.Where)
}

// Sentence is an error for an operator: of what a location said the location's
// name and the Fault, once, without what the callers wrapped around it; of what
// was joined each part. Other errors are their text in one line.
func Sentence(err error) string { return tell(err, true) }

// Problem is Sentence without the location's name, for who has just named it.
func Problem(err error) string { return tell(err, false) }

func tell(err error, named bool) string {
	if err == nil {
		return ""
	}
	var out []string
	told := map[[2]string]bool{}
	faults := false
	for _, e := range parts(err) {
		text, about := oneLine(e.Error()), [2]string{"", e.Error()}
		if f, ok := faultOf(e); ok {
			faults = true
			about = [2]string{f.Location, f.Key}
			if text = f.Error(); named {
				text = "location " + f.Location + ": " + text
			}
		}
		// What failed while the first failure was tidied up is no news.
		if !told[about] {
			out = append(out, text)
		}
		told[about] = true
	}
	if !faults {
		return oneLine(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return strings.Join(out, "; ")
}

// parts are the errors that were joined, if any were, also below wrappers of
// their own.
func parts(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, ok := e.(*Fault); ok {
			break
		}
		if all, ok := joined(e); ok {
			var out []error
			for _, x := range all {
				out = append(out, parts(x)...)
			}
			return out
		}
	}
	return []error{err}
}

// joined takes apart what errors.Join made: the texts line by line and nothing
// else.
func joined(err error) ([]error, bool) {
	e, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, false
	}
	all := e.Unwrap()
	var lines []string
	for _, x := range all {
		lines = append(lines, x.Error())
	}
	return all, strings.Join(lines, "\n") == err.Error()
}

// faultOf is the Fault that err wraps and nothing else with it.
func faultOf(err error) (*Fault, bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		if f, ok := err.(*Fault); ok {
			return f, true
		}
	}
	return nil, false
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Cause is the text of an error of a location without what Error of a Fault
// says anyway: no verb with the key, and no name of a file that only we know.
func Cause(err error, key string) string { return cause(err, key) }

// same are texts of the system that repeat the sentinel before them.
var same = strings.NewReplacer(ErrNoSpace.Error()+": no space left on device", ErrNoSpace.Error(),
	ErrReadOnly.Error()+": read-only file system", ErrReadOnly.Error(), ErrNotExist.Error()+": no such file or directory", ErrNotExist.Error())

func cause(err error, key string) string {
	text := strings.ReplaceAll(plain(err), "\n", "; ")
	if key != "" {
		text = withKey(key).ReplaceAllString(text, "")
	}
	return oneLine(same.Replace(text))
}

// withKey finds "store KEY: ", as the places and their callers begin errors.
func withKey(key string) *regexp.Regexp {
	return regexp.MustCompile(`(look at|[a-z]+) ` + regexp.QuoteMeta(key) + `(\.age)?: `)
}

// plain is the text of err with the names of files and requests taken out: they
// may be temporary ones, and the caller names the object.
func plain(err error) string {
	switch e := err.(type) {
	case *fs.PathError:
		return plain(e.Err)
	case *os.LinkError:
		return plain(e.Err)
	case *os.SyscallError:
		return plain(e.Err)
	case *url.Error:
		return plain(e.Err)
	case interface{ Unwrap() []error }:
		text := err.Error()
		for _, x := range e.Unwrap() {
			text = strings.Replace(text, x.Error(), plain(x), 1)
		}
		return text
	case interface{ Unwrap() error }:
		if x := e.Unwrap(); x != nil {
			return strings.Replace(err.Error(), x.Error(), plain(x), 1)
		}
	}
	return err.Error()
}

// Named is loc with errors that are Faults of the location of that name; where
// is what an operator looks at. Answers, such as ErrNotExist, and the ends of
// contexts stay as they are.
func Named(loc Location, name, where string) Location {
	return &named{Location: loc, name: name, where: where}
}

type named struct {
	Location
	name, where string
}

// fault makes err one of this location.
func (n *named) fault(ctx context.Context, op Op, key string, err error) error {
	if err == nil || final(err) {
		return err
	}
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, ctx.Err())) {
		return err
	}
	var f *Fault
	if errors.As(err, &f) {
		return err // of a copy's other side, or told already
	}
	return &Fault{Location: n.name, Where: n.where, Op: op, Key: key, Err: err}
}

// Create implements Location.
func (n *named) Create(ctx context.Context, key string, o CreateOptions) (Upload, error) {
	u, err := n.Location.Create(ctx, key, o)
	if err != nil {
		return nil, n.fault(ctx, OpPut, key, err)
	}
	return &namedUpload{Upload: u, n: n, ctx: ctx, key: key}, nil
}

type namedUpload struct {
	Upload
	n   *named
	ctx context.Context
	key string
}

// Write implements Upload.
func (u *namedUpload) Write(b []byte) (int, error) {
	n, err := u.Upload.Write(b)
	return n, u.n.fault(u.ctx, OpPut, u.key, err)
}

// Commit implements Upload.
func (u *namedUpload) Commit(ctx context.Context) (Info, error) {
	i, err := u.Upload.Commit(ctx)
	return i, u.n.fault(ctx, OpPut, u.key, u.n.fault(u.ctx, OpPut, u.key, err))
}

// Suspend implements Upload.
func (u *namedUpload) Suspend() error { return u.n.fault(u.ctx, OpPut, u.key, u.Upload.Suspend()) }

// Abort implements Upload.
func (u *namedUpload) Abort() error { return u.n.fault(u.ctx, OpPut, u.key, u.Upload.Abort()) }

// Open implements Location.
func (n *named) Open(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	r, err := n.Location.Open(ctx, key, off, length)
	if err != nil {
		return nil, n.fault(ctx, OpGet, key, err)
	}
	return &namedReader{ReadCloser: r, n: n, ctx: ctx, key: key}, nil
}

type namedReader struct {
	io.ReadCloser
	n   *named
	ctx context.Context
	key string
}

// Read implements io.Reader.
func (r *namedReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, r.n.fault(r.ctx, OpGet, r.key, err)
}

// Close implements io.Closer.
func (r *namedReader) Close() error { return r.n.fault(r.ctx, OpGet, r.key, r.ReadCloser.Close()) }

// Stat implements Location.
func (n *named) Stat(ctx context.Context, key string) (Info, error) {
	i, err := n.Location.Stat(ctx, key)
	return i, n.fault(ctx, OpStat, key, err)
}

// List implements Location. An error of each is returned as it is.
func (n *named) List(ctx context.Context, prefix string, each func(Info) error) error {
	var stop error
	err := n.Location.List(ctx, prefix, func(i Info) error {
		err := each(i)
		if err != nil {
			stop = err
		}
		return err
	})
	if stop != nil {
		return err
	}
	return n.fault(ctx, OpList, prefix, err)
}

// Remove implements Location.
func (n *named) Remove(ctx context.Context, key string) error {
	return n.fault(ctx, OpRemove, key, n.Location.Remove(ctx, key))
}

// Space implements Location.
func (n *named) Space(ctx context.Context) (Space, error) {
	s, err := n.Location.Space(ctx)
	return s, n.fault(ctx, OpSpace, "", err)
}

// Sweep implements Location.
func (n *named) Sweep(ctx context.Context, before time.Time) (int, error) {
	k, err := n.Location.Sweep(ctx, before)
	return k, n.fault(ctx, OpSweep, "", err)
}
