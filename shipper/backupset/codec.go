package backupset

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/zeebo/blake3"
)

// MaxSetBytes bounds set.json.
const MaxSetBytes = 8 << 20

var (
	// ErrDamaged is returned for bytes that are not those that were written.
	ErrDamaged = errors.New("damaged")
	// ErrVersion is returned for a set of a newer program.
	ErrVersion = errors.New("the set is of a newer version of understudy; read it with that")
)

// The bytes of set.json around the description and its digest. They are fixed,
// so that a change of any byte of the object is seen.
const (
	setHead  = `{"set":`
	setJoint = `,"blake3":"`
	setTail  = "\"}\n"
)

// EncodeSet is the content of set.json.
func EncodeSet(s Set) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the set: %w", err)
	}
	sum := blake3.Sum256(body)
	b := append([]byte(setHead), body...)
	b = append(b, setJoint...)
	b = hex.AppendEncode(b, sum[:])
	b = append(b, setTail...)
	if len(b) > MaxSetBytes {
		return nil, fmt.Errorf("encode the set: its description has %d bytes, more than %d", len(b), MaxSetBytes)
	}
	return b, nil
}

// DecodeSet reads set.json. Whatever differs from what EncodeSet wrote, even
// in one bit, gives ErrDamaged; a set of a later Version ErrVersion.
func DecodeSet(b []byte) (Set, error) {
	body, err := checkedBody(b)
	if err != nil {
		return Set{}, fmt.Errorf("read %s: %w", SetName, err)
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return Set{}, fmt.Errorf("read %s: %w", SetName, err)
	}
	if v.Version > IncrementalVersion {
		return Set{}, fmt.Errorf("read %s: %w", SetName, ErrVersion)
	}
	var s Set
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Set{}, fmt.Errorf("read %s: %w", SetName, err)
	}
	if d.More() {
		return Set{}, fmt.Errorf("read %s: %w: more than one value", SetName, ErrDamaged)
	}
	if err := s.Validate(); err != nil {
		return Set{}, fmt.Errorf("read %s: %w", SetName, err)
	}
	return s, nil
}

// checkedBody is the description within set.json, proven by its digest.
func checkedBody(b []byte) ([]byte, error) {
	if len(b) > MaxSetBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrDamaged, MaxSetBytes)
	}
	const sumLen = 2 * 32
	rest, ok := bytes.CutPrefix(b, []byte(setHead))
	rest, okTail := bytes.CutSuffix(rest, []byte(setTail))
	if !ok || !okTail || len(rest) < len(setJoint)+sumLen {
		return nil, ErrDamaged
	}
	at := len(rest) - sumLen
	body, ok := bytes.CutSuffix(rest[:at], []byte(setJoint))
	sum := blake3.Sum256(body)
	if !ok || hex.EncodeToString(sum[:]) != string(rest[at:]) {
		return nil, ErrDamaged
	}
	return body, nil
}

// ReadSet is DecodeSet of what r gives; it reads no more than MaxSetBytes.
func ReadSet(r io.Reader) (Set, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxSetBytes+1))
	if err != nil {
		return Set{}, fmt.Errorf("read %s: %w", SetName, err)
	}
	return DecodeSet(b)
}

// Digest is what catalog.Set keeps of the bytes of set.json: their BLAKE3, in
// hex.
func Digest(setJSON []byte) string {
	sum := blake3.Sum256(setJSON)
	return hex.EncodeToString(sum[:])
}

// Object finds an object by its name.
func (s Set) Object(name string) (Object, bool) {
	for _, o := range s.Objects {
		if o.Name == name {
			return o, true
		}
	}
	return Object{}, false
}

// Archives are the names of the tar archives that the set holds, in the order
// in which Objects has them.
func (s Set) Archives() []string {
	var out []string
	for _, o := range s.Objects {
		if strings.HasSuffix(o.Name, ".tar.zst") {
			out = append(out, o.Name)
		}
	}
	return out
}

// StoredBytes is the size of all objects without set.json.
func (s Set) StoredBytes() int64 {
	var n int64
	for _, o := range s.Objects {
		n += o.Bytes
	}
	return n
}

// Bounds that no real set reaches.
const (
	maxObjects = 1 << 16
	maxDamage  = 10_000
	maxBytes   = 1 << 56 // of an object or a file
)

// MaxDamage is how many pages Damage names; DamageN counts on.
const MaxDamage = 1000

// Validate tells why a description cannot be one of a backup.
func (s Set) Validate() error {
	if s.Version < 1 {
		return fmt.Errorf("%w: version %d of the format", ErrDamaged, s.Version)
	}
	if _, err := ParseLabel(s.Label); err != nil {
		return err
	}
	if err := s.checkParent(); err != nil {
		return err
	}
	switch {
	case s.Timeline == 0, s.Start == 0, s.End < s.Start:
		return fmt.Errorf("%w: set %s has no range of log: timeline %d from %s to %s", ErrDamaged, s.Label, s.Timeline, s.Start, s.End)
	case len(s.Objects) > maxObjects, len(s.Damage) > maxDamage:
		return fmt.Errorf("%w: set %s lists %d objects and %d damaged pages", ErrDamaged, s.Label, len(s.Objects), len(s.Damage))
	case s.FileN < 0, s.RawBytes < 0, s.RawBytes > maxBytes, s.DamageN < len(s.Damage):
		return fmt.Errorf("%w: set %s has impossible counts", ErrDamaged, s.Label)
	}
	if err := s.Server.validate(); err != nil {
		return fmt.Errorf("set %s: %w", s.Label, err)
	}
	for i, o := range s.Objects {
		if err := o.validate(); err != nil {
			return fmt.Errorf("set %s: %w", s.Label, err)
		}
		if i > 0 && s.Objects[i-1].Name >= o.Name {
			return fmt.Errorf("%w: the objects of set %s are not sorted at %q", ErrDamaged, s.Label, o.Name)
		}
	}
	for _, need := range []string{BaseName, FilesName, ManifestName} {
		if _, ok := s.Object(need); !ok {
			return fmt.Errorf("%w: set %s has no object %s", ErrDamaged, s.Label, need)
		}
	}
	for _, t := range s.Tablespaces {
		if _, ok := s.Object(SpaceName(t.OID)); t.OID == 0 || !ok {
			return fmt.Errorf("%w: set %s has no object for tablespace %d", ErrDamaged, s.Label, t.OID)
		}
	}
	return nil
}

// checkParent: an incremental set says what it changes, and a full one does not.
func (s Set) checkParent() error {
	if !IsIncremental(s.Label) {
		if s.Parent != "" || s.ParentDigest != "" || s.Server.SegPages != 0 {
			return fmt.Errorf("%w: the full set %s has the parent %.40q", ErrDamaged, s.Label, s.Parent)
		}
		return nil
	}
	if _, err := ParseLabel(s.Parent); err != nil || s.Parent == s.Label {
		return fmt.Errorf("%w: the incremental set %s has the parent %.40q", ErrDamaged, s.Label, s.Parent)
	}
	sum, err := hex.DecodeString(s.ParentDigest)
	if err != nil || len(sum) != 32 || s.Version < IncrementalVersion {
		return fmt.Errorf("%w: the incremental set %s of version %d has no digest of its parent", ErrDamaged, s.Label, s.Version)
	}
	if n := s.Server.SegPages; n == 0 || n > maxSegPages {
		return fmt.Errorf("%w: the incremental set %s has segments of %d pages", ErrDamaged, s.Label, n)
	}
	return nil
}

func (s Server) validate() error {
	powerOf2 := func(n int64, lo, hi int64) bool { return n >= lo && n <= hi && n&(n-1) == 0 }
	if s.Major <= 0 || !powerOf2(int64(s.BlockSize), 1<<10, 32<<10) || !powerOf2(s.SegSize, 1<<20, 1<<30) {
		return fmt.Errorf("%w: a server of version %d with blocks of %d and segments of %d bytes", ErrDamaged, s.Major, s.BlockSize, s.SegSize)
	}
	return nil
}

func (o Object) validate() error {
	if !IsObjectName(o.Name) || o.Name == SetName {
		return fmt.Errorf("%w: %.60q is no object of a set", ErrDamaged, o.Name)
	}
	sum, err := hex.DecodeString(o.BLAKE3)
	if err != nil || len(sum) != 32 || o.Bytes < 0 || o.RawBytes < 0 || o.Bytes > maxBytes || o.RawBytes > maxBytes {
		return fmt.Errorf("%w: size or digest of object %s", ErrDamaged, o.Name)
	}
	return nil
}
