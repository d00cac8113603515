package location_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
	"understudy/shipper/location/locationtest"
)

func TestNamed_Suite(t *testing.T) {
	locationtest.Run(t, func(t *testing.T) location.Location { return location.Named(place(t), "nas", "there") },
		locationtest.Features{Resume: true, Space: true, Large: 20 << 20})
}

// broken is a place in which every call fails in one way.
type broken struct {
	location.Location
	err error
}

func (b broken) Create(context.Context, string, location.CreateOptions) (location.Upload, error) {
	return nil, b.err
}
func (b broken) Open(context.Context, string, int64, int64) (io.ReadCloser, error) { return nil, b.err }
func (b broken) Stat(context.Context, string) (location.Info, error) {
	return location.Info{}, b.err
}
func (b broken) Remove(context.Context, string) error { return b.err }
func (b broken) List(_ context.Context, _ string, each func(location.Info) error) error {
	if b.err != nil {
		return b.err
	}
	return each(location.Info{Key: "k"})
}
func (b broken) Space(context.Context) (location.Space, error) { return location.Space{}, b.err }

const faultKey = "test/postgres/sets/20261122-100123F/base.tar.zst"

// TestFault_Sentence: the location once, the object by its key, the cause, what
// to do, whatever was wrapped around it on the way.
func TestFault_Sentence(t *testing.T) {
	temp := &fs.PathError{Op: "write", Path: ".tmp/8a6b-XYZ.part", Err: unix.ENOSPC}
	request := &url.Error{Op: "Put", URL: "http://s3/shop/" + faultKey + "?uploadId=1", Err: errors.New("dial tcp 10.0.0.9:443: connect: connection refused")}
	tests := map[string]struct {
		err  error
		want string
	}{
		"LocalFull": {fmt.Errorf("store %s: %w: %w", faultKey, location.ErrNoSpace, temp),
			"location nas: " + faultKey + " cannot be stored: no space left at the location; make room at /srv/backups on backup, or let it keep less"},
		"LocalReadOnly": {fmt.Errorf("store %s: %w: %w", faultKey, location.ErrReadOnly, &fs.PathError{Op: "mkdirat", Path: ".tmp", Err: unix.EROFS}),
			"location nas: " + faultKey + " cannot be stored: the location is read-only; make /srv/backups on backup writable"},
		"LocalNoPermission": {fmt.Errorf("store %s: %w: %w", faultKey, location.ErrReadOnly, &os.LinkError{Op: "renameat", Old: ".tmp/x", New: faultKey, Err: unix.EACCES}),
			"location nas: " + faultKey + " cannot be stored: the location is read-only: permission denied; make /srv/backups on backup writable"},
		"LocalAway": {fmt.Errorf("store %s: %w: is the file system mounted? %w", faultKey, location.ErrUnreachable, &fs.PathError{Op: "stat", Path: "/srv/backups", Err: unix.ENOENT}),
			"location nas: " + faultKey + " cannot be stored: the location cannot be reached: is the file system mounted? no such file or directory; look at /srv/backups on backup"},
		"ThroughAnotherNode": {fmt.Errorf("store %s: %w", faultKey, fmt.Errorf("the other node: store %s: no space left at the location%w", faultKey, hidden{location.ErrNoSpace})),
			"location nas: " + faultKey + " cannot be stored: the other node: no space left at the location; make room at /srv/backups on backup, or let it keep less"},
		"Request": {fmt.Errorf("commit %s: %w for the moment: %w", faultKey, location.ErrUnreachable, request),
			"location nas: " + faultKey + " cannot be stored: the location cannot be reached for the moment: dial tcp 10.0.0.9:443: connect: connection refused; look at /srv/backups on backup"},
		"Refused": {fmt.Errorf("create %s: %w: permission denied", faultKey, location.ErrRefused),
			"location nas: " + faultKey + " cannot be stored: the location refused us: permission denied; correct the policy, the secrets of this node, or /srv/backups on backup"},
		"Damaged": {fmt.Errorf("commit %s: %w: 5 bytes are stored, 6 were written", faultKey, location.ErrDamaged),
			"location nas: " + faultKey + " cannot be stored: damaged at the location: 5 bytes are stored, 6 were written; when that comes again, test the disk and the memory of /srv/backups on backup"},
		"Unknown": {fmt.Errorf("store %s: %w", faultKey, &fs.PathError{Op: "write", Path: ".tmp/x", Err: unix.EIO}),
			"location nas: " + faultKey + " cannot be stored: input/output error; look at /srv/backups on backup"},
		"Encrypted": {fmt.Errorf("store %s.age: %w: %w", faultKey, location.ErrNoSpace, temp),
			"location nas: " + faultKey + " cannot be stored: no space left at the location; make room at /srv/backups on backup, or let it keep less"},
		"TwoLines": {errors.Join(fmt.Errorf("store %s: %w: %w", faultKey, location.ErrNoSpace, temp), errors.New("close: bad file descriptor")),
			"location nas: " + faultKey + " cannot be stored: no space left at the location; close: bad file descriptor; make room at /srv/backups on backup, or let it keep less"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			loc := location.Named(broken{err: tt.err}, "nas", "/srv/backups on backup")
			_, err := loc.Create(t.Context(), faultKey, location.CreateOptions{})
			if !errors.Is(err, tt.err) {
				t.Errorf("%v no longer is %v", err, tt.err)
			}
			for wrapped, err := range map[string]error{
				"Bare":      err,
				"Wrapped":   fmt.Errorf("store %s: %w", faultKey, fmt.Errorf("write %s: %w", faultKey, err)),
				"GivenUp":   errors.Join(fmt.Errorf("write %s: %w", faultKey, err), fmt.Errorf("suspend: %w", &location.Fault{Location: "nas", Key: faultKey, Err: io.ErrClosedPipe})),
				"OfACopy":   fmt.Errorf("copy %s: %w", faultKey, errors.Join(fmt.Errorf("write: %w", err), nil)),
				"ToldTwice": errors.Join(err, err),
			} {
				got := location.Sentence(err)
				if got != tt.want {
					t.Errorf("%s:\n got %s\nwant %s", wrapped, got, tt.want)
				}
				if short := location.Problem(err); "location nas: "+short != got {
					t.Errorf("without the name: %s", short)
				}
			}
		})
	}
}

// hidden is an error that is not in the text of who wraps it.
type hidden struct{ error }

func (hidden) Error() string   { return "" }
func (h hidden) Unwrap() error { return h.error }

func TestFault_Calls(t *testing.T) {
	why := fmt.Errorf("x %s: %w", "k", location.ErrUnreachable)
	loc := location.Named(broken{err: why}, "nas", "there")
	_, opened := loc.Open(t.Context(), "k", 0, -1)
	_, looked := loc.Stat(t.Context(), "k")
	_, measured := loc.Space(t.Context())
	for want, err := range map[string]error{
		"k cannot be read":                       opened,
		"k cannot be looked up":                  looked,
		"its room cannot be measured":            measured,
		"k cannot be removed":                    loc.Remove(t.Context(), "k"),
		"what lies below k/ cannot be listed":    loc.List(t.Context(), "k/", nil),
		"what lies below its root cannot be lis": loc.List(t.Context(), "", nil),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, location.ErrUnreachable) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestNamed_AnswersStay: what is no failure of the location is not told as one.
func TestNamed_AnswersStay(t *testing.T) {
	var f *location.Fault
	for _, answer := range []error{location.ErrNotExist, location.ErrUnsupported, location.ErrClosed, location.ErrKey} {
		_, err := location.Named(broken{err: answer}, "nas", "there").Stat(t.Context(), "k")
		if !errors.Is(err, answer) || errors.As(err, &f) {
			t.Errorf("%v became %v", answer, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := location.Named(broken{err: context.Cause(ctx)}, "nas", "there").Stat(ctx, "k"); errors.As(err, &f) {
		t.Errorf("the end of a context became %v", err)
	}
	stop := errors.New("stop")
	if err := location.Named(broken{}, "nas", "there").List(t.Context(), "", func(location.Info) error { return stop }); err != stop {
		t.Errorf("the error of each became %v", err)
	}
}

func TestSentence_Others(t *testing.T) {
	a := &location.Fault{Location: "a", Where: "A", Op: location.OpGet, Key: "k", Err: location.ErrUnreachable}
	b := &location.Fault{Location: "b", Where: "B", Op: location.OpGet, Key: "k", Err: location.ErrDamaged}
	const ofA = "k cannot be read: the location cannot be reached; look at A"
	const ofB = "k cannot be read: damaged at the location; when that comes again, test the disk and the memory of B"
	for want, err := range map[string]error{
		"":                                 nil,
		"no label; no name":                errors.Join(errors.New("no label"), errors.New("no name")),
		"set X: no label; no name":         fmt.Errorf("set X: %w", errors.Join(errors.New("no label"), errors.New("no name"))),
		"location a: " + ofA:               fmt.Errorf("set X: from a: %w", a),
		"location a: " + ofA + "; refused": errors.Join(fmt.Errorf("log: %w", a), errors.New("refused")),
		"location a: " + ofA + "; location b: " + ofB: fmt.Errorf("set X: %w", errors.Join(fmt.Errorf("from a: %w", a), fmt.Errorf("from b: %w", b))),
		"nobody is left; a: " + ofA + "; b: " + ofB:   fmt.Errorf("%w; %s: %w", fmt.Errorf("%w; %s: %w", errors.New("nobody is left"), "a", a), "b", b),
	} {
		if got := location.Sentence(err); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
