//go:build !amd64

package pagesum

// mix feeds whole rows to the lanes.
func mix(sums *[laneN]uint32, rows []byte) { mixGeneric(sums, rows) }
