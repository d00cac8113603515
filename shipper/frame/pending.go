package frame

// Pending is the number of bytes that were read from the stream but not yet
// returned by Next: zero means that Next would have to wait for the peer.
func (r *Reader) Pending() int { return r.end - r.pos }
