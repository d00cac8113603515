package frame_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"understudy/shipper/frame"
)

// BenchmarkStream is one direction of a session without its network: WriteData,
// Next and DecodeData. It is to exceed 2.5 GB/s.
func BenchmarkStream(b *testing.B) {
	for _, kib := range []int{8, 128, 1024} {
		b.Run(fmt.Sprintf("%dKiB", kib), func(b *testing.B) { benchmarkStream(b, kib<<10) })
	}
}

func benchmarkStream(b *testing.B, size int) {
	pr, pw := io.Pipe()
	data := bytes.Repeat([]byte{0xa5}, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	done := make(chan error, 1)
	go func() {
		w := frame.NewWriter(pw)
		for range b.N {
			if err := w.WriteData(frame.DataHead{LSN: 1}, data); err != nil {
				done <- err
				return
			}
		}
		done <- errors.Join(w.Flush(), pw.Close())
	}()
	r := frame.NewReader(pr)
	for range b.N {
		_, p, err := r.Next()
		if err != nil {
			b.Fatal(err)
		}
		if _, got, err := frame.DecodeData(p); err != nil || len(got) != size {
			b.Fatal(len(got), err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
