package configs

import (
	"slices"
	"strings"
)

// refusedParameters are the settings of PostgreSQL that a node file may not
// set, each with the end of the sentence "<name> ...".
func refusedParameters() map[string]string {
	const (
		forced  = "is set by understudy, because the safety of commits rests on it"
		road    = "is set by understudy, which feeds the standbys"
		restore = "is set by understudy for the time of a restore"
		layout  = "is set by understudy, which owns that file or folder"
		policy  = "is policy of the group; see understudy policy"
	)
	return map[string]string{
		"fsync": forced, "full_page_writes": forced, "restart_after_crash": forced, "hot_standby": forced,
		"wal_log_hints": forced, "data_sync_retry": forced, "ignore_invalid_pages": forced,
		"synchronous_standby_names": forced,

		"primary_conninfo": road, "primary_slot_name": road, "restore_command": road,
		"wal_receiver_status_interval": road, "wal_retrieve_retry_interval": road,
		"wal_receiver_create_temp_slot": road, "max_slot_wal_keep_size": road,
		"idle_replication_slot_timeout": road, "promote_trigger_file": road, "archive_cleanup_command": road,

		"recovery_target": restore, "recovery_target_action": restore, "recovery_target_inclusive": restore,
		"recovery_target_lsn": restore, "recovery_target_name": restore, "recovery_target_time": restore,
		"recovery_target_timeline": restore, "recovery_target_xid": restore, "recovery_end_command": restore,

		"data_directory": layout, "config_file": layout, "hba_file": layout,
		"listen_addresses":         "is set by the key postgresql.listen",
		"port":                     "is set by the key postgresql.port",
		"unix_socket_directories":  "is set by the key postgresql.socket_dir",
		"recovery_min_apply_delay": policy,
	}
}

// checkParameters refuses names and values that cannot be written to a
// configuration file, and the settings that are not the user's.
func (n *Node) checkParameters(params map[string]string) *Error {
	if len(params) > maxParameters {
		return n.fail("postgresql.parameters", "there are more than %d", maxParameters)
	}
	refused := refusedParameters()
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names) // the same mistake gives the same message every time
	seen := map[string]string{}
	for _, name := range names {
		key, value, lower := "postgresql.parameters."+name, params[name], strings.ToLower(name)
		if !parameterPattern.MatchString(name) {
			return n.fail(key, "%q is no name of a PostgreSQL setting", name)
		}
		if why, ok := refused[lower]; ok {
			return n.fail(key, "%s %s; remove it", lower, why)
		}
		if other, ok := seen[lower]; ok {
			return n.fail(key, "it is the same setting as %s", other)
		}
		seen[lower] = name
		if len(value) > maxValueBytes || strings.ContainsAny(value, "\r\n\x00") {
			return n.fail(key, "the value must be one line of at most %d bytes", maxValueBytes)
		}
		if lower == "wal_level" && strings.EqualFold(strings.TrimSpace(value), "minimal") {
			return n.fail(key, "wal_level must be replica or logical, because standbys cannot follow with minimal")
		}
	}
	return nil
}
