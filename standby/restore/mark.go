package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Names of our own files in a directory that is being seeded.
const (
	// MarkName is the file whose presence says that the directory is not a
	// complete cluster. A start of PostgreSQL on such a directory is wrong.
	MarkName = "understudy.seeding"
	// MarkTemp is a mark that is being written.
	MarkTemp = MarkName + ".new"
	listName = MarkName + ".list"

	// controlPath is what PostgreSQL cannot start without; while a seed runs
	// it lies under controlAside.
	controlPath  = "global/pg_control"
	controlAside = "global/pg_control.understudy"
)

const (
	markVersion  = 1
	maxMarkBytes = 4 << 20
)

// Mark is the content of the mark file. Places that it names are ours to
// write and to empty. Write sets Version. A restore from a backup leaves the same
// mark, so that whatever wipes or seeds an interrupted seed does so with an
// interrupted restore.
type Mark struct {
	Version     int     `json:"version"`
	SystemID    uint64  `json:"system_id,string"`
	Major       int     `json:"major,omitempty"` // of what lies in the tablespaces
	DataDir     string  `json:"data_dir"`
	Wiping      bool    `json:"wiping,omitempty"` // nothing here is worth keeping
	Tablespaces []Place `json:"tablespaces,omitempty"`
}

// Place is where an out-of-place tablespace goes on this host.
type Place struct {
	OID uint32 `json:"oid"`
	Dir string `json:"dir"`
}

// ReadMark reads the mark of dir.
func ReadMark(dir string) (Mark, error) {
	var m Mark
	f, err := os.Open(filepath.Join(dir, MarkName))
	if err != nil {
		return m, fmt.Errorf("read the seed mark: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMarkBytes))
	if err != nil {
		return m, fmt.Errorf("read the seed mark: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Version != markVersion {
		return Mark{}, fmt.Errorf("the mark %s is unreadable or of a newer version; remove the directory's contents to seed it, or to restore to it, again", filepath.Join(dir, MarkName))
	}
	return m, nil
}

// Write makes m the mark of dir; on return it is durable. A link in the place of
// its temporary file is not followed.
func (m Mark) Write(dir string) error {
	m.Version = markVersion
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the seed mark: %w", err)
	}
	temp := filepath.Join(dir, MarkTemp)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write the seed mark: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the seed mark: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(dir, MarkName)); err != nil {
		return fmt.Errorf("write the seed mark: %w", err)
	}
	return syncDir(dir)
}

// removeDurably removes a file that may be gone already.
func removeDurably(dir, name string) error {
	err := os.Remove(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
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
