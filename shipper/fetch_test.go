package shipper_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	segSize  = 1 << 20
	systemID = 77
)

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// lineage has one entry per start, epochs 1.1, 1.2, and so on.
func lineage(starts ...pos.LSN) pos.Lineage {
	var l pos.Lineage
	for i, s := range starts {
		l = append(l, pos.Entry{Epoch: epoch(uint64(i + 1)), Timeline: 1, Start: s})
	}
	return l
}

// memLog is a log from start on.
type memLog struct {
	start pos.LSN
	b     []byte
}

func (l memLog) ReadWAL(p []byte, at pos.LSN) (int, error) {
	off := at.Sub(l.start)
	if at < l.start || off >= uint64(len(l.b)) {
		return 0, io.EOF
	}
	n := copy(p, l.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// newLog has n bytes that tell where they are and who wrote them.
func newLog(start pos.LSN, n int, writer byte) memLog {
	b := make([]byte, n)
	for i := range b {
		x := uint64(start) + uint64(i)
		b[i] = byte(x) ^ byte(x>>8) ^ byte(x>>16) ^ writer
	}
	return memLog{start, b}
}

func served(l memLog, lin pos.Lineage) shipper.Served {
	return shipper.Served{Group: "g", Ledger: "l", SystemID: systemID, SegSize: segSize, Lineage: lin,
		Range: pos.Range{From: l.start, To: l.start + pos.LSN(len(l.b))}, Log: l}
}

func ask(lin pos.Lineage, from, to pos.LSN) shipper.FetchAsk {
	return shipper.FetchAsk{Group: "g", Ledger: "l", Node: "b", SystemID: systemID, SegSize: segSize,
		Lineage: lin, From: from, To: to, CRCFrom: from}
}

// fetch runs one exchange.
func fetch(t testing.TB, s shipper.Served, a shipper.FetchAsk) (got []byte, end pos.LSN, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c1, c2 := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer c2.Close()
		done <- shipper.ServeFetch(ctx, c2, s)
	}()
	end, err = shipper.Fetch(ctx, c1, a, func(at pos.LSN, p []byte) error {
		if at != a.From+pos.LSN(len(got)) {
			t.Errorf("bytes at %s, want %s", at, a.From+pos.LSN(len(got)))
		}
		got = append(got, p...)
		return nil
	})
	c1.Close()
	serr := <-done
	var ref *shipper.RefusedError
	if errors.As(err, &ref) != errors.As(serr, &ref) {
		t.Errorf("the asker says %v, the server %v", err, serr)
	}
	return got, end, err
}

func wantRefusal(t *testing.T, err error, code, part string) {
	t.Helper()
	var ref *shipper.RefusedError
	if !errors.As(err, &ref) || ref.Code != code || !strings.Contains(ref.Text, part) {
		t.Errorf("got %v, want a refusal %q that says %q", err, code, part)
	}
}

func TestFetch_BringsTheStretch(t *testing.T) {
	log := newLog(segSize, 3*shipper.BulkFrame+17, 0)
	lin := lineage(segSize)
	end := log.start + pos.LSN(len(log.b))
	rapid.Check(t, func(rt *rapid.T) {
		from := log.start + pos.LSN(rapid.IntRange(0, len(log.b)).Draw(rt, "from"))
		to := from + pos.LSN(rapid.IntRange(0, 4*shipper.BulkFrame).Draw(rt, "len"))
		got, came, err := fetch(t, served(log, lin), ask(lin, from, to))
		want := log.b[from-log.start : min(to, end)-log.start]
		if err != nil || came != min(to, end) || !bytes.Equal(got, want) {
			rt.Fatalf("%s..%s: came to %s with %d bytes, %v", from, to, came, len(got), err)
		}
	})
}

func TestFetch_RefusesWhatIsNotThere(t *testing.T) {
	log := newLog(4*segSize, 1000, 0)
	lin := lineage(segSize)
	for _, from := range []pos.LSN{segSize, log.start - 1, log.start + 1001} {
		_, _, err := fetch(t, served(log, lin), ask(lin, from, from+10))
		wantRefusal(t, err, shipper.RefusePruned, from.String())
	}
}

func TestFetch_RefusesForeigners(t *testing.T) {
	log := newLog(segSize, 1000, 0)
	lin := lineage(segSize)
	for name, tt := range map[string]struct {
		change func(*shipper.FetchAsk)
		part   string
	}{
		"group":   {func(a *shipper.FetchAsk) { a.Group = "other" }, "group"},
		"ledger":  {func(a *shipper.FetchAsk) { a.Ledger = "other" }, "ledger"},
		"system":  {func(a *shipper.FetchAsk) { a.SystemID = 78 }, "system identifier 78"},
		"segment": {func(a *shipper.FetchAsk) { a.SegSize = 2 << 20 }, "segments"},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(lin, segSize, segSize+100)
			tt.change(&a)
			_, _, err := fetch(t, served(log, lin), a)
			wantRefusal(t, err, shipper.RefuseForeign, tt.part)
		})
	}
	_, _, err := fetch(t, served(log, lin), ask(nil, segSize, segSize+100))
	wantRefusal(t, err, shipper.RefuseBroken, "lineage")
}

func TestFetch_ComparesTheBytesBefore(t *testing.T) {
	log := newLog(segSize, 100_000, 0)
	lin := lineage(segSize)
	from := log.start + 80_000
	for _, tt := range []struct {
		name   string
		mine   memLog
		refuse bool
	}{{"same", log, false}, {"other", newLog(segSize, 100_000, 1), true}} {
		a := ask(lin, from, from+100)
		a.CRCFrom = from - shipper.CheckWindow
		crc, err := shipper.CRC(tt.mine, a.CRCFrom, from)
		if err != nil {
			t.Fatal(err)
		}
		a.CRC = crc
		_, _, err = fetch(t, served(log, lin), a)
		if tt.refuse {
			wantRefusal(t, err, shipper.RefuseDiverged, "differs")
		} else if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFetch_HistoriesThatPart(t *testing.T) {
	log := newLog(segSize, 100_000, 0)
	ours := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: segSize}, {Epoch: epoch(3), Timeline: 1, Start: segSize + 50_000}}
	theirs := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: segSize}, {Epoch: epoch(2), Timeline: 1, Start: segSize + 40_000}}
	_, _, err := fetch(t, served(log, theirs), ask(ours, segSize, segSize+45_000))
	wantRefusal(t, err, shipper.RefuseDiverged, "part at")
	if _, end, err := fetch(t, served(log, theirs), ask(ours, segSize, segSize+40_000)); err != nil || end != segSize+40_000 {
		t.Errorf("what both share: came to %s, %v", end, err)
	}
}

// A node that has not adopted an epoch may hold bytes of the older one beyond
// the place where the newer one begins. They are no part of the asker's
// history.
func TestFetch_NothingBeyondWhatTheServerHasAdopted(t *testing.T) {
	stale := newLog(segSize, 100_000, 0)
	asker := lineage(segSize, segSize+40_000)
	got, end, err := fetch(t, served(stale, asker[:1]), ask(asker, segSize, segSize+80_000))
	if end > segSize+40_000 {
		t.Errorf("got %d bytes up to %s (%v); the histories agree up to %s only", len(got), end, err, asker[1].Start)
	}
}

// The same the other way round: an asker behind gets nothing that its own
// lineage calls bytes of the old epoch.
func TestFetch_NothingBeyondWhatTheAskerHasAdopted(t *testing.T) {
	log := newLog(segSize, 100_000, 0)
	full := lineage(segSize, segSize+40_000)
	_, end, err := fetch(t, served(log, full), ask(full[:1], segSize, segSize+80_000))
	if end > segSize+40_000 {
		t.Errorf("came to %s (%v); the histories agree up to %s only", end, err, full[1].Start)
	}
}

// counting tells how much was read.
type counting struct {
	memLog
	read *int
}

func (c counting) ReadWAL(p []byte, at pos.LSN) (int, error) {
	n, err := c.memLog.ReadWAL(p, at)
	*c.read += n
	return n, err
}

// What is compared is bounded by the server, not by what the asker claims.
func TestServeFetch_BoundsTheComparison(t *testing.T) {
	log := newLog(segSize, 8<<20, 0)
	lin := lineage(segSize)
	read := 0
	s := served(log, lin)
	s.Log = counting{log, &read}
	a := ask(lin, log.start+8<<20, log.start+8<<20)
	a.CRCFrom = log.start
	_, _, _ = fetch(t, s, a)
	if read > 2*shipper.CheckWindow {
		t.Errorf("a claim of the asker made the server read %d bytes", read)
	}
}

func TestFetch_RefusesBytesFromElsewhere(t *testing.T) {
	lin := lineage(segSize)
	for name, head := range map[string]frame.DataHead{
		"gap":     {Epoch: epoch(1), LSN: segSize + 8},
		"overlap": {Epoch: epoch(1), LSN: segSize - 8},
		"beyond":  {Epoch: epoch(1), LSN: segSize},
	} {
		t.Run(name, func(t *testing.T) {
			c1, c2 := net.Pipe()
			defer c1.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer c2.Close()
				r, w := frame.NewReader(c2), frame.NewWriter(c2)
				var a shipper.FetchAsk
				if shipper.Expect(r, frame.Fetch, &a) == nil && w.WriteData(head, make([]byte, 64)) == nil {
					w.Flush()
				}
			}()
			_, err := shipper.Fetch(t.Context(), c1, ask(lin, segSize, segSize+32), func(pos.LSN, []byte) error {
				t.Error("bytes were taken")
				return nil
			})
			if !errors.Is(err, shipper.ErrUnexpected) {
				t.Errorf("got %v", err)
			}
			c1.Close()
			<-done
		})
	}
}

func TestFetch_EndsWithTheContext(t *testing.T) {
	c1, c2 := net.Pipe()
	defer c2.Close()
	go io.Copy(io.Discard, c2)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	lin := lineage(segSize)
	if _, err := shipper.Fetch(ctx, c1, ask(lin, segSize, segSize+32), nil); err == nil {
		t.Error("no error")
	}
	c1.Close()
}

func TestCRC_NeedsAllBytes(t *testing.T) {
	log := newLog(segSize, 1000, 0)
	if _, err := shipper.CRC(log, segSize, segSize+1001); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if crc, err := shipper.CRC(log, segSize+5, segSize+5); crc != 0 || err != nil {
		t.Errorf("of nothing: %d, %v", crc, err)
	}
}
