package node

import (
	"bytes"
	"io"
	"testing"

	"understudy/shipper/pos"
)

// held is a log in memory that ends where it ends, and reads no more than some
// bytes at once.
type memLog struct {
	b    []byte
	most int
}

func (m memLog) ReadWAL(p []byte, at pos.LSN) (int, error) {
	if uint64(at) >= uint64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), m.most)], m.b[at:])
	if int(at)+n == len(m.b) {
		return n, io.EOF
	}
	return n, nil
}

// What was received goes on where the log before it ends, wherever a read begins
// and ends.
func TestPiece_ReadsOverTheSeam(t *testing.T) {
	all := make([]byte, 300)
	for i := range all {
		all[i] = byte(i*7 + 1)
	}
	for _, most := range []int{7, 1000} {
		for _, seam := range []int{1, 100, 299} {
			src := piece{memLog{all[:seam], most}, pos.LSN(seam), all[seam:]}
			for from := 0; from < len(all); from += 13 {
				for size := 1; size <= len(all); size += 31 {
					p := make([]byte, size)
					n, err := src.ReadWAL(p, pos.LSN(from))
					want := all[from:min(len(all), from+size)]
					if !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < size) || err != nil && err != io.EOF {
						t.Fatalf("seam at %d: %d bytes at %d: %d, %v", seam, size, from, n, err)
					}
				}
			}
		}
	}
}
