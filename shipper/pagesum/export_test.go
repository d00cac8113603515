package pagesum

// Offsets are what the lanes begin with.
func Offsets() [laneN]uint32 { return offsets() }

// ChecksumGeneric is Checksum without assembly.
func ChecksumGeneric(page []byte, block uint32) uint16 {
	sums := begin(page)
	mixGeneric(&sums, page[rowSize:])
	return finish(&sums, block)
}
