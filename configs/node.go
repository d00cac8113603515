// Package configs reads the node file, understudy.yaml: what one host needs to
// know before it can talk to anybody. The example files beside this package are
// also its manual. What concerns the whole group is policy, and in the ledger.
package configs

import (
	"path/filepath"
	"strconv"
	"time"
)

// The kinds of node.
const (
	KindData    = "data"    // runs a PostgreSQL
	KindWitness = "witness" // stores WAL and votes, runs no database
)

// Node is the content of a node file with the defaults filled in. It is
// read-only after Load.
type Node struct {
	// Name of this node in its group, also in peers' files. Required.
	Name string `yaml:"name"`
	// Group is the name of the group. Required, equal on all nodes.
	Group string `yaml:"group"`
	// Kind is KindData or KindWitness. Default KindData.
	Kind string `yaml:"kind"`
	// StateDir holds the spool, the fence and the ledger. Required. Losing it
	// makes this node a new member.
	StateDir string `yaml:"state_dir"`
	// RunDir holds sockets and the start permit; it may be emptied by a boot.
	// Default /run/understudy as root, else understudy in $XDG_RUNTIME_DIR.
	// Two daemons on one host need two.
	RunDir string `yaml:"run_dir"`
	// Listen is the host:port for the other nodes. Default 0.0.0.0:7420.
	Listen string `yaml:"listen"`
	// Advertise is the host:port under which the other nodes reach Listen.
	// Default: Listen, with the host's name where Listen names no address.
	Advertise string `yaml:"advertise"`
	// HTTP is the host:port of status, feed, health and metrics; HTTPOff turns
	// it off. Default 127.0.0.1:7421.
	HTTP string `yaml:"http"`
	// Peers are the other nodes to contact at first; afterwards the ledger
	// names the members.
	Peers []Peer `yaml:"peers"`
	// TLS names the files of this node's certificate.
	TLS TLS `yaml:"tls"`
	// PostgreSQL is required for KindData and refused for KindWitness.
	PostgreSQL *PostgreSQL `yaml:"postgresql"`
	// Hooks are programs to run when the node changes its role. Refused for
	// KindWitness.
	Hooks Hooks `yaml:"hooks"`
	// Secrets are the passwords and keys that the policy names, for locations of
	// backups. Their values are nowhere but where an entry points.
	Secrets map[string]Secret `yaml:"secrets"`
	// Log says where the daemon's own log goes.
	Log Log `yaml:"log"`

	// file is where the node was read from, for error messages.
	file string
	// lines maps the path of a key to its line in file.
	lines map[string]int
}

// HTTPOff is the value of Node.HTTP that opens no HTTP listener.
const HTTPOff = "off"

// Peer is another node of the group.
type Peer struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port, as in that node's Advertise
}

// TLS names the PEM files that identify this node to the others. The defaults
// are node.crt, node.key and ca.crt in the folder tls of StateDir, where `init`
// and `join` put them.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

// PostgreSQL describes the server that the daemon starts and stops.
type PostgreSQL struct {
	// BinDir holds postgres, pg_ctl, initdb and pg_rewind. Required.
	BinDir string `yaml:"bin_dir"`
	// DataDir is the data directory. Required. It may be missing or empty on a
	// node that is to be seeded.
	DataDir string `yaml:"data_dir"`
	// Port for clients. Default 5432.
	Port int `yaml:"port"`
	// Listen are the addresses for clients. Default localhost.
	Listen []string `yaml:"listen"`
	// SocketDir is a further folder with a socket for local clients. Default:
	// none.
	SocketDir string `yaml:"socket_dir"`
	// Account is the operating system account that runs PostgreSQL when the
	// daemon runs as root. Default postgres.
	Account string `yaml:"account"`
	// Superuser is the database role that the daemon uses. Default postgres.
	Superuser string `yaml:"superuser"`
	// ClientHBA are the lines of pg_hba.conf for clients; the daemon writes the
	// file and takes these lines out while it locks clients out. Default:
	// passwords (scram-sha-256) from this host.
	ClientHBA []string `yaml:"hba"`
	// Parameters are settings of PostgreSQL. Those on which the safety of the
	// group rests are refused here.
	Parameters map[string]string `yaml:"parameters"`
}

// Hooks names the operator's programs for changes of role. Each is an absolute
// path with arguments separated by blanks; there is no quoting and no shell.
// Empty: none.
type Hooks struct {
	// BeforeSwitchover runs on the primary before it stops for a planned
	// switchover; its failure gives the switchover up.
	BeforeSwitchover string `yaml:"before_switchover"`
	// BeforePromotion runs on the node that becomes primary, before PostgreSQL
	// is promoted. Clients wait for it.
	BeforePromotion string `yaml:"before_promotion"`
	// AfterPromotion runs after the new primary let clients in, and on a primary
	// that stays one although BeforeSwitchover was begun.
	AfterPromotion string `yaml:"after_promotion"`
	// AfterDemotion runs after the PostgreSQL of a primary was stopped.
	AfterDemotion string `yaml:"after_demotion"`
	// AfterStandby runs on a node that follows again after it was primary.
	AfterStandby string `yaml:"after_standby"`
	// Timeout is the limit of each hook. Default 10 s.
	Timeout time.Duration `yaml:"timeout"`
	// User is the operating system account that runs the hooks when the daemon
	// runs as root. Empty: PostgreSQL.Account.
	User string `yaml:"user"`
}

// Commands are the hooks that are set, under their keys.
func (h Hooks) Commands() map[string]string {
	m := map[string]string{}
	for _, c := range h.commands() {
		if c.line != "" {
			m[c.key] = c.line
		}
	}
	return m
}

// hookCommand is one hook and its key below "hooks".
type hookCommand struct{ key, line string }

// commands are all hooks, in the order of the manual.
func (h Hooks) commands() []hookCommand {
	return []hookCommand{
		{"before_switchover", h.BeforeSwitchover}, {"before_promotion", h.BeforePromotion},
		{"after_promotion", h.AfterPromotion}, {"after_demotion", h.AfterDemotion}, {"after_standby", h.AfterStandby},
	}
}

// Log says where the daemon's own log goes.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level"`
	// File is the log file; empty means standard error.
	File string `yaml:"file"`
}

// File is the path from which the node was read.
func (n *Node) File() string { return n.file }

// AdminSocket is the socket of the local commands.
func (n *Node) AdminSocket() string { return filepath.Join(n.RunDir, "admin.sock") }

// GuardSocket is the socket between the daemon and PostgreSQL's parent.
func (n *Node) GuardSocket() string { return filepath.Join(n.RunDir, "guard.sock") }

// WALSocketDir is the folder of the sockets on which the daemon gives WAL to
// the local PostgreSQL. The database account may enter it.
func (n *Node) WALSocketDir() string { return filepath.Join(n.RunDir, "wal") }

// WALGetSocket is the socket that the wal-get command asks for whole segments.
func (n *Node) WALGetSocket() string { return filepath.Join(n.WALSocketDir(), "get.sock") }

// PGSocketDir is the folder of PostgreSQL's socket for the daemon.
func (n *Node) PGSocketDir() string { return filepath.Join(n.RunDir, "pg") }

// EventsFile is where the daemon keeps its numbered events.
func (n *Node) EventsFile() string { return filepath.Join(n.StateDir, "events.jsonl") }

// maxSocketPath is the longest path of a unix socket that Linux takes, in
// bytes: sun_path holds 108 with its closing zero.
const maxSocketPath = 107

// pgSocketName is the name that PostgreSQL and its clients give the socket of a
// port.
func pgSocketName(port int) string { return ".s.PGSQL." + strconv.Itoa(port) }

// longestSocket is the longest path of a socket under RunDir, whatever the
// port.
func (n *Node) longestSocket() string {
	longest := ""
	for _, s := range []string{
		n.AdminSocket(), n.GuardSocket(), n.WALGetSocket(),
		filepath.Join(n.WALSocketDir(), pgSocketName(65535)),
		filepath.Join(n.PGSocketDir(), pgSocketName(65535)),
	} {
		if len(s) > len(longest) {
			longest = s
		}
	}
	return longest
}
