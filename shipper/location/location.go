// Package location is the port to the places that hold backups: a local
// directory, an SFTP server, an S3 bucket, a location of another node.
//
// A place holds objects under keys. An object appears under its key in one
// step, whole, or not at all; it is replaced in one step too. The sub-packages
// implement the port, locationtest is the suite they all pass, and the
// decorators of this package (Throttled, Encrypted, Observed) wrap any of
// them.
package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

var (
	// ErrNotExist is returned when no object has the key.
	ErrNotExist = errors.New("no such object")
	// ErrNoSpace is returned when the place is full. A later call succeeds once
	// there is room.
	ErrNoSpace = errors.New("no space left at the location")
	// ErrReadOnly is returned when the place cannot be written to.
	ErrReadOnly = errors.New("the location is read-only")
	// ErrRefused is returned when the place does not know us: a wrong key,
	// password, host key or bucket. Repeating helps only after somebody changed
	// something.
	ErrRefused = errors.New("the location refused us")
	// ErrUnreachable is returned when the place does not answer.
	ErrUnreachable = errors.New("the location cannot be reached")
	// ErrDamaged is returned when stored bytes are not those that were written.
	ErrDamaged = errors.New("damaged at the location")
	// ErrKey is returned for a key that CheckKey refuses.
	ErrKey = errors.New("not an object key")
	// ErrUnsupported is returned by Space where nothing can be said.
	ErrUnsupported = errors.New("the location cannot tell")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the location is closed")
)

// Location is one place. All methods may be called concurrently. Each ends
// soon after ctx does, and each bounds every wait for the network by itself:
// a dead place gives ErrUnreachable, not a hanging call.
//
// Errors wrap one of this package's sentinels where one fits, and name the
// key.
type Location interface {
	// Create begins the object key. Nothing is seen under key before Commit.
	// ctx lives as long as the Upload.
	Create(ctx context.Context, key string, o CreateOptions) (Upload, error)
	// Open reads n bytes of an object from offset off on; n < 0 reads to its
	// end. Reading stops with an error, not io.EOF, when the object turns out to
	// be shorter than n demands. An offset at the end gives no bytes; one beyond
	// it is an error. ctx lives as long as the reader. ErrNotExist is returned
	// by Open, not by Read.
	Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	// Stat describes an object; ErrNotExist.
	Stat(ctx context.Context, key string) (Info, error)
	// List calls each for every object whose key begins with prefix, in any
	// order; prefix is empty or ends in "/". Unfinished uploads are not objects.
	// An error of each ends the list and is returned as it is.
	List(ctx context.Context, prefix string, each func(Info) error) error
	// Remove deletes an object, durably. A key without an object is success.
	// Folders that became empty go too.
	Remove(ctx context.Context, key string) error
	// Space is the room at the place; ErrUnsupported where it has no bound.
	Space(ctx context.Context) (Space, error)
	// Sweep removes unfinished uploads that were last written to before t, and
	// returns how many there were.
	Sweep(ctx context.Context, before time.Time) (int, error)
	// Close frees connections. Uploads and readers must have ended.
	Close() error
}

// CreateOptions say what is known of an object before its first byte.
type CreateOptions struct {
	// Size is the number of bytes that will be written, when it is known; -1
	// when not. A known size lets a place reserve room and choose part sizes;
	// Commit fails when another number was written.
	Size int64
	// Token, when not empty, names these very bytes (for example their digest):
	// an upload that was begun with the same key and Token and neither committed
	// nor aborted is gone on with, from Upload.Offset on. Letters, digits, at
	// most 64.
	Token string
}

// Upload is an object on its way. It is for one goroutine.
type Upload interface {
	// Write adds bytes. They need not be stored on return.
	io.Writer
	// Offset is how many bytes the place already held when the upload was
	// taken up again; the caller writes on from there.
	Offset() int64
	// Commit makes the object durable and visible under its key. What the place
	// can prove about the stored bytes (size, its own checksum) was compared
	// before. After an error nothing is seen under the key that was not there
	// before, unless the error came after the very last step; a Create with the
	// same bytes repeats it harmlessly.
	Commit(ctx context.Context) (Info, error)
	// Suspend ends the upload and keeps what was stored, for a later Create
	// with the same Token; without a Token it is Abort.
	Suspend() error
	// Abort ends the upload and removes what was stored. After Commit it does
	// nothing.
	Abort() error
}

// Info describes an object.
type Info struct {
	Key  string    `json:"key"`
	Size int64     `json:"size"` // bytes as stored
	At   time.Time `json:"at"`   // when it was stored, by the place's clock
}

// Space is the room at a place, in bytes.
type Space struct {
	Free  int64 `json:"free"`
	Total int64 `json:"total"`
}

// The bounds of a key.
const (
	maxKey     = 512
	maxElement = 128
)

// element is one part of a key. A leading dot is kept for the temporary names
// of the places.
var element = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+=@-]*$`)

// CheckKey accepts relative keys of plain elements separated by "/"; the error
// wraps ErrKey.
func CheckKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w: it has %d bytes, 1 to %d are possible", ErrKey, len(key), maxKey)
	}
	for _, e := range strings.Split(key, "/") {
		if len(e) > maxElement || !element.MatchString(e) {
			return fmt.Errorf("%w: %q", ErrKey, key)
		}
	}
	return nil
}

// token is what CreateOptions.Token may be.
var token = regexp.MustCompile(`^[A-Za-z0-9]{0,64}$`)

// CheckToken accepts what CreateOptions.Token may be.
func CheckToken(s string) error {
	if !token.MatchString(s) {
		return fmt.Errorf("token %.70q is not of up to 64 letters and digits", s)
	}
	return nil
}

// CheckPrefix accepts what List takes.
func CheckPrefix(prefix string) error {
	stem, ok := strings.CutSuffix(prefix, "/")
	switch {
	case prefix == "":
		return nil
	case !ok:
		return fmt.Errorf("%w: prefix %q does not end in a slash", ErrKey, prefix)
	}
	return CheckKey(stem)
}

// Permanent tells whether repeating a failed call cannot help before somebody
// has changed something.
func Permanent(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrKey) || errors.Is(err, ErrReadOnly)
}
