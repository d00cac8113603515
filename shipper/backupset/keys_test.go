package backupset_test

import (
	"testing"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

func TestRoot_WALKeysRoundTrip(t *testing.T) {
	r := backupset.Root{Group: "shop", Profile: "postgres"}
	const seg = 16 << 20
	for key, want := range map[string]backupset.WALObject{
		r.Segment(3, 0x1_0500_0000, seg): {Timeline: 3, Start: 0x1_0500_0000},
		r.Partial(3, 0x1_0500_0000, seg): {Timeline: 3, Start: 0x1_0500_0000, Partial: true},
		r.History(0xA):                   {Timeline: 10, History: true},
	} {
		if err := location.CheckKey(key); err != nil {
			t.Error(err)
		}
		if got, ok := r.ParseWAL(key, seg); !ok || got != want {
			t.Errorf("%s: %+v, %v", key, got, ok)
		}
	}
	for _, key := range []string{
		"", "shop/postgres/wal/", "shop/postgres/wal/00000003/x.zst", "shop/postgres/wal/00000004/000000030000000100000005.zst",
		"shop/postgres/wal/00000003/000000030000000100000005", "shop/postgres/wal/0000000a.history", "shop/postgres/wal/00000000.history",
		"other/postgres/wal/0000000A.history", "shop/postgres/wal/00000003/000000030000000100000100.zst",
		"shop/postgres/wal/00000003/sub/000000030000000100000005.zst",
	} {
		if got, ok := r.ParseWAL(key, seg); ok && key != "" {
			t.Errorf("%s is %+v", key, got)
		}
	}
}

func TestLabel_RoundTrip(t *testing.T) {
	at := time.Date(2026, 2, 28, 23, 59, 59, 999, time.FixedZone("", 3600))
	l := backupset.NewLabel(at)
	got, err := backupset.ParseLabel(l)
	if err != nil || !got.Equal(at.Truncate(time.Second)) || l != "20260228-225959F" {
		t.Errorf("%s is %s, %v", l, got, err)
	}
	for _, bad := range []string{"", "20260228-225959", "20260230-225959F", "20260228-255959F", "x20260228-225959F", "20260228-225959FF"} {
		if _, err := backupset.ParseLabel(bad); err == nil {
			t.Errorf("%q is a label", bad)
		}
	}
}

func TestObjectNames(t *testing.T) {
	for name, want := range map[string]bool{
		"base.tar.zst": true, "extra.tar.zst": true, "files.jsonl.zst": true, "backup_manifest": true, "set.json": true, "16400.tar.zst": true,
		"4294967296.tar.zst": false, "0.tar.zst": false, "016400.tar.zst": false, "x.tar.zst": false, "": false, "16400.tar": false,
	} {
		if backupset.IsObjectName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
