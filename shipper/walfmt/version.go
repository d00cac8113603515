package walfmt

// version is all that differs between the PostgreSQL versions known here.
type version struct {
	major      int
	magic      uint16 // first two bytes of every page
	statsItem  int    // bytes of a dropped-statistics item in commit records
	lastRMgr   uint8  // highest built-in resource manager
	customRMgr bool   // extensions may register resource managers 128 to 255
	compressed uint8  // bits of a page image's info that say it is compressed
}

// versions is ordered, newest last; magics grow with it.
var versions = [...]version{
	{major: 14, magic: 0xD10D, lastRMgr: 21, compressed: 0x02},
	{major: 15, magic: 0xD110, statsItem: 12, lastRMgr: 21, customRMgr: true, compressed: 0x1C},
	{major: 16, magic: 0xD113, statsItem: 12, lastRMgr: 21, customRMgr: true, compressed: 0x1C},
	{major: 17, magic: 0xD116, statsItem: 12, lastRMgr: 21, customRMgr: true, compressed: 0x1C},
	{major: 18, magic: 0xD118, statsItem: 16, lastRMgr: 21, customRMgr: true, compressed: 0x1C},
}

// versionOf finds the version of a page magic. major is Params.Major.
func versionOf(magic uint16, major int) (version, bool) {
	for _, v := range versions {
		if v.magic == magic {
			return v, major == 0 || major == v.major
		}
	}
	newest := versions[len(versions)-1]
	if major > newest.major && magic > newest.magic {
		newest.major, newest.magic = major, magic
		newest.lastRMgr = rmgrMinCustom - 1 // it may have more
		return newest, true
	}
	return version{}, false
}

// versionOfMajor is the table's row for a major version, the newest row for
// one that is not in it.
func versionOfMajor(major int) version {
	for _, v := range versions {
		if v.major == major {
			return v
		}
	}
	return versions[len(versions)-1]
}
