// Package integration holds tests of whole groups: the daemon's own binary,
// real PostgreSQL, real sockets. Package cluster starts and ends them.
//
// make test leaves out those that go once more, in other surroundings, over a
// road that another one or the simulation covers, for the sake of its time;
// UNDERSTUDY_INTEGRATION=all runs them, as make groups does.
package integration
