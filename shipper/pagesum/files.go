package pagesum

import (
	"strconv"
	"strings"
)

// FirstBlock tells whether the file at path, relative to the data directory
// and with pg_tblspc/<oid>/ before the files of a tablespace, is a segment of a
// relation's fork, and which block of the fork its first page is. segPages is
// how many pages a segment has (131072 unless PostgreSQL was built otherwise).
//
// Other files have no pages: PG_VERSION, pg_filenode.map, pg_control,
// pg_internal.init and everything outside the folders of relations.
func FirstBlock(path string, segPages uint32) (block uint32, ok bool) {
	rest, name := cutLast(path)
	if !isRelationFolder(rest) {
		return 0, false
	}
	name, segment, isLater := strings.Cut(name, ".")
	var n uint64
	if isLater {
		var err error
		if n, err = strconv.ParseUint(segment, 10, 32); err != nil || n == 0 || segment[0] == '0' {
			return 0, false
		}
	}
	node, fork, hasFork := strings.Cut(name, "_")
	if !isOID(node) || hasFork && fork != "fsm" && fork != "vm" && fork != "init" {
		return 0, false
	}
	if n*uint64(segPages) > 1<<32-1 {
		return 0, false
	}
	return uint32(n) * segPages, true
}

// isRelationFolder knows global, base/<database> and
// pg_tblspc/<oid>/PG_<version>/<database>.
func isRelationFolder(dir string) bool {
	if dir == "global" {
		return true
	}
	above, db := cutLast(dir)
	if !isOID(db) {
		return false
	}
	if above == "base" {
		return true
	}
	above, version := cutLast(above)
	top, space := cutLast(above)
	return strings.HasPrefix(version, "PG_") && top == "pg_tblspc" && isOID(space)
}

func cutLast(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func isOID(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil && s[0] != '0' && s[0] != '+'
}
