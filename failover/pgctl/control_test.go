package pgctl_test

import (
	"strings"
	"testing"

	"understudy/failover/pgctl"
)

// controlText is what pg_controldata of PostgreSQL 15 prints.
const controlText = `pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7434113312313322113
Database cluster state:               in archive recovery
pg_control last modified:             Fri 21 Nov 2025 11:02:13 PM UTC
Latest checkpoint location:           1/5000060
Latest checkpoint's REDO location:    1/5000028
Latest checkpoint's REDO WAL file:    000000030000000100000005
Latest checkpoint's TimeLineID:       3
Latest checkpoint's PrevTimeLineID:   2
Latest checkpoint's full_page_writes: on
Latest checkpoint's NextXID:          0:735
Latest checkpoint's NextOID:          13010
Latest checkpoint's oldestXID:        716
Time of latest checkpoint:            Fri 21 Nov 2025 11:02:13 PM UTC
Fake LSN counter for unlogged rels:   0/3E8
Minimum recovery ending location:     1/6000110
Min recovery ending loc's timeline:   3
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              14
max_prepared_xacts setting:           2
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
Maximum data alignment:               8
Database block size:                  8192
Blocks per segment of large relation: 131072
WAL block size:                       8192
Bytes per WAL segment:                16777216
Maximum length of identifiers:        64
Date/time type storage:               64-bit integers
Float8 argument passing:              by value
Data page checksum version:           1
Mock authentication nonce:            0000000000000000000000000000000000000000000000000000000000000000
`

func TestParseControl_Versions(t *testing.T) {
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(controlText) }
	for name, text := range map[string]string{
		"14": edit("202209061", "202107181"),
		"15": controlText,
		"16": edit("202209061", "202307071"),
		"17": edit("202209061", "202406281"),
		"18": edit("202209061", "202506291", "number:            1300", "number:            1800",
			"Data page checksum version:           1", "Data page checksum version:           1\nDefault char data signedness:         signed"),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := pgctl.ParseControl(text)
			if err != nil {
				t.Fatal(err)
			}
			if c.SystemID != 7434113312313322113 || c.State != "in archive recovery" || c.CleanShutdown() {
				t.Errorf("identity: %+v", c)
			}
			if c.Checkpoint != 0x1_05000060 || c.Redo != 0x1_05000028 || c.MinRecovery != 0x1_06000110 {
				t.Errorf("positions: %+v", c)
			}
			if c.Timeline != 3 || c.PrevTimeline != 2 || c.MinRecoveryTimeline != 3 {
				t.Errorf("timelines: %+v", c)
			}
			if c.SegSize != 16<<20 || c.BlockSize != 8192 || !c.DataChecksums || !c.WALLogHints || c.WALLevel != "replica" {
				t.Errorf("format: %+v", c)
			}
			if c.MaxConnections != 100 || c.Standby["max_wal_senders"] != 14 || c.Standby["max_prepared_transactions"] != 2 {
				t.Errorf("settings: %+v", c.Standby)
			}
		})
	}
}

func TestParseControl_Refuses(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"MissingField":    {"Latest checkpoint's TimeLineID", "x", `no "Latest checkpoint's TimeLineID"`},
		"BadLSN":          {"1/5000028", "15000028", "no slash"},
		"BadNumber":       {"16777216", "many", "Bytes per WAL segment"},
		"OddSegment":      {"16777216", "16777217", "damaged"},
		"WrongChecksum":   {"pg_control version", "WARNING: Calculated CRC checksum does not match value stored in file.\npg_control version", "checksum"},
		"ChecksumSince17": {"pg_control version", "pg_controldata: warning: calculated CRC checksum does not match value stored in control file\npg_control version", "checksum"},
		"Empty":           {controlText, "", "printed no"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pgctl.ParseControl(strings.Replace(controlText, tt.old, tt.new, 1))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
