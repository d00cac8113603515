package archive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/shipper/pos"
)

// handEvery is how often a Fetcher looks what was taken: a small part of the
// time in which a server replays what is fetched ahead.
const handEvery = 20 * time.Millisecond

// RestoreCommand is what PostgreSQL runs for a file of its log: it takes the
// file from the folder of what was fetched ahead, or else has the program ask
// the socket of ServeFetch for it. Starting a program of our size for each
// segment costs more than the rename.
func RestoreCommand(binary, socket, hand string) string {
	word := func(s string) string {
		s = "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		return strings.ReplaceAll(s, "%", "%%")
	}
	return "mv " + word(hand) + `/%f "%p" 2>/dev/null || exec ` + word(binary) + " restore-get --socket " + word(socket) + ` "%f" "%p"`
}

// clearHand removes segments that an earlier Fetcher left in the folder.
func clearHand(dir string, segSize int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, _, bad := pos.ParseSegName(e.Name(), segSize); bad == nil {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// handOut puts a proven segment where the server may take it, under its name,
// and returns where it is now. When it cannot be put there it stays, to be asked
// for.
func (f *Fetcher) handOut(start pos.LSN, path string) string {
	if f.cfg.Hand == "" {
		return path
	}
	to := filepath.Join(f.cfg.Hand, pos.SegName(f.cfg.Path.Holder(start, f.cfg.SegSize), start, f.cfg.SegSize))
	if f.cfg.Own != nil {
		if err := f.cfg.Own(path); err != nil {
			f.cfg.Log.Warn("give a segment to the server's account", "error", err)
			return path
		}
	}
	if err := os.Rename(path, to); err != nil {
		f.cfg.Log.Warn("hand a segment out", "error", err)
		return path
	}
	return to
}

// watchHand notes what the server has taken, and fetches on behind it.
func (f *Fetcher) watchHand() {
	tick := time.NewTicker(handEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
			f.noteTaken()
		}
	}
}

func (f *Fetcher) noteTaken() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if newest, taken := f.takenLocked(); taken {
		f.aheadLocked(newest)
		f.pumpLocked()
	}
}

// takenLocked forgets the segments that the server took by itself, and tells
// the newest of them.
func (f *Fetcher) takenLocked() (newest pos.LSN, taken bool) {
	for start, j := range f.jobs {
		if j.path == "" || filepath.Dir(j.path) != f.cfg.Hand {
			continue
		}
		if _, err := os.Lstat(j.path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		delete(f.jobs, start)
		f.given += f.cfg.SegSize
		newest, taken = max(newest, start), true
	}
	return newest, taken
}

// aheadLocked adds the jobs of the segments behind one.
func (f *Fetcher) aheadLocked(start pos.LSN) {
	seg := pos.LSN(f.cfg.SegSize)
	for at := start + seg; at <= start+pos.LSN(f.cfg.Ahead)*seg && (f.stopAt == 0 || at < f.stopAt); at += seg {
		f.addLocked(at)
	}
}
