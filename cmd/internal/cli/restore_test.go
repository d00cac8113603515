package cli_test

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/cmd/internal/adopt"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/rescue"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/standby/recover"
)

// restorePlan is one across two timelines, from two locations.
func restorePlan() *rescue.Plan {
	return &rescue.Plan{
		Source: "the daemon of main", Group: "shop", DataDir: "/var/lib/postgresql/15/restored", Mode: recover.Fresh,
		Target: "2026-11-22 10:00:00+00:00", Timeline: 4, Set: "20261122-023000F", SetEnded: time.Date(2026, 11, 22, 2, 41, 7, 0, time.UTC),
		Locations: []string{"disk", "offsite"}, Bytes: 3 << 30, FileBytes: 9 << 30, FileN: 4711,
		WAL: []catalog.Stretch{{Timeline: 3, From: 0x2A000028, To: 0x30000000, Locations: []string{"disk", "offsite"}},
			{Timeline: 4, From: 0x30000000, To: 0x3F000148, Locations: []string{"offsite"}}},
		WALBytes: 0x15000120, Estimate: 4*time.Minute + 12*time.Second, Measured: true,
		Spaces: []recover.Space{{OID: 16401, Dir: "/srv/fast"}, {OID: 16402, InPlace: true}},
	}
}

func TestRestore_PlanTexts(t *testing.T) {
	for name, change := range map[string]func(*rescue.Plan){
		"fresh": func(*rescue.Plan) {},
		"delta": func(p *rescue.Plan) {
			p.Mode, p.Overwrite, p.Promotes, p.NewLine, p.Measured = recover.Delta, "everything in /var/lib/postgresql/15/restored, and of tablespace 16401 in /srv/fast", true, 9, false
			p.Notes = []string{"offsite: 3 more things are not as they should be", "a long note that says so many words that it has to be broken into more than one line on a terminal of ordinary width"}
		},
		"beside": func(p *rescue.Plan) { p.Mode, p.Port, p.Promotes = recover.Beside, 5433, true },
		"extra": func(p *rescue.Plan) {
			p.Extra = &rescue.Extra{Set: p.Set, Dir: "/srv/host", FileN: 12, Bytes: 34 << 10, Paths: []string{"/etc/postgresql/15/main/postgresql.conf", "/etc/shop/app.conf"}}
		},
		"resumed": func(p *rescue.Plan) {
			p.Resumes = "the restore that was begun at 2026-11-22 10:12:13 UTC and came to the step files"
		},
	} {
		p := restorePlan()
		change(p)
		golden(t, "restore-plan-"+name+".txt", cli.PlanOfRestoreText(p, 0))
		golden(t, "restore-plan-"+name+"-80.txt", cli.PlanOfRestoreText(p, 80))
		for line := range strings.Lines(cli.PlanOfRestoreText(p, 60)) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 60 {
				t.Errorf("%s: a line of %d characters: %s", name, n, line)
			}
		}
	}
}

func TestRestore_OutcomeTexts(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 59, 59, 123456000, time.UTC)
	opened := rescue.Outcome{DataDir: "/data", Mode: recover.Fresh, Set: "20261122-023000F", Opened: true, SystemID: 7710935969210939122, FileBytes: 9 << 30, SameBytes: 1 << 30,
		Reached:  recover.Reached{LSN: 0x3F000148, Time: at, Timeline: 9, Stop: "recovery stopping before commit of transaction 727, time 2026-11-22 10:00:01+00"},
		Problems: []recover.Problem{{Location: "disk", Object: "base.tar.zst", Damaged: true, Text: "damaged frame at 123"}},
		Took:     3*time.Minute + 2*time.Second, Next: []string{"Start it with: pg_ctl -D /data start"}, Dropped: "/srv/from-archive"}
	stopped := opened
	stopped.Opened, stopped.Reached.Timeline, stopped.Reached.Time, stopped.Problems, stopped.Dropped = false, 0, time.Time{}, nil, ""
	golden(t, "restore-outcome.txt", cli.OutcomeText(opened, 80)+cli.OutcomeText(stopped, 0))
	stopped.Extra = &recover.Extra{Dir: "/srv/host", FileN: 12, Bytes: 34 << 10, LeftOut: []string{"etc/ssl -> /etc/ssl/private", "etc/up -> ../../x"}}
	golden(t, "restore-outcome-extra.txt", cli.OutcomeText(stopped, 80))
	status := rescue.Status{DataDir: "/data", Running: true, Mode: recover.Delta, Set: "20261122-023000F", Target: "latest", Begun: at, Step: recover.StepFiles, At: at}
	done := status
	done.Running, done.Step, done.Startable, done.Opened, done.Reached = false, recover.Finished, true, true, &opened.Reached
	waiting := done
	waiting.Opened = false
	golden(t, "restore-status.txt", cli.RestoreStatusText(status, 80)+cli.RestoreStatusText(done, 80)+cli.RestoreStatusText(waiting, 80))
}

// TestRestore_Flags: what cannot go together is said before anything is asked.
func TestRestore_Flags(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"WaitAlone":         {[]string{"--to", "/d", "--wait", "1m"}, "--wait goes with --group only"},
		"CancelAlone":       {[]string{"--to", "/d", "--cancel"}, "--cancel goes with --group only"},
		"Nowhere":           {nil, "say with --to"},
		"ExtraWithTarget":   {[]string{"--extra", "/x", "--target", "latest"}, "--target is about the database"},
		"ExtraWithDelta":    {[]string{"--extra", "/x", "--delta"}, "--delta is about the database"},
		"ExtraAsksNobody":   {[]string{"--extra", "/x", "--json"}, "confirm it with --yes"},
		"BesideWithoutPort": {[]string{"--to", "/d", "--beside"}, "--beside needs --port"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(context.Background(), io.Discard, append([]string{"restore"}, tt.args...)...)
			if cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %d, %v", cli.Code(err), err)
			}
		})
	}
}

// adoption is a founding on a restored database.
func adoption() adopt.Plan {
	return adopt.Plan{Node: "main", Group: "shop", DataDir: "/var/lib/postgresql/15/main", Version: "15.18", SystemID: 7710935969210939122, Timeline: 3,
		StoppedAt: 0x501B4C0, Bytes: 9 << 30, FileN: 4711, Spaces: []string{"/srv/fast"}, Restored: "20261122-023000F",
		Changes: []string{"postgresql.conf ends in an include", "who may connect is in postgresql.hba"}, Kept: []string{"all databases, roles and settings"},
		Notes: []string{"the database has no data checksums, which is said in so many words that they have to be broken into more than one line on a terminal"}}
}

func TestAdoption_Text(t *testing.T) {
	golden(t, "adoption.txt", cli.AdoptionText(adoption(), 0)+cli.AdoptionText(adoption(), 80))
}

func TestRestore_ProgressTexts(t *testing.T) {
	for want, g := range map[string]rescue.Progress{
		"files":                                 {Phase: rescue.PhaseFiles, Step: recover.StepMark},
		"files, 50 %, 1.0 GiB of 2.0 GiB":       {Phase: rescue.PhaseFiles, Done: 1 << 30, Total: 2 << 30},
		"log replayed to 0/3000060, 100 %, 2.0": {Phase: rescue.PhaseLog, At: 0x3000060, Done: 2 << 20, Total: 1 << 20},
		"log replayed to 0/3000060":             {Phase: rescue.PhaseLog, At: 0x3000060},
		"files, 10 %, 10 B of 100 B, 1m5s left": {Phase: rescue.PhaseFiles, Done: 10, Total: 100, Left: 65 * time.Second},
	} {
		if got := cli.RestoreProgressText(g); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRebuild_Texts(t *testing.T) {
	r := rescue.Rebuild{
		Location: "disk", Where: "/srv/backups", Group: "shop", Known: true,
		Sets: []rescue.RebuiltSet{{Label: "20261121-023000F", Bytes: 3 << 30, State: "new"}, {Label: "20261122-023000F", Bytes: 3 << 30, State: "copy"}},
		WAL:  []catalog.Span{{Timeline: 3, From: 0x2A000000, To: 0x30000000}}, NewBytes: 96 << 20, Timelines: []pos.Timeline{3},
		Missing: []string{"20261120-023000F"}, Problems: []string{"shop/postgres/sets/x: is no object of a set"},
		Export: &rescue.RebuiltExport{Members: []string{"backup", "main"}, Locations: []string{"disk", "offsite"}, LastTimeline: 3},
	}
	known := r
	known.Sets, known.NewBytes, known.Timelines, known.Missing, known.Problems = nil, 0, nil, nil, nil
	bare := r
	bare.Known, bare.Missing = false, nil
	golden(t, "ledger-rebuild.txt", cli.RebuildText(r, 80)+cli.RebuildText(known, 80)+cli.RebuildText(bare, 80))
}

func TestRestore_RefusesArguments(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.yaml")
	for line, want := range map[string]string{
		"restore": "--to", "restore --to d --delta --beside": "name one", "restore --to d --beside": "--port", "restore --to d --port 1": "--beside",
		"restore --to d --beside --port 1 --promote=false": "identity", "restore --to d --json": "--yes", "restore --to d --target 12": "target",
		"restore --to d --tablespace x=/y": "OID=DIR", "restore --to d --tablespace 5=": "OID=DIR", "restore --to d --workers -1": "negative",
		"restore --to d --from a --locations b": "one question", "restore --to d --secret x": "NAME=FILE", "restore --to d --from " + dir: "no backups",
		"restore --to d --config " + none: "does not exist", "restore --to d --locations " + none: "no such file", "restore --to d x": "unknown command",
		"restore --to d --from s3://bucket": "--secret from=FILE", "ledger rebuild": "--from", "ledger rebuild --from a --json": "--yes", "ledger rebuild --from " + none: "no such file",
		"points --locations " + none: "no such file",
	} {
		var out buffer
		err := run(context.Background(), &out, strings.Fields(line)...)
		if err == nil || cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: code %d, %v", line, cli.Code(err), err)
		}
	}
	for line, code := range map[string]int{
		"restore-get 000000010000000000000001 " + dir + "/x":                           cli.ExitMustStop,
		"restore-get --socket " + dir + "/none 000000010000000000000001 " + dir + "/x": cli.ExitMustStop,
		"restore-get --socket " + dir + "/none backup_label " + dir + "/x":             cli.ExitFailure,
		"restore-get 000000010000000000000001":                                         cli.ExitMustStop,
		"restore --status --to " + dir:                                                 cli.ExitFailure,
		"restore --status --json --to " + filepath.Join(dir, "there", "is", "nothing"): cli.ExitFailure,
	} {
		var out buffer
		if err := run(context.Background(), &out, strings.Fields(line)...); cli.Code(err) != code {
			t.Errorf("%s: code %d, want %d: %v", line, cli.Code(err), code, err)
		}
	}
}
