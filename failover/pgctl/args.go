package pgctl

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaults are PostgreSQL's own values of the settings that a standby must
// match.
var defaults = map[string]int{
	"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 10,
	"max_prepared_transactions": 0, "max_locks_per_transaction": 64,
}

// spareSenders are the walsenders that we need beside the operator's.
const spareSenders = 4

// Args is the postmaster's command line, binary first. What is forced here
// beats every configuration file: a setting that would make acknowledged
// commits unsafe, or that differs between the nodes of a group.
func (s *Server) Args(m Mode) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	op := s.operatorSettings()
	ctl, err := s.Control(ctx)
	if err != nil {
		s.Log.Warn("command line without knowledge of pg_control", "error", err)
	}
	force := [][2]string{
		{"fsync", "on"},
		{"full_page_writes", "on"},
		{"data_sync_retry", "off"},
		{"ignore_invalid_pages", "off"},
		{"wal_level", walLevel(op["wal_level"], ctl.WALLevel)},
		{"hot_standby", "on"},
		// A crashed primary may open again only by the ledger's word.
		{"restart_after_crash", "off"},
		{"wal_receiver_status_interval", "1"},
		// The default of 5 s would be waited for after every refused attempt.
		{"wal_retrieve_retry_interval", "50ms"},
		// Retention is decided by the group, not by PostgreSQL.
		{"max_slot_wal_keep_size", "-1"},
		{"hba_file", s.hbaFile()},
		{"ident_file", s.identFile()},
		{"unix_socket_directories", s.socketDirs()},
		{"port", strconv.Itoa(s.Port)},
		{"listen_addresses", strings.Join(s.Listen, ",")},
	}
	if op["cluster_name"] == "" {
		force = append(force, [2]string{"cluster_name", "understudy"})
	}
	if !ctl.DataChecksums {
		force = append(force, [2]string{"wal_log_hints", "on"}) // else no rewind
	}
	if op["recovery_init_sync_method"] == "" && syncfsTells(kernelRelease()) {
		// Before a crash recovery every file of the directory is made durable; one
		// by one that takes most of the time of a small recovery.
		force = append(force, [2]string{"recovery_init_sync_method", "syncfs"})
	}
	if s.Major >= 18 {
		force = append(force, [2]string{"idle_replication_slot_timeout", "0"})
	}
	force = append(force, s.standbyArgs(m, op, ctl.Standby)...)
	args := []string{filepath.Join(s.BinDir, "postgres"), "-D", s.DataDir}
	for _, f := range force {
		args = append(args, "-c", f[0]+"="+f[1])
	}
	return args
}

// syncfsTells tells whether syncfs of a kernel reports what could not be
// written, as those from 5.8 on do.
func syncfsTells(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// standbyArgs forces the settings that a standby must match where the
// operator's are lower.
func (s *Server) standbyArgs(m Mode, op map[string]string, replayed map[string]int) [][2]string {
	var out [][2]string
	for _, n := range standbyNames {
		name := n[1]
		own := defaults[name]
		if v, err := strconv.Atoi(op[name]); err == nil {
			own = v
		}
		want := own
		if name == "max_wal_senders" {
			want += spareSenders
		}
		want = max(want, m.MinSettings[name])
		if !m.Primary {
			want = max(want, replayed[name])
		}
		if want != own {
			out = append(out, [2]string{name, strconv.Itoa(want)})
		}
	}
	return out
}

// walLevel is the highest of the levels given, at least replica.
func walLevel(levels ...string) string {
	for _, l := range levels {
		if strings.EqualFold(l, "logical") {
			return "logical"
		}
	}
	return "replica"
}

func (s *Server) socketDirs() string {
	dirs := []string{`"` + s.SocketDir + `"`}
	if s.ClientSocketDir != "" && s.ClientSocketDir != s.SocketDir {
		dirs = append(dirs, `"`+s.ClientSocketDir+`"`)
	}
	return strings.Join(dirs, ",")
}
