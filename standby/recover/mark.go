package recover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"understudy/standby/restore"
)

// Names of our own files in a directory that is being restored.
const (
	stateName = "understudy.restore"          // the plan and how far it has come
	stateTemp = "understudy.restore.new"      //
	indexName = "understudy.restore.files"    // the list of files, compressed
	indexTemp = "understudy.restore.files.in" //
	maxState  = 4 << 20

	// controlPath is what PostgreSQL cannot start without; until the end it lies
	// under controlAside.
	controlPath  = "global/pg_control"
	controlAside = "global/pg_control.understudy"
)

// Status is what a directory that a restore has touched is.
type Status struct {
	Plan Plan `json:"plan"`
	// Step is the last that was begun, or one of Ready and Finished.
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	// Startable is false as long as the files are not complete.
	Startable bool `json:"startable"`
	// Reached is where a recovery of ours ended.
	Reached *Reached `json:"reached,omitempty"`
}

// The steps of a Status after those of Execute.
const (
	Ready     = "ready"     // the files are complete; recovery has not ended
	Recovered = "recovered" // recovery ended; a new identity is outstanding
	Finished  = "finished"
)

// ErrNoRestore is returned by Inspect for a directory that no restore of ours
// has touched.
var ErrNoRestore = errors.New("no restore has been here")

// Inspect tells what a restored or half-restored directory is. It changes
// nothing.
func Inspect(dataDir string) (Status, error) {
	s, err := readState(dataDir)
	if err != nil {
		return Status{}, err
	}
	_, err = os.Lstat(filepath.Join(dataDir, restore.MarkName))
	s.Startable = errors.Is(err, fs.ErrNotExist)
	if s.Startable && s.Step != Recovered && s.Step != Finished {
		s.Step = Ready // the mark is the truth, and went after the last note
	}
	return s, nil
}

func readState(dataDir string) (Status, error) {
	var s Status
	b, err := readSmall(filepath.Join(dataDir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w: %s", ErrNoRestore, dataDir)
	}
	if err != nil {
		return s, fmt.Errorf("read the state of a restore: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil || !s.Plan.known() {
		return Status{}, fmt.Errorf("%s is unreadable or of a newer version", filepath.Join(dataDir, stateName))
	}
	return s, nil
}

// write makes s the state of the plan's directory, durably.
// The server must be able to read it: what cannot be read ends every base backup
// and every rewind from it.
func (s Status) write() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", stateName, err)
	}
	return writeFile(s.Plan.DataDir, stateName, stateTemp, b, 0o600, s.Plan.Owner)
}

// Forget removes what a finished restore left in its directory to tell of
// itself. It is no error when nothing did.
func Forget(dataDir string) error {
	for _, name := range []string{stateTemp, indexTemp, indexName} {
		if err := os.Remove(filepath.Join(dataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return removeDurably(dataDir, stateName)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxState))
}

// writeFile replaces a file durably.
func writeFile(dir, name, temp string, b []byte, mode fs.FileMode, owner *restore.Owner) error {
	path := filepath.Join(dir, temp)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|noFollow, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil && owner != nil {
		err = f.Chown(owner.UID, owner.GID)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(path, filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(dir)
}

// removeDurably removes a file that may be gone already.
func removeDurably(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a directory that survives a crash.
func makeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}
