package rescue

import (
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Join is what some locations hold, with what a ledger knew of it.
func Join(known catalog.Catalog, scans ...catalog.Catalog) (catalog.Catalog, []string) {
	return join(known, scans)
}

// ParseStop reads what a server said of its target.
func ParseStop(text string) (before bool, xid uint32, lsn pos.LSN, ok bool) {
	s, ok := parseStop(text)
	return s.before, s.xid, s.lsn, ok
}

// OpenDir opens a directory as a location for reading.
func OpenDir(path string) (location.Location, error) { return openDir(path) }

// Overlap tells whether one of two directories lies in the other.
func Overlap(a, b string) bool { return overlap(a, b) }

// RestoreCommand is what PostgreSQL runs during the restore to a directory.
func RestoreCommand(dataDir, binary string) string {
	return newRunDir(dataDir).restoreCommand(binary)
}

// NewerSpaces is newerSpaces.
func NewerSpaces(dataDir string, systemID uint64, known []uint32) ([]string, error) {
	return newerSpaces(dataDir, systemID, known)
}
