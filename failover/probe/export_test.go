package probe

import (
	"context"
	"time"
)

// ParseStatus is parseStatus, for tests.
var ParseStatus = parseStatus

// FakeDisk stands in for the machine's; each of its calls lasts as long as
// Delay does.
type FakeDisk struct{ Delay func() }

func (f FakeDisk) list(data string) []string { f.Delay(); return []string{data} }

func (f FakeDisk) look(string) (look, error) {
	f.Delay()
	return look{dev: 1, free: 1 << 40, inodes: true}, nil
}

func (f FakeDisk) write(string, bool) error { f.Delay(); return nil }

// On makes d use f.
func (f FakeDisk) On(d *Disk) *Disk { d.disk = f; return d }

// LookAt makes a watch see processes through f.
func (c Config) LookAt(f func(pid int) (Process, error)) Config { c.process = f; return c }

// CheckIdle is a round while no server runs.
func (d *Disk) CheckIdle() []Finding { return d.check(context.Background(), false) }

// Clock makes s read the time from now.
func (s *Server) Clock(now func() time.Duration) { s.now = now }
