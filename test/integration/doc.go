// Package integration holds tests of whole groups: the daemon's own binary,
// real PostgreSQL, real sockets. Package cluster starts and ends them.
package integration
