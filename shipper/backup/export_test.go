package backup

import "understudy/shipper/backupset"

// PagesOf feeds the head of an incremental file of that size in pieces of n
// bytes, and returns where the pages behind it belong.
func PagesOf(s backupset.Server, b []byte, size int64, n int) ([]int64, error) {
	m := &blockMap{server: s}
	for ; len(b) > 0; b = b[min(n, len(b)):] {
		if err := m.feed(b[:min(n, len(b))], size); err != nil {
			return nil, err
		}
	}
	f := &file{inc: m}
	var out []int64
	for at := int64(0); at < size; at += int64(s.BlockSize) {
		if in, ok := f.page(at, s.BlockSize); ok {
			out = append(out, in/int64(s.BlockSize))
		}
	}
	return out, nil
}
