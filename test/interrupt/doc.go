// Package interrupt holds the tests in which every step of every change of role
// is interrupted on real processes: a daemon or a whole node is killed there and
// started again. Whatever was interrupted, the group must end, without a human,
// with one open primary, healthy, and with every acknowledged row.
//
// Every run of the tests has a few of the cases; UNDERSTUDY_INTERRUPT=all has
// them all, which takes a quarter of an hour:
//
//	UNDERSTUDY_INTERRUPT=all go test -count=1 -timeout 40m ./test/interrupt
package interrupt
