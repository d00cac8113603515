package pagesum

import "golang.org/x/sys/cpu"

// mix feeds whole rows to the lanes.
func mix(sums *[laneN]uint32, rows []byte) {
	if cpu.X86.HasAVX2 && len(rows) >= rowSize {
		mixAVX2(sums, &rows[0], len(rows)/rowSize)
		return
	}
	mixGeneric(sums, rows)
}

// mixAVX2 is mixGeneric for n > 0 rows, eight lanes to a register.
//
//go:noescape
func mixAVX2(sums *[laneN]uint32, rows *byte, n int)
