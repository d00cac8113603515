package guard

import "time"

// lease computes when a primary must end. All times are Boottime. It is a pure
// value: the guard asks it after every change and at least every 100 ms.
type lease struct {
	primary bool
	length  time.Duration // Launch.Lease
	orphan  time.Duration // Launch.Orphan
	contact time.Duration // last majority contact
	until   time.Duration // end of an announced restart
	// orphaned is when the daemon's socket closed; zero while a daemon is
	// connected.
	orphaned time.Duration
}

// renew records a majority contact. A time in the future counts as now, an
// older one than known changes nothing.
func (l *lease) renew(contact, now time.Duration) {
	l.contact = max(l.contact, min(contact, now))
}

// extend keeps the server until the given time whatever else happens; an
// earlier time, zero included, takes that back.
func (l *lease) extend(until, now time.Duration) { l.until = min(until, now+maxExtend) }

// setPrimary puts the server under the lease, which starts now, or frees it.
func (l *lease) setPrimary(primary bool, now time.Duration) {
	if primary && !l.primary {
		l.contact = max(l.contact, now)
	}
	l.primary = primary
}

// connected and disconnected follow the daemon's socket.
func (l *lease) connected()                     { l.orphaned = 0 }
func (l *lease) disconnected(now time.Duration) { l.orphaned = now }

// end is when the server must end; ok is false when it has no lease.
func (l *lease) end() (at time.Duration, ok bool) {
	if !l.primary {
		return 0, false
	}
	at = l.contact + l.length
	if l.orphaned != 0 {
		at = min(at, l.orphaned+l.orphan)
	}
	return max(at, l.until), true
}

// why says in words what ran out.
func (l *lease) why() string {
	if l.orphaned != 0 && l.orphaned+l.orphan <= l.contact+l.length {
		return "the daemon was gone for " + l.orphan.String()
	}
	return "no majority contact for " + l.length.String()
}
