package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"syscall"
)

// Secret says where the value of a secret is: in a file or in a variable of
// the environment, one of the two.
type Secret struct {
	// File holds the value; one line break at its end is left out. Nobody but
	// its owner and group may read it.
	File string `yaml:"file"`
	// Env is the name of a variable of the daemon's environment.
	Env string `yaml:"env"`
}

const (
	maxSecrets     = 64
	maxSecretBytes = 64 << 10
	hidden         = "(secret)"
)

var envPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// ErrNoSecret is returned by Node.Secret for a name that the node file does not
// have.
var ErrNoSecret = errors.New("the node file has no such secret")

// Value is the value of a secret. Printing, formatting, logging and encoding it
// shows that it is one, and nothing else.
type Value struct {
	// A function: fmt shows no more than an address where it cannot call Format,
	// in a private field of another type.
	read func() []byte
}

func newValue(b []byte) Value { return Value{func() []byte { return b }} }

// Bytes are a copy of the value.
func (v Value) Bytes() []byte {
	if v.read == nil {
		return nil
	}
	return bytes.Clone(v.read())
}

// String hides the value.
func (Value) String() string { return hidden }

// GoString hides the value.
func (Value) GoString() string { return hidden }

// Format hides the value from every verb.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the value.
func (Value) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the value.
func (Value) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Secret reads the value of a secret now. ErrNoSecret is returned for a name
// without an entry; what is wrong with the entry is an *Error that never has
// the value in it.
func (n *Node) Secret(name string) (Value, error) {
	s, ok := n.Secrets[name]
	if !ok {
		return Value{}, fmt.Errorf("%w: %q; add secrets.%s with file or env to %s", ErrNoSecret, name, name, n.file)
	}
	key := "secrets." + name
	if s.Env != "" {
		v := os.Getenv(s.Env)
		if v == "" {
			return Value{}, n.fail(key+".env", "the daemon's environment has no variable %s, or an empty one", s.Env)
		}
		return newValue([]byte(v)), nil
	}
	b, why := readSecret(s.File)
	if why != "" {
		return Value{}, n.fail(key+".file", "%s", why)
	}
	return newValue(b), nil
}

// readSecret reads a file that only its owner and group may read; why is what
// is wrong with it.
func readSecret(path string) (b []byte, why string) {
	// A pipe under this name must not hold the daemon up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileFault(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fileFault(path, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Sprintf("%s is not a plain file", path)
	case info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Sprintf("everybody on this host may use %s: take that away with chmod o-rwx %s", path, path)
	}
	b, err = io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return nil, fileFault(path, err)
	}
	if len(b) > maxSecretBytes {
		return nil, fmt.Sprintf("%s is larger than %d KiB", path, maxSecretBytes>>10)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, fmt.Sprintf("%s is empty", path)
	}
	return b, ""
}

func fileFault(path string, err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Sprintf("%s cannot be read: %s", path, err)
}

func (n *Node) checkSecrets() *Error {
	if len(n.Secrets) > maxSecrets {
		return n.fail("secrets", "there are %d secrets; at most %d are allowed", len(n.Secrets), maxSecrets)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Secrets)) {
		s, key := n.Secrets[name], "secrets."+oneLine(name)
		switch {
		case !namePattern.MatchString(name):
			return n.fail(key, "the name must be up to 40 lower-case letters, digits, dashes and underscores, and begin with a letter or digit")
		case (s.File == "") == (s.Env == ""):
			return n.fail(key, "it needs either file or env, and not both")
		case s.Env != "" && !envPattern.MatchString(s.Env):
			return n.fail(key+".env", "this must be the name of a variable, not its value")
		}
		if err := n.checkPath(key+".file", s.File); err != nil {
			return err
		}
	}
	return nil
}
