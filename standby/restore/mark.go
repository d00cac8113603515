package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of our own files in a directory that is being seeded.
const (
	// MarkName is the file whose presence says that the directory is not a
	// complete cluster. A start of PostgreSQL on such a directory is wrong.
	MarkName = "understudy.seeding"
	listName = MarkName + ".list"
	tempName = MarkName + ".new"

	// controlPath is what PostgreSQL cannot start without; while a seed runs
	// it lies under controlAside.
	controlPath  = "global/pg_control"
	controlAside = "global/pg_control.understudy"
)

const (
	markVersion  = 1
	maxMarkBytes = 4 << 20
)

// mark is the content of the mark file. Places that it names are ours to
// write and to empty.
type mark struct {
	Version     int     `json:"version"`
	SystemID    uint64  `json:"system_id,string"`
	Major       int     `json:"major,omitempty"` // of what lies in the tablespaces
	DataDir     string  `json:"data_dir"`
	Wiping      bool    `json:"wiping,omitempty"` // nothing here is worth keeping
	Tablespaces []place `json:"tablespaces,omitempty"`
}

// place is where an out-of-place tablespace goes on this host.
type place struct {
	OID uint32 `json:"oid"`
	Dir string `json:"dir"`
}

func readMark(dir string) (mark, error) {
	var m mark
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
		return mark{}, fmt.Errorf("the seed mark %s is unreadable or of a newer version; remove the directory's contents to seed it again", filepath.Join(dir, MarkName))
	}
	return m, nil
}

// write makes m the mark of dir; on return it is durable.
func (m mark) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the seed mark: %w", err)
	}
	temp := filepath.Join(dir, tempName)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
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
