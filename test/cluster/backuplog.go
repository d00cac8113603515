package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
)

// segSize is that of the servers.
const segSize = 16 << 20

// Log is the log at the location, by timeline: the first bytes of the whole
// segments in order, and of the partial ones.
type Log struct {
	Whole, Partial map[pos.Timeline][]pos.LSN
	Histories      []pos.Timeline
}

// Log lists what lies at the location, by the names alone.
func (p *Place) Log(t testing.TB) Log {
	t.Helper()
	l := Log{Whole: map[pos.Timeline][]pos.LSN{}, Partial: map[pos.Timeline][]pos.LSN{}}
	for name := range p.Files(t) {
		rel, ok := strings.CutPrefix(name, "test/postgres/wal/")
		if !ok {
			continue
		}
		base := filepath.Base(rel)
		if stem, ok := strings.CutSuffix(base, ".history"); ok {
			id, err := strconv.ParseUint(stem, 16, 32)
			if err != nil {
				t.Errorf("%s is no history", name)
			}
			l.Histories = append(l.Histories, pos.Timeline(id))
			continue
		}
		stem, partial := strings.CutSuffix(strings.TrimSuffix(base, ".zst"), ".partial")
		timeline, at, err := pos.ParseSegName(stem, segSize)
		if err != nil || filepath.Dir(rel) != fmt.Sprintf("%08X", uint32(timeline)) {
			t.Errorf("%s is no segment", name)
			continue
		}
		in := l.Whole
		if partial {
			in = l.Partial
		}
		in[timeline] = append(in[timeline], at)
	}
	for _, m := range []map[pos.Timeline][]pos.LSN{l.Whole, l.Partial} {
		for _, list := range m {
			slices.Sort(list)
		}
	}
	slices.Sort(l.Histories)
	return l
}

// CheckLog checks by the names alone that the log at the location has no hole:
// the segments of a timeline follow each other, none is there both whole and in
// part, and every timeline but the first has its history. A part that has just
// become whole has some seconds to go.
func (p *Place) CheckLog(t testing.TB) Log {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		l := p.Log(t)
		wrong := l.wrong()
		if len(wrong) == 0 {
			return l
		}
		if time.Now().After(deadline) {
			t.Errorf("the log at %s: %s", p.Name, strings.Join(wrong, "; "))
			return l
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (l Log) wrong() (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for timeline, list := range l.Whole {
		for i := 1; i < len(list); i++ {
			if list[i] != list[i-1]+segSize {
				say("timeline %d has %s and then %s", timeline, list[i-1], list[i])
			}
		}
		for _, at := range l.Partial[timeline] {
			if at != list[len(list)-1]+segSize {
				say("timeline %d has a partial segment at %s, and whole ones from %s to %s", timeline, at, list[0], list[len(list)-1])
			}
		}
		if timeline > 1 && !slices.Contains(l.Histories, timeline) {
			say("timeline %d has no history", timeline)
		}
	}
	for timeline, list := range l.Partial {
		if len(list) > 1 {
			say("timeline %d has partial segments %v", timeline, list)
		}
	}
	return out
}

// SameSet checks that the copies of a set at two places are equal, byte by byte.
func SameSet(t testing.TB, a, b *Place, label string) {
	t.Helper()
	names := func(p *Place) []string {
		entries, err := os.ReadDir(p.SetDir(label))
		if err != nil {
			t.Errorf("set %s at %s: %v", label, p.Name, err)
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	if x, y := names(a), names(b); !slices.Equal(x, y) {
		t.Errorf("set %s has %v at %s, %v at %s", label, x, a.Name, y, b.Name)
	}
	for _, name := range names(a) {
		x, errX := os.ReadFile(filepath.Join(a.SetDir(label), name))
		y, errY := os.ReadFile(filepath.Join(b.SetDir(label), name))
		if err := errors.Join(errX, errY); err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s of set %s differs at %s and %s: %v", name, label, a.Name, b.Name, err)
		}
	}
}

// SameLog checks that whole segments which two places both have hold the same
// bytes of log, and that each history does.
func SameLog(t testing.TB, a, b *Place) {
	t.Helper()
	have := b.Files(t)
	n := 0
	for name := range a.Files(t) {
		_, both := have[name]
		switch {
		case !both || !strings.HasPrefix(name, "test/postgres/wal/") || strings.HasSuffix(name, ".partial.zst"):
			continue
		}
		x, errX := plain(filepath.Join(a.Dir, name))
		y, errY := plain(filepath.Join(b.Dir, name))
		if err := errors.Join(errX, errY); err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs at %s and %s: %v", name, a.Name, b.Name, err)
		}
		n++
	}
	if n == 0 {
		t.Errorf("%s and %s have no piece of log in common", a.Name, b.Name)
	}
}

// plain is what a file holds, unpacked.
func plain(file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".zst") {
		return os.ReadFile(file)
	}
	return exec.Command("zstd", "-q", "-d", "-c", file).Output()
}

// OnlySets checks that the folders of sets at the location are those of the
// labels, each with its set.json, and that nothing unfinished lies there.
func (p *Place) OnlySets(t testing.TB, labels ...string) {
	t.Helper()
	p.OnlySetsBut(t, nil, labels...)
}

// OnlySetsBut is OnlySets where some more may be there, or not. Log is stored all
// the time: unfinished is what is there at every look for some seconds.
func (p *Place) OnlySetsBut(t testing.TB, may map[string]bool, labels ...string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	wrong, unfinished := p.strays(t, may, labels)
	for {
		if len(wrong) == 0 && len(unfinished) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %s; unfinished: %s", p.Name, strings.Join(wrong, "; "), strings.Join(unfinished, " "))
			return
		}
		time.Sleep(50 * time.Millisecond)
		var now []string
		wrong, now = p.strays(t, may, labels)
		unfinished = slices.DeleteFunc(unfinished, func(name string) bool { return !slices.Contains(now, name) })
	}
}

func (p *Place) strays(t testing.TB, may map[string]bool, labels []string) (wrong, unfinished []string) {
	t.Helper()
	found := map[string]bool{}
	for name := range p.Files(t) {
		if rel, ok := strings.CutPrefix(name, "test/postgres/sets/"); ok {
			label, file, _ := strings.Cut(rel, "/")
			found[label] = found[label] || file == "set.json"
		}
		if strings.HasPrefix(name, ".tmp/") {
			unfinished = append(unfinished, name)
		}
	}
	for _, label := range labels {
		if !found[label] {
			wrong = append(wrong, "there is no whole set "+label)
		}
		delete(found, label)
	}
	for label := range found {
		if !may[label] {
			wrong = append(wrong, "nobody knows of the folder of set "+label)
		}
	}
	return wrong, unfinished
}
