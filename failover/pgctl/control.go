package pgctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"understudy/shipper/pos"
)

// Control is the content of pg_control.
type Control struct {
	SystemID            uint64
	State               string  // "in production", "shut down", "shut down in recovery", …
	Checkpoint          pos.LSN // start of the latest checkpoint's record
	Redo                pos.LSN // where a restart begins to replay
	Timeline            pos.Timeline
	PrevTimeline        pos.Timeline
	MinRecovery         pos.LSN // zero when not needed
	MinRecoveryTimeline pos.Timeline
	SegSize             int64 // bytes
	BlockSize           int64 // bytes
	DataChecksums       bool
	WALLogHints         bool
	WALLevel            string
	// Standby holds what a standby must match, by the names of the settings.
	Standby        map[string]int
	MaxConnections int
}

// CleanShutdown tells whether the last server on the directory ended with a
// shutdown checkpoint as a primary.
func (c Control) CleanShutdown() bool { return c.State == "shut down" }

// Control reads pg_control through pg_controldata, which works whether the
// server runs or not. ErrWrongMajor is returned for a directory of another
// major version.
func (s *Server) Control(ctx context.Context) (Control, error) {
	if err := s.checkMajor(); err != nil {
		return Control{}, err
	}
	out, msg, err := s.toolSaid(ctx, "pg_controldata", "-D", s.DataDir)
	if err != nil {
		return Control{}, err
	}
	// Until version 16 its warning stands before the values, since then with
	// the messages.
	return ParseControl(msg + out)
}

// standbyNames maps pg_controldata's wording to the names of the settings.
var standbyNames = [...][2]string{
	{"max_connections setting", "max_connections"},
	{"max_worker_processes setting", "max_worker_processes"},
	{"max_wal_senders setting", "max_wal_senders"},
	{"max_prepared_xacts setting", "max_prepared_transactions"},
	{"max_locks_per_xact setting", "max_locks_per_transaction"},
}

// ParseControl reads what pg_controldata printed in the C locale.
func ParseControl(out string) (Control, error) {
	if strings.Contains(out, "alculated CRC checksum does not match") { // with a small letter since version 17
		return Control{}, fmt.Errorf("pg_control is damaged: its checksum does not match")
	}
	p := controlParser{fields: make(map[string]string)}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			p.fields[k] = strings.TrimSpace(v)
		}
	}
	c := Control{
		SystemID:            p.number("Database system identifier"),
		State:               p.text("Database cluster state"),
		Checkpoint:          p.lsn("Latest checkpoint location"),
		Redo:                p.lsn("Latest checkpoint's REDO location"),
		Timeline:            pos.Timeline(p.number("Latest checkpoint's TimeLineID")),
		PrevTimeline:        pos.Timeline(p.number("Latest checkpoint's PrevTimeLineID")),
		MinRecovery:         p.lsn("Minimum recovery ending location"),
		MinRecoveryTimeline: pos.Timeline(p.number("Min recovery ending loc's timeline")),
		SegSize:             int64(p.number("Bytes per WAL segment")),
		BlockSize:           int64(p.number("Database block size")),
		DataChecksums:       p.number("Data page checksum version") != 0,
		WALLogHints:         p.text("wal_log_hints setting") == "on",
		WALLevel:            p.text("wal_level setting"),
		Standby:             make(map[string]int, len(standbyNames)),
	}
	for _, n := range standbyNames {
		c.Standby[n[1]] = int(p.number(n[0]))
	}
	c.MaxConnections = c.Standby["max_connections"]
	if p.err != nil {
		return Control{}, p.err
	}
	if c.SegSize < 1<<20 || c.SegSize > 1<<30 || c.SegSize&(c.SegSize-1) != 0 {
		return Control{}, fmt.Errorf("pg_control is damaged: WAL segments of %d bytes", c.SegSize)
	}
	return c, nil
}

// controlParser keeps the first error.
type controlParser struct {
	fields map[string]string
	err    error
}

func (p *controlParser) text(key string) string {
	v, ok := p.fields[key]
	if !ok && p.err == nil {
		p.err = fmt.Errorf("pg_controldata printed no %q", key)
	}
	return v
}

func (p *controlParser) number(key string) uint64 {
	v := p.text(key)
	if p.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		p.err = fmt.Errorf("pg_controldata, %s: %w", key, err)
	}
	return n
}

func (p *controlParser) lsn(key string) pos.LSN {
	v := p.text(key)
	if p.err != nil {
		return 0
	}
	l, err := pos.ParseLSN(v)
	if err != nil {
		p.err = fmt.Errorf("pg_controldata, %s: %w", key, err)
	}
	return l
}
