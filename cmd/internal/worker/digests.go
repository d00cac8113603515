package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/standby/drill/digest"
)

const (
	// keepDigests is how many snapshots of the tables a node keeps.
	keepDigests = 64
	// digestTime bounds the computing of one; what is left out then is named.
	digestTime = 2 * time.Minute
)

// digestDir is where a node keeps what its tables held at known positions.
func (w *work) digestDir() string { return filepath.Join(w.cfg.StateDir, "digests") }

// noteDigests computes digests of this node's tables and keeps them, for later
// drills to be compared with. It is a help: a server on which it cannot be done
// now has other things to do.
func (w *work) noteDigests(ctx context.Context, conn string) {
	s, err := digest.AtPosition(ctx, func(ctx context.Context, database string) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(conn)
		if err != nil {
			return nil, err
		}
		cfg.Database = database
		return pgx.ConnectConfig(ctx, cfg)
	}, digest.Limits{Time: digestTime})
	if err == nil && s.LSN != 0 {
		err = w.keepDigest(s)
	}
	if err != nil {
		w.log.Warn("take digests of the tables", "error", err)
		return
	}
	w.log.Info("took digests of the tables", "lsn", s.LSN.String(), "tables", len(s.Tables), "left", len(s.Left))
}

func (w *work) keepDigest(s digest.Snapshot) error {
	if err := os.MkdirAll(w.digestDir(), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	name := filepath.Join(w.digestDir(), fmt.Sprintf("%016X.json", uint64(s.LSN)))
	if err := os.WriteFile(name+".tmp", b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	names, err := w.digestNames()
	for ; err == nil && len(names) > keepDigests; names = names[1:] {
		err = os.Remove(filepath.Join(w.digestDir(), names[0]))
	}
	return err
}

// digestNames are the kept snapshots, oldest first.
func (w *work) digestNames() ([]string, error) {
	entries, err := os.ReadDir(w.digestDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	type kept struct {
		name string
		at   time.Time
	}
	var all []kept
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasSuffix(e.Name(), ".json") {
			all = append(all, kept{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.at.Compare(b.at) })
	var names []string
	for _, k := range all {
		names = append(names, k.name)
	}
	return names, nil
}

// digests are the kept snapshots; one that cannot be read is left out.
func (w *work) digests() (out []digest.Snapshot) {
	names, err := w.digestNames()
	if err != nil {
		w.log.Warn("read the kept digests", "error", err)
	}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(w.digestDir(), n))
		var s digest.Snapshot
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil {
			w.log.Warn("read kept digests", "file", n, "error", err)
			continue
		}
		out = append(out, s)
	}
	return out
}
