package replcmd_test

import (
	"errors"
	"strings"
	"testing"

	"understudy/standby/walserver/internal/replcmd"
)

func TestParse_Commands(t *testing.T) {
	for text, want := range map[string]replcmd.Command{
		"":                                       {Kind: replcmd.Empty},
		" ; ":                                    {Kind: replcmd.Empty},
		"IDENTIFY_SYSTEM":                        {Kind: replcmd.IdentifySystem},
		"identify_system ;":                      {Kind: replcmd.IdentifySystem},
		"SHOW data_directory_mode":               {Kind: replcmd.Show, Name: "data_directory_mode"},
		"TIMELINE_HISTORY 4294967295":            {Kind: replcmd.TimelineHistory, Timeline: 4294967295},
		"START_REPLICATION 16/B374D848":          {Kind: replcmd.StartReplication, Start: 0x16_B374D848},
		"START_REPLICATION 0/3000000 TIMELINE 2": {Kind: replcmd.StartReplication, Start: 0x3000000, Timeline: 2},
		"START_REPLICATION SLOT \"a\"\"b\" 0/1 TIMELINE 1":               {Kind: replcmd.StartReplication, Start: 1, Timeline: 1, Slot: `a"b`},
		"start_replication slot understudy\tPHYSICAL\n0/1 timeline 3 ; ": {Kind: replcmd.StartReplication, Start: 1, Timeline: 3, Slot: "understudy"},
	} {
		if got, err := replcmd.Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v", text, got, err)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	for text, want := range map[string]error{
		"TIMELINE_HISTORY":                       replcmd.ErrSyntax,
		"TIMELINE_HISTORY 0":                     replcmd.ErrSyntax,
		"TIMELINE_HISTORY -1":                    replcmd.ErrSyntax,
		"TIMELINE_HISTORY 4294967296":            replcmd.ErrSyntax,
		"TIMELINE_HISTORY 1 2":                   replcmd.ErrSyntax,
		"SHOW":                                   replcmd.ErrSyntax,
		"START_REPLICATION":                      replcmd.ErrSyntax,
		"START_REPLICATION SLOT":                 replcmd.ErrSyntax,
		"START_REPLICATION SLOT \"\" 0/1":        replcmd.ErrSyntax,
		"START_REPLICATION SLOT \"x 0/1":         replcmd.ErrSyntax,
		"START_REPLICATION 0":                    replcmd.ErrSyntax,
		"START_REPLICATION \"0/1\"":              replcmd.ErrSyntax,
		"START_REPLICATION 0/123456789":          replcmd.ErrSyntax,
		"START_REPLICATION 0/1 TIMELINE":         replcmd.ErrSyntax,
		"IDENTIFY_SYSTEM; IDENTIFY_SYSTEM":       replcmd.ErrSyntax,
		"START_REPLICATION SLOT x LOGICAL 0/1":   replcmd.ErrUnsupported,
		"SELECT 1":                               replcmd.ErrUnsupported,
		"BASE_BACKUP":                            replcmd.ErrUnsupported,
		"CREATE_REPLICATION_SLOT \"x\" PHYSICAL": replcmd.ErrUnsupported,
		strings.Repeat(" ", replcmd.MaxLen+1):    replcmd.ErrSyntax,
	} {
		if got, err := replcmd.Parse(text); !errors.Is(err, want) {
			t.Errorf("Parse(%.40q) = %+v, %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"IDENTIFY_SYSTEM", "SHOW wal_segment_size;", "TIMELINE_HISTORY 2", "SELECT 1",
		"START_REPLICATION SLOT \"a\"\"b\" PHYSICAL 16/B374D848 TIMELINE 7", "START_REPLICATION 0/0", "\"", "\x00", "é/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := replcmd.Parse(s)
		if err != nil {
			if c != (replcmd.Command{}) {
				t.Errorf("an error comes with %+v", c)
			}
			return
		}
		if c.Kind == 0 || c.Kind == replcmd.TimelineHistory && c.Timeline == 0 || len(c.Slot) > len(s) {
			t.Errorf("Parse(%q) = %+v", s, c)
		}
		again, err := replcmd.Parse("\t" + s + " ")
		if err != nil || again != c {
			t.Errorf("with blanks around: %+v, %v", again, err)
		}
	})
}
