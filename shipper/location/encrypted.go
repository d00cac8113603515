package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
)

// encryptedSuffix is what stock age calls its files.
const encryptedSuffix = ".age"

// Encrypted is loc with every object encrypted by age, under its key and
// ".age". `age -d` reads the objects. Other objects of loc are not seen.
//
// Writing needs recipients and no identity; reading needs the identity of one
// of the recipients of the object. Without it the error is ErrRefused. Bytes
// that were altered are ErrDamaged.
//
// All sizes are those of the plaintext, exactly: the headers of the files are
// filled up to one length, with a stanza that every implementation of age
// skips. A stored object whose size is none that this gives is listed with
// size -1. Encryption differs every time, so tokens have no effect.
func Encrypted(loc Location, recipients []age.Recipient, identities []age.Identity) (Location, error) {
	e := &encrypted{loc: loc, to: slices.Clone(recipients), with: slices.Clone(identities), heads: newHeads()}
	if len(recipients) == 0 && len(identities) == 0 {
		return nil, errors.New("encryption needs a recipient to write or an identity to read")
	}
	for _, r := range recipients {
		if _, ok := r.(*age.ScryptRecipient); ok {
			return nil, errors.New("a passphrase cannot encrypt a location; make a key with age-keygen")
		}
	}
	if len(recipients) > 0 {
		// Finds recipients that do not go together or are too many.
		if _, err := age.Encrypt(io.Discard, padded(e.to)); err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
	}
	return e, nil
}

type encrypted struct {
	loc   Location
	to    []age.Recipient
	with  []age.Identity
	heads *heads
}

// Create implements Location.
func (e *encrypted) Create(ctx context.Context, key string, o CreateOptions) (Upload, error) {
	if err := errors.Join(CheckKey(key), CheckToken(o.Token)); err != nil {
		return nil, err
	}
	if len(e.to) == 0 {
		return nil, fmt.Errorf("store %s: %w: no recipient to encrypt for is configured", key, ErrReadOnly)
	}
	size := int64(-1)
	if o.Size >= 0 {
		size = sealedSize(o.Size)
	}
	u, err := e.loc.Create(ctx, key+encryptedSuffix, CreateOptions{Size: size})
	if err != nil {
		return nil, err
	}
	w, err := age.Encrypt(u, padded(e.to))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", key, err), u.Abort())
	}
	return &encryptedUpload{u: u, w: w, key: key}, nil
}

// encryptedUpload encrypts on its way.
type encryptedUpload struct {
	u    Upload
	w    io.WriteCloser
	key  string
	size int64
}

// Write implements Upload.
func (u *encryptedUpload) Write(b []byte) (int, error) {
	n, err := u.w.Write(b)
	u.size += int64(n)
	return n, err
}

// Offset implements Upload.
func (u *encryptedUpload) Offset() int64 { return 0 }

// Commit implements Upload.
func (u *encryptedUpload) Commit(ctx context.Context) (Info, error) {
	if err := u.w.Close(); err != nil {
		return Info{}, fmt.Errorf("store %s: %w", u.key, err)
	}
	info, err := u.u.Commit(ctx)
	if err != nil {
		return Info{}, err
	}
	return Info{Key: u.key, Size: u.size, At: info.At}, nil
}

// Suspend implements Upload.
func (u *encryptedUpload) Suspend() error { return u.u.Suspend() }

// Abort implements Upload.
func (u *encryptedUpload) Abort() error { return u.u.Abort() }

// Stat implements Location.
func (e *encrypted) Stat(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	info, err := e.loc.Stat(ctx, key+encryptedSuffix)
	if err != nil {
		return Info{}, err
	}
	return plainInfo(info), nil
}

// plainInfo describes what an encrypted object holds.
func plainInfo(i Info) Info {
	size, ok := plainSize(i.Size)
	if !ok {
		size = -1
	}
	return Info{Key: strings.TrimSuffix(i.Key, encryptedSuffix), Size: size, At: i.At}
}

// List implements Location.
func (e *encrypted) List(ctx context.Context, prefix string, each func(Info) error) error {
	return e.loc.List(ctx, prefix, func(i Info) error {
		if stem, ok := strings.CutSuffix(i.Key, encryptedSuffix); !ok || CheckKey(stem) != nil {
			return nil
		}
		return each(plainInfo(i))
	})
}

// Remove implements Location.
func (e *encrypted) Remove(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return e.loc.Remove(ctx, key+encryptedSuffix)
}

// Space implements Location.
func (e *encrypted) Space(ctx context.Context) (Space, error) { return e.loc.Space(ctx) }

// Sweep implements Location.
func (e *encrypted) Sweep(ctx context.Context, before time.Time) (int, error) {
	return e.loc.Sweep(ctx, before)
}

// Close implements Location.
func (e *encrypted) Close() error { return e.loc.Close() }
