package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/stats"
)

// backupResults are all contests of the part.
type backupResults struct {
	full, restore, delta, archive, recovery, verify contest
}

// The bars. Times are ours by theirs.
const (
	barFull     = 0.9
	barSize     = 1.05
	barRestore  = 0.6
	barDelta    = 1.0
	barArchive  = 1.0 // rate
	barRecovery = 1.1 // what is left of "bound by redo" beside noise
	barVerify   = 1e9 // stored bytes by second of processor time
)

// wanted is one thing that is judged.
type wanted struct {
	what     string
	measured string
	ok       bool
}

// atMost judges the median.
func atMost(what string, s stats.Summary, limit float64) wanted {
	return wanted{fmt.Sprintf("%s: ≤ %g", what, limit), s.Format(2), s.N > 0 && s.Median <= limit}
}

func atLeast(what string, s stats.Summary, limit float64) wanted {
	return wanted{fmt.Sprintf("%s: ≥ %g", what, limit), s.Format(2), s.N > 0 && s.Median >= limit}
}

// bars are the verdicts.
func (s *backups) bars(r backupResults) []wanted {
	ratio := func(x contest, of func(turn) float64) stats.Summary {
		return stats.Summarize(x.ratios(sideOurs, sideRest, of))
	}
	rate := func(t turn) float64 { return 1 / seconds(t) }
	perSecond := func(i int) stats.Summary {
		return r.verify.summary(i, func(t turn) float64 { return bytesOf(t) / seconds(t) / barVerify })
	}
	highest := uint64(0)
	for _, p := range s.peaks {
		highest = max(highest, p)
	}
	return []wanted{
		atMost("full backup, time ÷ pgBackRest", ratio(r.full, seconds), barFull),
		atMost("full backup, stored size ÷ pgBackRest", ratio(r.full, bytesOf), barSize),
		atMost("restore, time ÷ pgBackRest", ratio(r.restore, seconds), barRestore),
		atMost("restore over unchanged data, time ÷ pgBackRest", ratio(r.delta, seconds), barDelta),
		atLeast("archiving, rate ÷ pgBackRest, asynchronous", ratio(r.archive, rate), barArchive),
		atMost("recovery from a location ÷ from pg_wal, time", stats.Summarize(r.recovery.ratios(redoOurs, redoPlain, seconds)), barRecovery),
		atLeast("verification of a set, stored GB/s of a processor", perSecond(proveSet), 1),
		atLeast("verification of the log, stored GB/s of a processor", perSecond(proveLog), 1),
		{fmt.Sprintf("memory of any process of ours, MiB: ≤ %d", backupMemory>>20), mib(highest), highest > 0 && highest <= backupMemory},
	}
}

// report is the section.
func (s *backups) report(r backupResults) string {
	var out strings.Builder
	fmt.Fprintf(&out, "A database of %s with checksums, half of it pgbench's tables (scale %d), the other half random bytes, and %s of log that pgbench wrote with the default `max_wal_size`. "+
		"Ours are processes of the library with the options of the program, %d workers, default level; %s has `compress-type=zst compress-level=3 process-max=%d start-fast=y checksum-page=y archive-async=y`. "+
		"All run as the same account, on one file system. Each turn begins after a checkpoint, a `sync`, and a reading of all files that it will read: page caches are warm. It ends when the process has ended and `sync -f` has returned. "+
		"Turns alternate, up to %d rounds in changing order; median (lowest – highest), ratios per round. MB is 10⁶ bytes. Processor time is that of the whole machine, PostgreSQL's included.\n\n",
		size(s.dbBytes), s.backupScale, size(int64(s.to.Sub(s.from))), backupWorkers, s.rest.Version, backupWorkers, s.rounds)
	t := doc.Table{Head: []string{"what is wanted", "measured", ""}}
	for _, b := range s.bars(r) {
		t.Rows = append(t.Rows, []string{b.what, b.measured, verdict(b.ok)})
	}
	out.WriteString(t.String())
	s.files(&out, r)
	s.logs(&out, r)
	s.others(&out, r)
	return out.String()
}

// size is a number of bytes for people.
func size(n int64) string { return fmt.Sprintf("%.2f GB", float64(n)/1e9) }

// files are the tables of backups and restores.
func (s *backups) files(out *strings.Builder, r backupResults) {
	t := r.full.table("full backup", sideRest, column{"stored, MB", 0, func(t turn) float64 { return bytesOf(t) / 1e6 }})
	fmt.Fprintf(out, "\n**Full backup.** None waits for the log (`--no-archive-check`, `-X none`). pg_basebackup is `-F t -Z server-zstd:level=3,workers=%d`. pgBackRest and ours make every file of the copy durable before they end; so does pg_basebackup. "+
		"pgBackRest waits for the next full second before it copies.\n\n%s", backupWorkers, t)
	fmt.Fprintf(out, "\n**Restore into an empty directory.** pgBackRest calls fsync for each file, ours syncfs once and fsync for its marks; neither starts the server. "+
		"Ours writes past the page cache, so that other programs keep theirs: whoever reads everything afterwards reads it from the disk.\n\n%s",
		r.restore.table("restore", sideRest, column{"restored MB/s", 0, func(t turn) float64 { return bytesOf(t) / 1e6 / seconds(t) }},
			column{"reading it all then, s", 2, func(t turn) float64 { return t.then.Seconds() }}))
	fmt.Fprintf(out, "\n**Restore over unchanged data.** Both read and digest every file that is there, and trust no time of change.\n\n%s", r.delta.table("delta", sideRest))
}

// logs are the tables of the log.
func (s *backups) logs(out *strings.Builder, r backupResults) {
	raw := float64(s.to.Sub(s.from))
	fmt.Fprintf(out, "\n**Archiving %d segments that lie ready.** Ours is one process with a feeder; pgBackRest's is its asynchronous process alone, without the commands that PostgreSQL starts. Both make each segment durable by fsync.\n\n%s",
		s.segments(), r.archive.table("archiving", sideRest,
			column{"MB/s of log", 0, func(t turn) float64 { return raw / 1e6 / seconds(t) }},
			column{"stored, MB", 0, func(t turn) float64 { return bytesOf(t) / 1e6 }}))
	fmt.Fprintf(out, "\n**Recovery of that log.** From the start of the server until its redo is done, without restartpoints or readers; the base is a copy of the server before the log. "+
		"Ours is the `restore_command` of a restore: a rename of what was fetched ahead, or else `understudy restore-get` on the socket of the process that fetches. Both fetch as far ahead as they do by default.\n\n%s",
		r.recovery.table("log from", redoPlain, column{"MB/s of log", 0, func(t turn) float64 { return raw / 1e6 / seconds(t) }}))
}

// others have no other side: verification, memory, profiles.
func (s *backups) others(out *strings.Builder, r backupResults) {
	t := doc.Table{Head: []string{"verification", "processor time, s", "stored MB/s of a processor", "rounds"}}
	for i, name := range r.verify.sides {
		sum := r.verify.summary(i, func(t turn) float64 { return bytesOf(t) / 1e6 / seconds(t) })
		t.Rows = append(t.Rows, []string{name, r.verify.summary(i, seconds).Format(2), sum.Format(0), fmt.Sprint(sum.N)})
	}
	fmt.Fprintf(out, "\n**Verification.** One worker; the time is the processor time of its whole process.\n\n%s", t)
	m := doc.Table{Head: []string{"process", "highest resident memory (VmHWM), MiB", ""}}
	for _, name := range slices.Sorted(maps.Keys(s.peaks)) {
		m.Rows = append(m.Rows, []string{name, mib(s.peaks[name]), verdict(s.peaks[name] <= backupMemory)})
	}
	fmt.Fprintf(out, "\n**Memory.**\n\n%s", m)
	if len(s.profiles) > 0 {
		fmt.Fprintf(out, "\nWhere the processor time of ours goes, each in one more run:\n\n%s", strings.Join(s.profiles, "\n"))
	}
}

// column is a further value of each side.
type column struct {
	head     string
	decimals int
	of       func(turn) float64
}

// table has a row for each side; times are compared with those of one of them.
func (r contest) table(name string, with int, more ...column) string {
	t := doc.Table{Head: []string{name, "time, s", "÷ " + r.sides[with], "processor time, s"}}
	for _, c := range more {
		t.Head = append(t.Head, c.head)
	}
	t.Head = append(t.Head, "rounds")
	for i, side := range r.sides {
		times := r.summary(i, seconds)
		row := []string{side, times.Format(2), stats.Summarize(r.ratios(i, with, seconds)).Format(2), r.summary(i, busy).Format(1)}
		for _, c := range more {
			row = append(row, r.summary(i, c.of).Format(c.decimals))
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprint(times.N)))
	}
	text := t.String()
	if ratios := r.ratios(sideOurs, with, seconds); len(ratios) > 0 {
		text += fmt.Sprintf("\nOurs ÷ %s, round by round: %s.\n", r.sides[with], series(ratios))
	}
	return text
}
