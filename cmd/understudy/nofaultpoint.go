//go:build !faultpoints

package main

// faultPoints is nil: only a binary built for tests interrupts itself.
func faultPoints() func(step string) { return nil }
