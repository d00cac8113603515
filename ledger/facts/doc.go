// Package facts holds what a group has agreed on and the one function that
// changes it: Apply takes a State and a Command and returns the next State and
// an Outcome.
//
// The package is pure and deterministic: times, ids and everything random come
// inside commands. Apply never changes its input, so a State may be handed to
// any number of readers. Apply trusts no caller: every rule that keeps two
// primaries apart is checked here, once more, whatever the proposer checked.
package facts
