package backupset_test

import (
	"encoding/hex"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/pos"
)

// example is a description with every field set.
func example() backupset.Set {
	sum := hex.EncodeToString(make([]byte, 32))
	return backupset.Set{
		Version: 1, Label: "20260131-233000F", Group: "shop", GroupID: "g", Profile: "postgres", Node: "main", Standby: true, Program: "1.0", SystemID: 7_000_000_000_000_000_001,
		Server: backupset.Server{Major: 15, Version: "15.8 (Debian)", Architecture: "x86_64-pc-linux-gnu", CatalogVersion: 202209061, ControlVersion: 1300,
			BlockSize: 8192, SegSize: 16 << 20, Checksums: true, Settings: map[string]string{"max_connections": "100"}},
		Lineage:  pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 2}, Timeline: 3, Start: 0x1000}},
		Timeline: 3, Start: 0x2000028, End: 0x2000100,
		Began: time.Date(2026, 1, 31, 23, 30, 0, 0, time.UTC), Ended: time.Date(2026, 1, 31, 23, 31, 0, 5, time.UTC),
		Tablespaces: []backupset.Tablespace{{OID: 16400, Location: "/space"}},
		Databases:   map[uint32]string{5: "postgres"},
		FileN:       3, RawBytes: 12345,
		Objects: []backupset.Object{{Name: "16400.tar.zst", Bytes: 1, RawBytes: 2, BLAKE3: sum}, {Name: backupset.ManifestName, Bytes: 1, RawBytes: 1, BLAKE3: sum},
			{Name: backupset.BaseName, Bytes: 10, RawBytes: 20, BLAKE3: sum}, {Name: backupset.FilesName, Bytes: 1, RawBytes: 2, BLAKE3: sum}},
		Damage: []backupset.Damage{{Path: "base/5/1", Block: 2, Why: "checksum"}}, DamageN: 1,
		Warnings: []string{"/x was not taken"}, Notes: map[string]string{"who": "me"},
	}
}
