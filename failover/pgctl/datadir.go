package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// DirState is what the data directory holds.
type DirState int

// The states of a data directory.
const (
	Empty     DirState = iota + 1 // missing or without any entry
	Foreign                       // something that is no PostgreSQL cluster
	Seeding                       // a base that is not complete: only a new seed helps
	Rewinding                     // an interrupted rewind: only a new seed helps
	Cluster                       // a PostgreSQL cluster
)

// String names the state.
func (d DirState) String() string {
	switch d {
	case Empty:
		return "empty"
	case Foreign:
		return "foreign"
	case Seeding:
		return "seeding"
	case Rewinding:
		return "rewinding"
	case Cluster:
		return "cluster"
	}
	return "invalid"
}

// The marks live in the state directory, since a rewind removes from the data
// directory what its source does not have.
const (
	seedingMark   = "seeding"
	rewindingMark = "rewinding"
	foundingMark  = "founding"
)

// State looks at the data directory and the marks.
func (s *Server) State() (DirState, error) {
	for name, st := range map[string]DirState{seedingMark: Seeding, rewindingMark: Rewinding} {
		_, err := os.Stat(filepath.Join(s.StateDir, name))
		if err == nil {
			return st, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("look for %s mark: %w", name, err)
		}
	}
	entries, err := os.ReadDir(s.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		return Empty, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read data directory: %w", err)
	}
	if len(entries) == 0 {
		return Empty, nil
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "PG_VERSION")); err != nil {
		return Foreign, nil
	}
	return Cluster, nil
}

// Mark records durably that the directory is being seeded or rewound: until
// ClearMark, State says so and the directory must not be started.
func (s *Server) Mark(st DirState) error {
	name := seedingMark
	switch st {
	case Seeding:
	case Rewinding:
		name = rewindingMark
	default:
		return fmt.Errorf("mark data directory as %s: not a mark", st)
	}
	return s.writeState(name, "")
}

// ClearMark removes the marks of Mark, durably.
func (s *Server) ClearMark() error {
	return errors.Join(s.removeState(seedingMark), s.removeState(rewindingMark))
}

// InitDB makes a new cluster with checksums, UTF-8 and the given superuser, as
// the database account. The initial superuser is let in by the locked
// configuration until EnsureRole has made the daemon's own role.
func (s *Server) InitDB(ctx context.Context, superuser string) error {
	st, err := s.State()
	if err != nil {
		return err
	}
	if st != Empty {
		return fmt.Errorf("%w: %s (%s)", ErrNotEmpty, s.DataDir, st)
	}
	if err := s.Founding(superuser); err != nil {
		return err
	}
	if err := s.makeDir(s.DataDir, 0o700); err != nil {
		return err
	}
	args := []string{"-D", s.DataDir, "-U", superuser, "-k", "-E", "UTF8", "--auth-local=peer", "--auth-host=scram-sha-256"}
	_, err = s.tool(ctx, "initdb", append(args, "--locale=C.UTF-8")...)
	if err != nil && strings.Contains(err.Error(), "invalid locale name") {
		_, err = s.tool(ctx, "initdb", append(args, "--locale=C")...)
	}
	return err
}

// Founding lets the given superuser in through the locked configuration, from
// the operating-system users of daemon and database, until EnsureRole has run.
// InitDB calls it; a group that takes over an existing database calls it itself.
func (s *Server) Founding(superuser string) error {
	if !plainName(superuser) {
		return fmt.Errorf("superuser %q: only letters, digits, '_' and '-' are supported", superuser)
	}
	return s.writeState(foundingMark, superuser+"\n")
}

// founder is the superuser of Founding, empty when founding is over.
func (s *Server) founder() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.StateDir, foundingMark))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read founding mark: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func plainName(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// checkMajor compares PG_VERSION with the binaries.
func (s *Server) checkMajor() error {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("read version of the data directory: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("read version of the data directory: PG_VERSION holds %q", strings.TrimSpace(string(b)))
	}
	if major != s.Major {
		return fmt.Errorf("%w: %s was made by PostgreSQL %d, but the binaries in %s are %s; set bin_dir", ErrWrongMajor, s.DataDir, major, s.BinDir, s.Version)
	}
	return nil
}
